"""The run record, Weights & Biases, the console and the HTML report."""
