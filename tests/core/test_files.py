"""Directories are written completely or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.files import atomic_directory, files_by_path, recover_replaced, replace_directory


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
