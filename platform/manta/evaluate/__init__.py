"""Evaluation of a trained model: evaluators, what they find, and gates that decide by it."""
