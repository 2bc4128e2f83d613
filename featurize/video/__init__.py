"""Video files: timelines, frames and pictures."""
