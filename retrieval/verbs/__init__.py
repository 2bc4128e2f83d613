"""Commands: the options of each verb, and its output."""
