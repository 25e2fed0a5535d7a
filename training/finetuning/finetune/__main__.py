"""`python -m llm_jp_modernbert.training.finetuning.finetune` is the command `finetune`."""

from llm_jp_modernbert.core.entry_points import run_command

run_command("finetune")
