"""Readers of the evaluation datasets."""
