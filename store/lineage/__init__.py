"""The source of rows, and the heads trained on them."""
