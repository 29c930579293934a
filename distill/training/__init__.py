"""From a recipe to a trained model in a run folder: trainer, progress, stopping, resuming, logs."""
