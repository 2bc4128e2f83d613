"""Where rows come from, and what was trained on them."""
