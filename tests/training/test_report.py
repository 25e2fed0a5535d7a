"""A run says at its start what it trains, and at its end what came of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import runs

from llm_jp_modernbert.training.data.sources import sources_of
from llm_jp_modernbert.training.data.tokenize_corpus import TokenizeOptions, tokenize_corpus
from llm_jp_modernbert.training.report import describe_data

Data = tuple[Path, Path]


def test_start_and_end_of_a_run(data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Held-out text without eval_strategy is measured once, at the end."""
    caplog.set_level(logging.INFO, logger="llm_jp_modernbert")
    changes = {"max_steps": 3, "warmup_steps": 0, "logging_steps": 1, "save_strategy": "no", "run_name": "x"}
    trainer = runs.run(runs.recipe(*data, tmp_path / "run", **changes, validation_data=str(data[0] / "0.jsonl")))
    lines = [line for line in caplog.messages if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    for word in (
        f"{parameters:,} parameters",
        "float32",
        "on CPU",
        "sdpa",
        "3 files",
        "validation_data: 40 documents",
    ):
        assert word in text
    assert "4 rows of 64 tokens per step, until 3 steps" in text
    final = trainer.evaluate()
    loss = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1]
    assert f"loss {loss:.3f}, held-out loss {final['eval_loss']:.3f}, held-out accuracy" in text
    assert f"{trainer.totals.tokens:,.0f} tokens of {trainer.totals.documents:,.0f} documents" in text
    assert f"The model is in {tmp_path / 'run'}" in caplog.text
    assert [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry][:-1] == [3]


def test_attention_of_global_and_local_layers(data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The recipe's backends train the model, with the result of the default."""
    caplog.set_level(logging.INFO, logger="llm_jp_modernbert")
    changes = {"max_steps": 3, "warmup_steps": 0, "logging_steps": 1, "save_strategy": "no"}
    losses = []
    for attention in (None, {"global": "eager", "local": "sdpa"}):
        keys = runs.recipe(*data, tmp_path / f"run{len(losses)}", **changes, attention=attention)
        log = runs.run(keys).state.log_history
        losses.append([entry["loss"] for entry in log if "loss" in entry])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    lines = [line.split("attention: ")[1] for line in caplog.messages if "attention: " in line]
    assert lines == ["sdpa", "eager (global), sdpa (local)"]


def test_last_step_is_evaluated_once(data: Data, tmp_path: Path) -> None:
    changes = {"max_steps": 2, "warmup_steps": 0, "save_strategy": "no", "eval_strategy": "steps", "eval_steps": 1}
    trainer = runs.run(runs.recipe(*data, tmp_path / "run", **changes, validation_data=str(data[0])))
    assert [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry] == [1, 2]


def test_documents_of_small_files_are_counted(data: Data) -> None:
    size = sum(path.stat().st_size for path in data[0].iterdir())
    assert describe_data(sources_of(str(data[0]), "text")) == f"3 files, {size / 1000:.1f} kB, 120 documents"


def test_documents_of_tokenized_corpora_are_counted(data: Data, tmp_path: Path) -> None:
    manifest = tokenize_corpus(TokenizeOptions([str(data[0])], str(data[1]), str(tmp_path / "corpus")))
    described = describe_data(sources_of(str(tmp_path / "corpus"), "text"))
    assert described.endswith(f" files, 120 documents, {manifest['totals']['tokens']:,} tokens")
