"""The demonstration: from raw text to a small trained model."""
