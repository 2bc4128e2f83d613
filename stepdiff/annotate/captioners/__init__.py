"""Captions of clips."""
