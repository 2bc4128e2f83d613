"""Stages: resumable work over many items."""
