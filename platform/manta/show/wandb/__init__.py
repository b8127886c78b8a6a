"""A run and a sweep in Weights & Biases: a process of its own sends them."""
