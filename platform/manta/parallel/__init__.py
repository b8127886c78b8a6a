"""How a model is laid over the ranks of a group."""
