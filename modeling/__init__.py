"""Configuration, attention backends, model and heads, losses."""
