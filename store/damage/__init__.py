"""What is damaged in a store, and how damaged rows become absent."""
