"""Figures beside peers, on the same data in the same run. Each prints tables and one JSON line last."""
