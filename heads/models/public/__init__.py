"""Public vision-language models without their image tower: the store has its tokens, and the rest
runs here."""
