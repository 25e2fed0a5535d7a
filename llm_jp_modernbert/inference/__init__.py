"""Loading models and tokenizers, Auto-class registration, and fill-mask."""
