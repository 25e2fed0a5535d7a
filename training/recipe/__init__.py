"""Recipes: dataclasses, YAML loading and validation."""
