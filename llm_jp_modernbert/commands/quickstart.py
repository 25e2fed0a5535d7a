"""`llm-jp-modernbert quickstart`: trains a small model in minutes."""

from __future__ import annotations

import logging

from rich.console import Console

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.quickstart.quickstart import QuickstartOptions, run_quickstart

from .options import takes


@takes(QuickstartOptions)
def quickstart(options: QuickstartOptions) -> None:
    """Trains a small model from raw Japanese text in minutes.

    Trains a tokenizer, trains the model with a short and then a long context, measures its masked accuracy on
    held-out text before and after, saves it as a plain ModernBERT checkpoint, and fills five masks with it.

    Examples:

    * `llm-jp-modernbert quickstart`

    * `llm-jp-modernbert quickstart --data texts.jsonl.gz --tokenizer llm-jp-tokenizer-100k.ver3.0b1.model`
    """
    if options.files and not options.data:
        raise UsageError(f"{options.files[0]}: name your own texts with --data {' '.join(options.files)}")
    # The training directories are temporary, so messages about them would only confuse.
    logging.getLogger("llm_jp_modernbert.training.pretrain").setLevel(logging.WARNING)
    run_quickstart(options, Console())
