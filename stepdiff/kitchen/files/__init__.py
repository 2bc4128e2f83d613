"""The text files of a world."""
