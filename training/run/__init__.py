"""The files of a run: checkpoints, run directory, published checkpoints, averaging."""
