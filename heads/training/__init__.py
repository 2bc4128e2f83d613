"""Training: recipes, tasks, the loop, checkpoints, and the lineage of a trained head."""
