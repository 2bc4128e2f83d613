"""The published figures, computed per row: n-gram overlap, rank correlation, bootstrap intervals."""
