"""What compares two clips: every method scores options, ranks targets, writes captions, or refuses a task."""
