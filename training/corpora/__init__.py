"""Preparing a corpus: filters, deduplication, decontamination and splits, on datatrove's engine."""
