"""What `python -m store` does."""
