"""Language models that answer messages: one of transformers in this process, or one at a server."""
