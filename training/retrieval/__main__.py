"""`python -m llm_jp_modernbert.training.retrieval train-embedder BASE …`, and so for the other types of model."""

import sys

from llm_jp_modernbert.core.entry_points import run_command

run_command(sys.argv.pop(1) if len(sys.argv) > 1 else "--help")
