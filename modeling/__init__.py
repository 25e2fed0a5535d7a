"""Configuration, attention backends, the model and its heads, losses."""
