"""What follows once models are measured: promotion, drift, blind pairs, economics, retraining."""
