"""Optimizers: one object for all of a model's weights, whichever updates they get."""
