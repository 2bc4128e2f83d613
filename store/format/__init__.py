"""The format on disk: layout, shards, quantised values, metadata."""
