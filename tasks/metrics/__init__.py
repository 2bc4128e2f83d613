"""Metrics of the published tasks: captions, rankings, and intervals by resampling."""
