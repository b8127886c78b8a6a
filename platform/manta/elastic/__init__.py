"""Training on Ray: the worker group, its driver, and what passes between them."""
