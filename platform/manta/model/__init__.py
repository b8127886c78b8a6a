"""The model of a run: found, tried, built, and what is computed in its forward pass."""
