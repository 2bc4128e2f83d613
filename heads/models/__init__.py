"""The models: projector, language model, video language model, and public vision-language
models."""
