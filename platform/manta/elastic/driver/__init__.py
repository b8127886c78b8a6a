"""Runs in the driver: the process that starts the workers and follows them."""
