"""Commands: the options of each verb, and what it prints."""
