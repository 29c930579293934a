"""SUPERB tasks, clean and distorted."""
