"""What is checked before a worker is held, and after a run."""
