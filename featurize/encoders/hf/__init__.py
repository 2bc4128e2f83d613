"""Image and video models of transformers' `AutoModel`, as encoders."""
