"""Adaptation of a model to a domain: continued pre-training, and changes of its vocabulary."""
