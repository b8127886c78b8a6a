"""Manta: elastic training and tuning of neural networks on Ray."""

__version__ = "0.1.0"
