"""Configuration, attention backends, the encoder and its heads, and losses."""
