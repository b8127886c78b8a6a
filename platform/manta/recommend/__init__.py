"""Finds a run's learning rate, micro-batch and batch schedule by sweeps, and checks the result."""
