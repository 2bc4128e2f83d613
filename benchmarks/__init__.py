"""Figures compared with peers, on the same data in the same run. Each prints tables and one JSON
line last."""

import stepdiff_core  # noqa: F401  # before the slow imports: an interrupt is one line
