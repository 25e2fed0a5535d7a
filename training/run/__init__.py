"""Files of a run: checkpoints, run directory, published revisions, averages."""
