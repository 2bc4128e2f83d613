"""Queries: what is searched for, which clips are eligible, and pages of results."""
