"""Command lines: options, recipes, exit codes."""
