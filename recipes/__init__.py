"""Recipes: one YAML per row of the paper's tables, and the small ones that run on a laptop."""
