"""Reading and writing rows of views."""
