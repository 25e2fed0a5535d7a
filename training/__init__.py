"""Pre-training and fine-tuning of the models."""
