"""Queries: the search vector, the eligible clips, and pages of results."""
