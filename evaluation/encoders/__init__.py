"""Any encoder by name: tokenizer, masked-LM head and embeddings."""
