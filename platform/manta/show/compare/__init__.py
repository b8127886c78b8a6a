"""Compares runs or trials: which is best, by how much, and how sure that is."""
