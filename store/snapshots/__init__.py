"""The state of a store at one moment: snapshots, and the source of its rows."""
