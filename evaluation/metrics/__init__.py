"""Metrics that no library has, one folder each, in the form that `evaluate.load(FOLDER)` reads."""
