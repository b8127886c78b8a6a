"""Manta: elastic training and tuning of neural networks on Ray."""

# The one place that says it. Its section heads CHANGELOG.md.
__version__ = "0.2.0"
