"""What shows a training while it runs: the loss curve, and experiment trackers."""
