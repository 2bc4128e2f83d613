"""Questions and answers about pairs of clips."""
