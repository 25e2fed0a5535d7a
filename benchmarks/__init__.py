"""Speed and memory of this library against transformers; run `python -m benchmarks --help`."""
