"""Small training runs for tests, in this process or in subprocesses that can be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

SEQUENCE = 64
DROPOUT = {"embedding_dropout": 0.1, "attention_dropout": 0.1, "mlp_dropout": 0.1}
"""Settings of a model whose training draws random numbers in every layer."""


def write_corpus(folder: Path, files: int = 3, documents: int = 40) -> Path:
    """Writes Japanese-looking documents of different lengths; a few are longer than a row."""
    folder.mkdir(parents=True)
    words = ["今日は", "天気が", "とても", "良いので", "公園を", "散歩した。", "明日の", "雨だ。", "猫が", "眠る。"]
    for file in range(files):
        lines = []
        for index in range(documents):
            count = 2 + (index * 7 + file * 5) % 9 * (1 + 7 * (index % 9 == 0))
            text = "".join(words[(index * 3 + file + n * n) % len(words)] for n in range(count))
            lines.append(json.dumps({"text": text}, ensure_ascii=False))
        (folder / f"{file}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_tokenizer(folder: Path, corpus: Path) -> Path:
    """Trains a small tokenizer with the layout of the llm-jp tokenizer."""
    from llm_jp_modernbert.tokenization import train_stand_in, write_tokenizer
    from llm_jp_modernbert.training.data.readers import find_files, read_documents

    texts = [document.text for file in find_files([str(corpus)]) for document in read_documents(file)]
    return Path(write_tokenizer(train_stand_in(texts, 320), folder))


def recipe(corpus: Path, tokenizer: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Keys of a recipe of forty steps, more than two epochs of the corpus."""
    keys = {
        "model": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "local_attention": 16,
            "max_position_embeddings": 128,
        },
        "tokenizer": str(tokenizer),
        "train_data": str(corpus),
        "output_dir": str(out),
        "sequence_length": SEQUENCE,
        "per_device_train_batch_size": 4,
        "block_characters": 1500,
        "max_steps": 40,
        "learning_rate": 1e-3,
        "warmup_steps": 4,
        "weight_decay": 0.01,
        "save_steps": 5,
        "save_total_limit": 3,
        "logging_steps": 3,
        "use_cpu": True,
    }
    return {**keys, **changes}


def load(keys: dict[str, Any]) -> Any:
    """Loads the keys from a recipe file."""
    from llm_jp_modernbert.training.recipe.loading import load_recipe

    path = Path(keys["output_dir"]).with_suffix(".recipe.yaml")
    path.write_text(json.dumps(keys), encoding="utf-8")
    return load_recipe(str(path))


def run(
    keys: dict[str, Any],
    record: Path | None = None,
    kill: float | None = None,
    prepare: Any = None,
    losses: list[float] | None = None,
) -> Any:
    """Trains in this process; `kill=17.5` kills it between two batches of step 18, `kill=17` after step 17."""
    import torch
    from transformers import TrainerCallback

    from llm_jp_modernbert.training.pretrain import pretrain
    from llm_jp_modernbert.training.trainer import PretrainingTrainer

    class Recording(PretrainingTrainer):
        """Records the samples of every step."""

        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            batches = super().get_batch_samples(*args, **kwargs)
            if record is not None:
                samples = [info.samples.tolist() for info in self.counter.infos]
                line = json.dumps({"step": self.state.global_step + 1, "samples": samples})
                with open(f"{record}.{self.args.process_index}", "a", encoding="utf-8") as file:
                    file.write(line + "\n")
            return batches

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().training_step(*args, **kwargs)
            if losses is not None:
                losses.append(float(loss))
            return loss

    class Kill(TrainerCallback):
        """Ends the process as a power failure would."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if kill is not None and state.global_step == kill:
                os.kill(os.getpid(), signal.SIGKILL)

        def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if kill is not None and state.global_step + 0.5 == kill:
                os.kill(os.getpid(), signal.SIGKILL)

    import llm_jp_modernbert.training.trainer as module

    torch.set_num_threads(1)
    module.PretrainingTrainer = Recording  # type: ignore[misc]
    try:
        return pretrain(load(keys), callbacks=[Kill()], prepare=prepare)
    finally:
        module.PretrainingTrainer = PretrainingTrainer  # type: ignore[misc]


def run_apart(
    keys: dict[str, Any], record: Path | None = None, kill: float | None = None, ranks: int = 1
) -> list[int]:
    """Trains in one or more forked subprocesses and returns their exit codes."""
    # Imported before the fork to save time.
    import llm_jp_modernbert.training.pretrain
    import llm_jp_modernbert.training.trainer  # noqa: F401

    return call_apart(lambda: run(keys, record, kill), ranks)


def call_apart(function: Callable[[], object], ranks: int) -> list[int]:
    """Calls a function in forked subprocesses, each of which is a rank, and returns their exit codes."""
    context = multiprocessing.get_context("fork")
    port = free_port()
    processes = [context.Process(target=_rank, args=(function, rank, ranks, port)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    # A rank waits for a long time if others have ended.
    for process in processes:
        process.kill()
        process.join()
    return [process.exitcode or 0 for process in processes]


def _rank(function: Callable[[], object], rank: int, ranks: int, port: int) -> None:
    from accelerate.state import AcceleratorState, GradientState, PartialState

    # The fork inherits the state of a single process.
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    GradientState._reset_state()
    if ranks > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(ranks),
            LOCAL_WORLD_SIZE=str(ranks),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    function()


def free_port() -> int:
    """An unused port, which the system does not give to other sockets before it is used."""
    # Systems choose ports above these. Tests seed other generators, so that all processes would draw the same ports.
    for port in random.SystemRandom().sample(range(10_000, 16_000), 100):
        with socket.socket() as server, suppress(OSError):
            server.bind(("127.0.0.1", port))
            return port
    raise OSError("no unused port")


def samples_by_step(record: Path, ranks: int = 1) -> dict[int, list[Any]]:
    """The samples of each step and rank; if a step was repeated, those of the last time."""
    steps: dict[int, list[Any]] = {}
    for rank in range(ranks):
        mine = [json.loads(line) for line in Path(f"{record}.{rank}").read_text(encoding="utf-8").splitlines()]
        for step, samples in {entry["step"]: entry["samples"] for entry in mine}.items():
            steps.setdefault(step, []).append(samples)
    return steps


def assert_equal_runs(one: Path, other: Path, steps: int = 40) -> None:
    """Asserts that logged losses, weights and optimizer states of two runs are equal bit for bit."""
    import torch
    from safetensors.torch import load_file

    keys = ("step", "loss", "grad_norm", "learning_rate", "tokens", "documents", "epoch")
    histories = [json.loads((run / "trainer_state.json").read_text())["log_history"] for run in (one, other)]
    losses = [[{key: entry[key] for key in keys} for entry in log if "loss" in entry] for log in histories]
    assert losses[0] == losses[1]
    weights, others = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    states = [
        torch.load(run / f"checkpoint-{steps}" / "optimizer.pt", weights_only=True)["state"] for run in (one, other)
    ]
    assert states[0].keys() == states[1].keys()
    for key, state in states[0].items():
        assert all(torch.equal(state[name], states[1][key][name]) for name in state)
