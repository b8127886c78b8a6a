"""What a command says of a run on the terminal."""
