"""internvideo."""
