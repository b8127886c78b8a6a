"""What runs in the driver: one process that has the workers started and follows them."""
