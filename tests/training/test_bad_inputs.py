"""Invalid input ends the command with exit code 1 and one line that names the mistake and the remedy."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
import runs

from llm_jp_modernbert import cli

Data = tuple[Path, Path]


def fails(capsys: pytest.CaptureFixture[str], keys: dict[str, Any], *overrides: str) -> str:
    """The error line of the command."""
    path = Path(keys["output_dir"]).parent / "recipe.yaml"
    path.write_text(json.dumps(keys), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["llm-jp-modernbert", "pretrain", str(path), *overrides])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error:")]
    assert len(lines) == 1
    return lines[0]


def file(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


GOOD = json.dumps({"text": "今日は天気が良い。"}, ensure_ascii=False).encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (None, b"", r"train_data: .*none\.jsonl: no such file, and no file matches it"),
        ("a.jsonl", b"", r"a\.jsonl: no document\. The files are empty, or every text in them is blank"),
        ("a.jsonl", b'{"text": " "}\n', r"a\.jsonl: no document"),
        (
            "a.jsonl",
            b'{"body": "a"}\n',
            r"a\.jsonl.*row 1: no column 'text'; the columns are 'body'.*text_column",
        ),
        ("a.jsonl", "{'text': '猫'}".encode("shift_jis"), r"a\.jsonl.*row 1: not UTF-8 .*iconv -f CP932"),
        ("a.jsonl", b"{", r"a\.jsonl.*row 1: not JSON"),
        (
            "a.jsonl.gz",
            gzip.compress(GOOD * 9999, mtime=0)[:-90],
            r"a\.jsonl\.gz: the gzip file ends too early, after row \d+",
        ),
        ("a.jsonl.gz", GOOD, r"a\.jsonl\.gz, after row 0: not a valid gzip file"),
        ("a.jsonl.zst", GOOD, r"a\.jsonl\.zst, after row 0: not a valid zstd file"),
        ("a.parquet", GOOD, r"a\.parquet: not a valid Parquet file"),
        ("a.csv", GOOD, r"train_data: .*a\.csv: unsupported file type"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_invalid_data_is_named(
    data: Data,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str | None,
    content: bytes,
    expected: str,
    workers: int,
) -> None:
    path = file(tmp_path, name, content) if name else str(tmp_path / "none.jsonl")
    keys = runs.recipe(Path(path), data[1], tmp_path / "run", dataloader_num_workers=workers, block_characters=10**6)
    line = fails(capsys, keys, "max_steps=10")
    assert pytest.importorskip("re").search(expected, line), line


def test_broken_rows_are_skipped_or_raise_with_strict(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [GOOD] * 50
    rows[7:7] = [b"{\n", "{'text': '猫'}\n".encode("shift_jis"), b'{"text": ""}\n', b'{"body": "x"}\n']
    path = Path(file(tmp_path, "a.jsonl", b"".join(rows)))
    keys = runs.recipe(path, data[1], tmp_path / "run", max_steps=1, warmup_steps=0, save_strategy="no")
    trainer = runs.run(keys)
    assert (trainer.totals.broken_rows, trainer.totals.blank_rows) == (3, 1)
    line = fails(capsys, {**keys, "output_dir": str(tmp_path / "strict")}, "strict=true")
    assert f"{path}, row 8: not JSON" in line


def test_init_from_with_a_different_vocabulary_raises(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from llm_jp_modernbert import LlmJpModernBertConfig, LlmJpModernBertForMaskedLM

    keys = runs.recipe(*data, tmp_path / "run")
    LlmJpModernBertForMaskedLM(LlmJpModernBertConfig(**{**keys.pop("model"), "vocab_size": 999})).save_pretrained(
        tmp_path / "other", format="plain"
    )
    line = fails(capsys, keys, f"init_from={tmp_path / 'other'}")
    assert "has a vocabulary of 999 (vocab_size)" in line
    line = fails(capsys, keys, f"init_from={tmp_path / 'nowhere'}")
    assert "init_from" in line
    assert "nowhere" in line


def test_missing_tracker_is_named(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, runs.recipe(*data, tmp_path / "run"), "report_to=[dvclive]")
    assert "report_to: dvclive is not installed. Try pip install dvclive." in line
    line = fails(capsys, runs.recipe(*data, tmp_path / "run"), "report_to=[tensorbord]")
    assert "report_to: unknown value 'tensorbord'; choose from " in line


def test_sequence_longer_than_the_model_raises(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, runs.recipe(*data, tmp_path / "run"), "sequence_length=129")
    assert "sequence_length: 129 tokens, but the model reads at most 128" in line


def test_directory_of_another_run_raises(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = runs.recipe(*data, tmp_path / "run", max_steps=5)
    runs.run(keys)
    line = fails(capsys, keys)
    assert "output_dir:" in line
    assert "holds this run up to step 5. Resume it with resume_from_checkpoint=true" in line
    line = fails(capsys, keys, "learning_rate=5e-4")
    assert "already contains a different run" in line
    assert "learning_rate: 0.001 then, 0.0005 now" in line
    line = fails(capsys, keys, "learning_rate=5e-4", "resume_from_checkpoint=true")
    assert "resume_from_checkpoint: the recipe differs from that of" in line
    assert "learning_rate: 0.001 then, 0.0005 now" in line
    # A run directory without checkpoints may be reused with a corrected recipe.
    line = fails(capsys, {**keys, "output_dir": str(tmp_path / "new")}, "tokenizer=/nowhere")
    assert "/nowhere" in line
    assert list((tmp_path / "new").iterdir()) == []
    runs.run({**keys, "output_dir": str(tmp_path / "new")})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("x")
    line = fails(capsys, keys, f"output_dir={tmp_path / 'notes'}")
    assert "is not empty and not a run directory" in line
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["diary.txt"]


def test_intervals_and_workers_may_change_on_resuming(data: Data, tmp_path: Path) -> None:
    keys = runs.recipe(*data, tmp_path / "run")
    runs.run_apart(keys, kill=12)
    changes = {"save_steps": 20, "logging_steps": 10, "dataloader_num_workers": 1, "resume_from_checkpoint": "true"}
    state = runs.run({**keys, **changes}).state
    assert state.global_step == 40
    assert [entry["step"] for entry in state.log_history if "loss" in entry] == [3, 6, 9, 20, 30, 40]
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == [
        f"checkpoint-{step}" for step in (10, 20, 40)
    ]


def test_setting_that_the_model_rejects_is_named(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fails(capsys, runs.recipe(*data, tmp_path / "run"), "model.hidden_activation=geloo")
    assert line.startswith("Error: model: ")
    assert "'geloo'" in line


@pytest.mark.parametrize("where", ["file/run", "/proc/run"])
def test_unwritable_directory_is_named(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    (tmp_path / "file").write_text("x")
    line = fails(capsys, runs.recipe(*data, tmp_path / "run"), f"output_dir={tmp_path / where}")
    assert f"{tmp_path / where}: cannot be written" in line


def test_named_damaged_checkpoint_raises(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = runs.recipe(*data, tmp_path / "run", max_steps=5)
    runs.run(keys)
    checkpoint = tmp_path / "run" / "checkpoint-5"
    os.truncate(checkpoint / "model.safetensors", 10)
    line = fails(capsys, keys, f"resume_from_checkpoint={checkpoint}")
    assert "is damaged: model.safetensors has 10 bytes instead of" in line
