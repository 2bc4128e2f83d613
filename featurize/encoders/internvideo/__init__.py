"""InternVideo-MM."""
