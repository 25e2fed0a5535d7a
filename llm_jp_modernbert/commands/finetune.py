"""`llm-jp-modernbert finetune`: fine-tunes a model on the user's data."""

from __future__ import annotations

from llm_jp_modernbert.core.entry_points import end_processes
from llm_jp_modernbert.core.terminal import quiet_libraries
from llm_jp_modernbert.training.finetuning.options import FinetuneOptions

from .options import takes


@takes(FinetuneOptions)
def finetune(options: FinetuneOptions) -> None:
    """Fine-tunes a model on your own data and keeps it with its scores.

    Examples:

    * `llm-jp-modernbert finetune classification ORG/NAME --train reviews.csv --out my-classifier`

    * `llm-jp-modernbert finetune ner ORG/NAME --train train.jsonl --test test.jsonl --out my-tagger --seeds 3`

    To use several processes, replace `llm-jp-modernbert finetune` by
    `accelerate launch -m llm_jp_modernbert.training.finetuning.finetune`.
    """
    from llm_jp_modernbert.training.finetuning.finetune import finetune as run

    quiet_libraries()
    run(options)
    end_processes()
