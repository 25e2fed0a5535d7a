"""The metric pseudo-perplexity."""
