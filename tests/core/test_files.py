"""Directories are written completely or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typing_extensions import TypedDict

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.files import (
    LockedError,
    atomic_directory,
    check_vacant,
    files_by_path,
    lock,
    parse_json,
    read_json,
    recover_replaced,
    replace_directory,
)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_directory_appears_when_the_block_succeeds(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "deep" / "out") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "deep" / "out").exists()
    assert listing(tmp_path / "deep") == ["out"]
    assert listing(tmp_path / "deep" / "out") == ["file"]


def test_failed_block_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_directory(tmp_path / "out") as folder:
            (folder / "file").write_text("x")
            raise FileExistsError

    with pytest.raises(FileExistsError):
        fail()
    assert listing(tmp_path) == []


def test_existing_content_is_kept_unless_replace(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("x")
    with pytest.raises(UsageError, match="is not empty"), atomic_directory(tmp_path / "out"):
        pass
    assert listing(tmp_path / "out") == ["old"]
    with atomic_directory(tmp_path / "out", replace=True) as folder:
        (folder / "new").write_text("x")
    assert listing(tmp_path / "out") == ["new"]
    assert listing(tmp_path) == ["out"]


def test_failed_rename_restores_the_old_directory(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("x")
    with pytest.raises(OSError, match="No such file"):
        replace_directory(tmp_path / "absent", tmp_path / "out")
    assert listing(tmp_path / "out") == ["old"]


def test_directory_of_a_killed_process_is_recovered(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    os.replace(tmp_path / "out", tmp_path / ".out.replaced")
    recover_replaced(tmp_path)
    assert listing(tmp_path) == ["out"]


def test_files_by_path_includes_subdirectories(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    for name in ("b/c/file", "a"):
        (tmp_path / name).touch()
    assert list(files_by_path(tmp_path).items()) == [
        ("a", tmp_path / "a"),
        ("b/c/file", tmp_path / "b" / "c" / "file"),
    ]


def test_first_line_of_an_error() -> None:
    assert first_line(ValueError("\n\n a line \nanother")) == "a line"
    assert first_line(KeyError()) == "KeyError"


HOLDER = """
import sys, time
from pathlib import Path
from llm_jp_modernbert.core.files import lock
with lock(Path(sys.argv[1]), "job"):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_lock_excludes_another_process_until_it_is_killed(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(target)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(LockedError, match="another job"), lock(target, "job"):
            pass
        holder.send_signal(signal.SIGKILL)
    with lock(target, "job"):
        assert not target.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["file/out", "/proc/out", "/proc/new/out"])
def test_lock_that_cannot_be_created_is_not_held_by_another_job(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / where
    with pytest.raises(UsageError, match=rf"^{target}: cannot be written \(") as raised, lock(target, "job"):
        pass
    assert not isinstance(raised.value, LockedError)


class Stage(TypedDict):
    step: int
    loss: float | None


class Stages(TypedDict):
    stages: list[Stage]


def test_json_is_validated_and_unknown_keys_are_ignored(tmp_path: Path) -> None:
    file = tmp_path / "training.json"
    file.write_text('{"stages": [{"step": 1, "loss": 2, "later": []}], "format": 3}')
    assert read_json(file, Stages) == {"stages": [{"step": 1, "loss": 2.0}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"stages": [{"step": "1", "loss": null}]}', r"stages\.0\.step: Input should be a valid integer"),
        ('{"stages": {}}', "stages: Input should be a valid array"),
        ("{}", "stages: Field required"),
        ("[]", "is not a JSON object"),
        ('{"stages": ' + "[" * 100_000, "recursion limit"),
        ("<html>", "Invalid JSON"),
        ("", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
    ],
)
def test_bad_json_is_one_line_that_names_the_file(tmp_path: Path, content: str | bytes, message: str) -> None:
    file = tmp_path / "training.json"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError, match=message) as raised:
        read_json(file, Stages)
    assert str(raised.value).startswith(f"{file}: ")
    assert "\n" not in str(raised.value)


def test_large_json_is_not_parsed() -> None:
    with pytest.raises(UsageError, match="answer: is larger than 1 MiB"):
        parse_json('"' + "x" * 2**20 + '"', "answer", max_bytes=2**20)


def test_lock_in_an_empty_directory_leaves_it_vacant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent of a mounted volume may be read-only."""
    target = tmp_path / "out"
    target.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with lock(target, "job"):
        assert list(target.iterdir())
        check_vacant(target)
    (target / "file").touch()
    with lock(target, "job"), pytest.raises(UsageError, match="is not empty"):
        check_vacant(target)


def test_lock_leaves_no_empty_directories(tmp_path: Path) -> None:
    with pytest.raises(UsageError), lock(tmp_path / "runs" / "new" / "out", "job"):
        raise UsageError("mistake")
    assert not any(tmp_path.iterdir())
    with lock(tmp_path / "runs" / "out", "job"):
        (tmp_path / "runs" / "out").mkdir()
    assert [*tmp_path.rglob("*")] == [tmp_path / "runs", tmp_path / "runs" / "out"]
