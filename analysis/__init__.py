"""Looking into the models: t-SNE of their representations, and the figures."""
