"""Benchmarks of others: readers of their published files, prompts, scorers and published
figures."""
