"""Exact search: float32 products decided in float64."""
