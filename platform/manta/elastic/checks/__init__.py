"""Checks made before workers are held, and after a run."""
