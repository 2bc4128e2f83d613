"""Indexes: built in parts, checked when opened."""
