"""Ray: the connection, and the worker pool."""
