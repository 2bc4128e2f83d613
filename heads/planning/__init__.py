"""The plan of a training before it runs: a recipe's needs of memory, network, store and time on
given cards."""
