"""Verbs of `python -m store`."""
