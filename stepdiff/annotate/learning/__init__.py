"""A head of words from a user's own videos and what is said in them."""
