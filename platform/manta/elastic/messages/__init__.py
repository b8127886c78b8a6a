"""Messages between the driver, Ray Train's controller and the workers."""
