"""Computes vectors, scores or labels of millions of texts and writes them as Parquet."""
