"""The command `finetune`: from the user's data and a base to a directory with the model, its scores and plots.

`accelerate launch -m llm_jp_modernbert.training.finetuning.finetune TASK BASE …` trains with several processes.
"""

from .run import finetune

__all__ = ["finetune"]
