"""From text to packed, masked, resumable batches."""
