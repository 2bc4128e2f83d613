"""The catalog: keys, rows and their metadata."""
