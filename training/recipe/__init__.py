"""Recipes of pre-training: keys, YAML files and validation."""
