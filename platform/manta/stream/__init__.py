"""The order of samples, and how each gets from its shard to a rank."""
