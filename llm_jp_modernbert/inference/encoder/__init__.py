"""Vectors, predictions and labels of many texts, by any backend."""
