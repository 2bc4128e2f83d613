"""What is trained on cached features, and what judges it."""
