"""The commands that train retrieval models: from data to a directory that plain sentence-transformers loads."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers")
import sentence_transformers
from forked import run_forked

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import lock
from llm_jp_modernbert.training.retrieval.options import (
    EmbedderOptions,
    SparseOptions,
)
from llm_jp_modernbert.training.retrieval.run import Trained, read_trained, train_retrieval
from llm_jp_modernbert.training.retrieval.trainer import RetrievalTrainer

ANIMALS, PLACES = ["猫", "犬", "鳥", "魚", "馬"], ["駅", "港", "丘", "川", "森"]
KEYS = ["learning_rate=1e-3", "num_train_epochs=2", "per_device_train_batch_size=8"]


def rows_of(form: str) -> list[dict[str, Any]]:
    """Twenty-five examples of a form of data."""
    rows: list[dict[str, Any]] = []
    for number in range(25):
        animal, place = ANIMALS[number % 5], PLACES[number // 5]
        text = f"{place}には{animal}がいる。その{animal}は{place}が好きだ。"
        pair = {"query": f"{place}の{animal}はどこ？", "passage": text}
        rows.append(
            {
                "pairs": pair,
                "triplets": {**pair, "negative": f"{place}には{ANIMALS[number % 5 - 1]}がいない。"},
                "scored": {"sentence1": text, "sentence2": f"{animal}がいる。{number}", "score": number % 6},
                "texts": {"text": text},
            }[form]
        )
    return rows


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text(lines(rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def options(modernbert: Path, tmp_path_factory: pytest.TempPathFactory) -> EmbedderOptions:
    """Two seeds, trained on pairs."""
    folder = tmp_path_factory.mktemp("embedder")
    train = write(folder / "train.jsonl", rows_of("pairs"))
    return EmbedderOptions(str(modernbert), KEYS, [train], out=folder / "out", seeds=2)


@pytest.fixture(scope="module")
def finished(options: EmbedderOptions) -> Trained:
    return train_retrieval(options)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_plain_sentence_transformers_loads_the_model(finished: Trained) -> None:
    """In a process without this package, and with the score of the record."""
    texts = {example["query"]: example["passage"] for example in rows_of("pairs")}
    model = sentence_transformers.SentenceTransformer(str(finished.folder))
    assert type(model[0].model).__module__ == "transformers.models.modernbert.modeling_modernbert"
    queries, passages = model.encode_query(list(texts)), model.encode_document(list(texts.values()))
    assert model.similarity(queries, passages).shape == (25, 25)
    assert model.prompts == {"query": "検索クエリ: ", "document": "検索文書: "}


def test_best_seed_and_epoch_are_kept(finished: Trained) -> None:
    record = finished.record
    scores = {seed["seed"]: seed["metrics"]["validation"]["ndcg@10"] for seed in record["seeds"]}
    assert list(scores) == [42, 43]
    assert scores[record["best_seed"]] == max(value for value in scores.values() if value is not None)
    kept = [row for row in finished.rows if row.metric == "ndcg@10" and row.seed == record["best_seed"]]
    assert pytest.approx(scores[record["best_seed"]], abs=1e-6) in [row.value for row in kept]


def test_nothing_of_the_training_remains(finished: Trained, options: EmbedderOptions) -> None:
    assert {"config.json", "model.safetensors", "modules.json", "recipe.yaml", "retrieval.json", "report.md"} <= {
        path.name for path in finished.folder.iterdir()
    }
    assert not list(finished.folder.rglob("checkpoint-*"))
    assert not [name for name in content(finished.folder) if name.endswith((".bin", ".pth", ".pt", "unfinished"))]
    assert sorted(path.name for path in options.out.parent.iterdir()) == ["out", "train.jsonl"]


def test_second_call_returns_the_finished_model(
    finished: Trained, options: EmbedderOptions, caplog: pytest.LogCaptureFixture
) -> None:
    before = content(finished.folder)
    with caplog.at_level(logging.INFO, "llm_jp_modernbert"):
        assert train_retrieval(options).record == finished.record
    assert "is already finished" in caplog.text
    assert content(finished.folder) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "cls"}, "different train-embedder (pooling: mean then, cls now)"),
        ({"overrides": [*KEYS, "weight_decay=0.1"]}, "arguments.weight_decay: 0.01 then, 0.1 now"),
        ({"matryoshka": [16]}, "matryoshka: none then, [16] now"),
    ],
)
def test_different_options_need_a_different_directory(
    finished: Trained, options: EmbedderOptions, changes: dict[str, Any], message: str
) -> None:
    before = content(finished.folder)
    with pytest.raises(UsageError) as raised:
        train_retrieval(replace(options, **changes))
    assert message in str(raised.value)
    assert content(finished.folder) == before


def test_different_type_of_model_needs_a_different_directory(finished: Trained, options: EmbedderOptions) -> None:
    other = SparseOptions(options.base, options.overrides, options.train, out=options.out, seeds=2)
    with pytest.raises(UsageError, match="kind: embedder then, sparse now"):
        train_retrieval(other)


def test_directory_in_use_or_with_other_files_is_refused(options: EmbedderOptions, tmp_path: Path) -> None:
    with lock(tmp_path / "out", "train-embedder"), pytest.raises(UsageError, match="another train-embedder"):
        train_retrieval(replace(options, out=tmp_path / "out"))
    write(tmp_path / "notes.txt", [{}])
    with pytest.raises(UsageError, match="--out"):
        train_retrieval(replace(options, out=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def interrupt_in_step(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Makes training send its process a signal in a step."""
    original = RetrievalTrainer.training_step

    def training_step(self: RetrievalTrainer, *arguments: Any) -> Any:
        if self.state.global_step + 1 == step:
            os.kill(os.getpid(), number)
        return original(self, *arguments)

    monkeypatch.setattr(RetrievalTrainer, "training_step", training_step)


def test_interrupted_command_continues(
    options: EmbedderOptions, finished: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C in the first epoch and a kill in the second, to the weights and scores of an uninterrupted run."""
    command = ["train-embedder", options.base, *KEYS, "--train", options.train[0], "--seeds", 2]
    ended = []
    for step, number in ((2, signal.SIGINT), (5, signal.SIGKILL)):
        with monkeypatch.context() as patch:
            interrupt_in_step(patch, step, number)
            ended.append(run_forked(*command, "--out", tmp_path / "out"))
    stopped, killed = ended
    assert stopped.returncode == 1
    assert re.search("Error: SIGINT: stopped in seed 42.*Run the same command again", stopped.stderr)
    assert killed.returncode == -signal.SIGKILL
    assert "seed 42 continues after step 2" in killed.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["unfinished"]
    trained = train_retrieval(replace(options, out=tmp_path / "out"))
    assert trained.record["seeds"] == finished.record["seeds"]
    for file in ("model.safetensors", "config.json", "modules.json", "tokenizer.json"):
        assert (trained.folder / file).read_bytes() == (finished.folder / file).read_bytes(), file


@pytest.mark.slow
def test_two_processes_train_one_model(options: EmbedderOptions, tmp_path: Path) -> None:
    import llm_jp_modernbert.training as package

    configuration = Path(package.__path__[0]) / "accelerate/cpu-2.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    command += ["--config_file", str(configuration), "-m", "llm_jp_modernbert.training.retrieval", "train-embedder"]
    command += [options.base, *KEYS[:2], "per_device_train_batch_size=4", "--train", options.train[0]]
    run = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("The model is in") == 1
    assert "2 processes" in read_trained(tmp_path / "out").record["device"]
