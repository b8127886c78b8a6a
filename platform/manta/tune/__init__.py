"""Sweeps: spaces, stage tree, searcher and scheduler for Ray Tune."""
