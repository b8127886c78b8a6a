"""Runs and trials side by side: who is best, by how much, how sure."""
