"""Places on disk and in object stores: whole files, locks, sealed and plain tables."""
