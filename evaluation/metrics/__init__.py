"""Metrics missing in other libraries, one folder each, loadable with `evaluate.load(FOLDER)`."""
