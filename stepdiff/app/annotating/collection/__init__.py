"""The database of collected annotations, and the rules of assignment."""
