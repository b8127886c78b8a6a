"""Which sample stands at which place, and its way from a token shard to a rank."""
