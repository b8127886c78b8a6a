"""Runs in a worker's process, from its first import to its end."""
