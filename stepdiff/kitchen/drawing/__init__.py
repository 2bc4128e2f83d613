"""The pictures of a world."""
