"""One script per runtime, run by `harness.py` in an interpreter that need not have this package."""
