"""The metric alignment."""
