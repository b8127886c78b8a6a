"""Where a corpus comes from, and corpora that are made of another one: extended, or forgetting."""
