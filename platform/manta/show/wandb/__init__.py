"""Sends runs and sweeps to Weights & Biases, from a separate process."""
