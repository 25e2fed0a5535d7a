"""Fine-tunes a tagger in this process or in several: `launched_finetuning.py MODEL OUT BATCH_SIZE`."""

from __future__ import annotations

import sys
from pathlib import Path


def finetune(path: Path, out: Path, batch_size: int) -> None:
    """Trains on 19 sentences of different lengths; with batches of 6, the last one has a single sentence."""
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, set_seed

    from llm_jp_modernbert import LlmJpModernBertForTokenClassification
    from llm_jp_modernbert.training.finetuning.arguments import finetuning_arguments
    from llm_jp_modernbert.training.finetuning.ner import Ner, Sentence, tags_of
    from llm_jp_modernbert.training.finetuning.options import FinetuneOptions
    from llm_jp_modernbert.training.finetuning.trainer import TrainerSettings, train_model

    keys = [
        "optim=sgd",
        "use_cpu=true",
        "learning_rate=0.05",
        "num_train_epochs=2",
        f"per_device_train_batch_size={batch_size}",
    ]
    options = FinetuneOptions("ner", str(path), keys)
    arguments = finetuning_arguments(options, out / "run", seed=1)
    task = Ner(tags_of(["食"]))
    examples = [Sentence("今日の" * (1 + 5 * n % 7) + "カレー", ()) for n in range(19)]
    examples = [Sentence(example.text, ((len(example.text) - 3, len(example.text), "食"),)) for example in examples]
    tokenizer = AutoTokenizer.from_pretrained(path)
    rows = task.encode(tokenizer, examples, 64)
    set_seed(1)
    model = LlmJpModernBertForTokenClassification.from_pretrained(path, **task.head_settings())
    trainer = train_model(model, task, tokenizer, rows, rows, examples, arguments, TrainerSettings(50))
    if trainer.is_world_process_zero():
        save_file(model.state_dict(), out / "trained.safetensors")
        trainer.state.save_to_json(str(out / "state.json"))


if __name__ == "__main__":
    finetune(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
