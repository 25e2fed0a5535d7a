"""The metric uniformity."""
