"""training.json is complete, independent of interruptions, and free of local paths."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import runs

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.hub import TRAINING
from llm_jp_modernbert.training.run.checkpoints import damage
from llm_jp_modernbert.training.run.summary import curve, data_names, emissions_of, hardware, read


def stages(folder: Path) -> list[dict[str, Any]]:
    return read(folder / TRAINING)["stages"]


def timeless(stage: dict[str, Any]) -> dict[str, Any]:
    """The entries that do not depend on the speed of the machine."""
    return {name: value for name, value in stage.items() if name != "seconds"}


@pytest.fixture(scope="module")
def first(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("first") / "run"
    keys = runs.recipe(*data, folder, validation_data=str(data[0]), eval_strategy="steps", eval_steps=10)
    return folder, runs.run(keys)


def test_summary_equals_counts_and_log_of_the_trainer(first: tuple[Path, Any], data: tuple[Path, Path]) -> None:
    folder, trainer = first
    (stage,) = stages(folder)
    assert (stage["stage"], stage["steps"], stage["max_steps"]) == ("stage1", 40, 40)
    for name in ("tokens", "padded_tokens", "labels", "documents", "characters", "flops"):
        assert stage[name] == getattr(trainer.totals, name) > 0
    assert stage["seconds"] == pytest.approx(trainer.totals.seconds, abs=0.1)
    assert stage["rows_per_step"] == 4
    assert stage["data"] == [{"name": "corpus"}]
    assert stage["hardware"]["device"] == "CPU"
    assert stage["recipe"]["sequence_length"] == runs.SEQUENCE
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    points = list(zip(stage["curve"]["step"], stage["curve"]["loss"], stage["curve"]["tokens"], strict=True))
    assert [point for point in points if point[1] is not None] == [(e["step"], e["loss"], e["tokens"]) for e in logged]
    held_out = dict(zip(stage["curve"]["step"], stage["curve"]["eval_loss"], strict=True))
    assert {step for step, loss in held_out.items() if loss is not None} == {10, 20, 30, 40}


def test_summary_contains_no_local_path(first: tuple[Path, Any], data: tuple[Path, Path]) -> None:
    text = (first[0] / TRAINING).read_text(encoding="utf-8")
    assert str(data[0].parent) not in text
    assert str(first[0].parent) not in text


def test_every_checkpoint_contains_the_summary_under_its_seal(first: tuple[Path, Any]) -> None:
    checkpoints = sorted(first[0].glob("checkpoint-*"))
    assert len(checkpoints) == 3
    for checkpoint in checkpoints:
        assert damage(checkpoint) is None
        assert TRAINING in json.loads((checkpoint / "seal.json").read_text())["files"]
        (stage,) = stages(checkpoint)
        assert checkpoint.name == f"checkpoint-{stage['steps']}"


def test_resumed_run_has_the_summary_of_an_uninterrupted_one_and_the_earlier_stage(
    first: tuple[Path, Any], data: tuple[Path, Path], tmp_path: Path
) -> None:
    before = shutil.copytree(first[0], tmp_path / "first", ignore=shutil.ignore_patterns("checkpoint-*"))
    changes: dict[str, Any] = {"stage": "stage2", "model": None, "init_from": str(before), "max_steps": 12}
    whole = runs.recipe(*data, tmp_path / "whole", **changes)
    assert runs.run_apart(whole) == [0]
    parts = {**runs.recipe(*data, tmp_path / "parts", **changes), "resume_from_checkpoint": True}
    assert runs.run_apart(parts, kill=7) == [-signal.SIGKILL]
    # The resumed run must not need the model that it started from.
    (before / TRAINING).unlink()
    assert runs.run_apart(parts) == [0]
    actual, expected = stages(tmp_path / "parts"), stages(tmp_path / "whole")
    assert [(stage["stage"], stage["init_from"]) for stage in actual] == [("stage1", None), ("stage2", "first")]
    assert actual[0] == expected[0] == stages(first[0])[0]
    assert timeless(actual[1]) == timeless(expected[1])


def test_local_paths_of_sources_are_reduced_to_names(tmp_path: Path) -> None:
    (tmp_path / "secret" / "corpus").mkdir(parents=True)
    data: list[Any] = [
        f"{tmp_path}/secret/corpus/",
        f"{tmp_path}/secret/*.jsonl",
        {"path": "org/name", "name": "ja", "split": "train", "revision": "v1", "weight": 0.5, "text_column": "body"},
        "org/name",
        "~/private/texts.jsonl.gz",
    ]
    assert data_names(data) == [
        {"name": "corpus"},
        {"name": "*.jsonl"},
        {"name": "org/name", "config": "ja", "split": "train", "revision": "v1", "weight": 0.5},
        {"name": "org/name"},
        {"name": "texts.jsonl.gz"},
    ]
    assert data_names("texts.txt") == [{"name": "texts.txt"}]


def test_emissions_are_summed_over_the_processes_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "emissions.csv"
    assert emissions_of(path) is None
    path.write_text("timestamp,run_id,emissions\n1,a,0.1\n2,a,0.25\n3,b,0.5\n")
    assert emissions_of(path) == pytest.approx(0.75)
    path.write_text("nonsense\n1\n")
    assert emissions_of(path) is None


def test_long_curve_is_thinned_but_keeps_evaluations() -> None:
    log: list[dict[str, Any]] = [{"step": step, "loss": 1 / step, "tokens": 10 * step} for step in range(1, 50_001)]
    log += [{"step": 25_001, "eval_loss": 0.5}, {"step": 25_001, "probe_masks_top1": 0.25}, {"step": 9, "epoch": 1.0}]
    columns = curve(log)
    assert len({len(column) for column in columns.values()}) == 1
    assert len(columns["step"]) <= 1001
    index = columns["step"].index(25_001)
    assert (columns["eval_loss"][index], columns["probe_masks_top1"][index]) == (0.5, 0.25)
    assert all(loss == 1 / step for step, loss in zip(columns["step"], columns["loss"], strict=True))


def test_cpu_is_described_by_its_cores() -> None:
    cpu = hardware(2, "cpu")
    assert (cpu["device"], cpu["devices"]) == ("CPU", 2)
    assert cpu["cores"] >= 1
    assert set(cpu) == {"device", "devices", "cores"}


STAGE = '{"stage": "a", "steps": 1, "max_steps": 1, "tokens": 1, "data": [], "recipe": {}'


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "null", "{}", "[" * 100_000, '{"schema": 2, "stages": []}', '{"schema": 1, "stages": [1]}'),
        *('{"schema": "1", "stages": []}', '{"schema": 1, "stages": {}}', '{"schema": 1, "stages": [{}]}'),
        *(
            f'{{"schema": 1, "stages": [{STAGE}, {more}}}]}}'
            for more in ('"curve": [1]', '"curve": {"loss": ["x"]}', '"steps": "1"', '"data": [1]', '"recipe": 3')
        ),
    ],
)
def test_invalid_file_raises(tmp_path: Path, content: str) -> None:
    (tmp_path / TRAINING).write_text(content)
    with pytest.raises(UsageError, match=rf"{TRAINING}: .* Remove the file, or copy it again") as error:
        read(tmp_path / TRAINING)
    assert "\n" not in str(error.value)
