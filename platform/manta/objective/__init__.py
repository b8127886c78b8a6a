"""What is trained on: which sums over samples, and by what they are divided."""
