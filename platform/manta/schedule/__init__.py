"""Learning rate and batch size as pure functions of the tokens consumed."""
