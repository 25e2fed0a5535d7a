"""Steps of datatrove pipelines that tokenize a corpus, for its executors on one machine, Slurm and Ray."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from datatrove.pipeline.base import PipelineStep

from .tokenize_corpus import TokenizeOptions, tokenize_corpus


class TokenizePart(PipelineStep):
    """Tokenizes one part of a corpus in each task; must be the only step of its pipeline.

    Task I of N does the work of `tokenize-corpus --part I/N`, so there can be at most as many tasks as files. A task
    that was killed resumes when it runs again.

    Args:
        options: options of `tokenize-corpus`, without `part` and `merge`.

    Example:
        >>> from datatrove.executor import LocalPipelineExecutor
        >>> options = TokenizeOptions(["corpus/train"], "my-tokenizer", "corpus-tokenized")
        >>> parts = LocalPipelineExecutor([TokenizePart(options)], tasks=8, logging_dir="logs/parts")
        >>> LocalPipelineExecutor([MergeParts(options)], depends=parts, logging_dir="logs/merge").run()
    """

    type = "TOKENIZER"
    name = "token ids"

    def __init__(self, options: TokenizeOptions) -> None:
        super().__init__()
        self.options = options

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Tokenizes part `rank + 1` of `world_size`."""
        totals = tokenize_corpus(replace(self.options, part=f"{rank + 1}/{world_size}"))["totals"]
        for name in ("documents", "tokens", "characters"):
            self.stat_update(name, value=totals[name])


class MergeParts(PipelineStep):
    """Makes one corpus of the parts that `TokenizePart` has written; the only step of a pipeline with one task.

    Args:
        options: the options of `TokenizePart`.
    """

    type = "TOKENIZER"
    name = "merged corpus"

    def __init__(self, options: TokenizeOptions) -> None:
        super().__init__()
        self.options = options

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Checks the parts and writes the manifest."""
        tokenize_corpus(replace(self.options, merge=True))
