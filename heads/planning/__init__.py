"""The plan of a training before it runs: what a recipe needs of memory, network, store and time on
given cards."""
