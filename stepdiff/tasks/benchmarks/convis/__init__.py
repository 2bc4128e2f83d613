"""ConViS-Bench: how similar two clips are in a concept (arXiv 2509.19245)."""
