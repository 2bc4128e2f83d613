"""Objects that a clip really shows."""
