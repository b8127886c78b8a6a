"""What commands print about a run on the terminal."""
