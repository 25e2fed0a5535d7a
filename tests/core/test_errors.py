"""Errors and untrusted text are shown in one safe line."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import torch
from file_limits import file_size_limit
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from llm_jp_modernbert.core.errors import describe, is_failed_write
from llm_jp_modernbert.core.terminal import printable


def test_full_disk_is_one_line_with_the_path() -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/out")
    assert describe(error) == (
        "/data/out: No space left on device. Free some disk space, and run the same command again."
    )


@pytest.mark.parametrize("save", [torch.save, save_file])
def test_failed_writes_of_libraries_are_recognized(save: Callable[..., None], tmp_path: Path) -> None:
    errors = (OSError, RuntimeError, safetensors.SafetensorError)
    with file_size_limit(1 << 16), pytest.raises(errors) as failed:
        save({"weight": torch.zeros(1 << 18)}, tmp_path / "file")
    assert is_failed_write(failed.value)
    assert "run the same command again" in describe(failed.value)


def test_name_that_is_not_utf8_is_shown() -> None:
    name = os.fsdecode(b"/data/caf\xe9.txt")
    with pytest.raises(UnicodeEncodeError) as failed:
        name.encode()
    assert describe(failed.value) == r"'/data/caf\udce9.txt' is not UTF-8. Rename the file, or write the text again."


def test_tokenizer_that_cannot_be_written_is_recognized(tmp_path: Path) -> None:
    backend = Tokenizer(models.WordLevel({f"token {number}": number for number in range(9999)}, "token 0"))
    with file_size_limit(1 << 16), pytest.raises(Exception, match="File too large") as failed:
        backend.save(str(tmp_path / "tokenizer.json"))
    assert is_failed_write(failed.value)
    assert "ulimit -f" in describe(failed.value)


def test_error_without_text_is_named() -> None:
    assert describe(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("日本語\tand\nlines", "日本語\tand\nlines"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07name", "name"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\x9bb\x00c\x08\rd", "abcd"),
        ("file\u202egnp.exe", "filegnp.exe"),
        ("bad\udcffname", "bad?name"),
        ("Authorization: Bearer hf_abcdefghijklmnop", "Authorization: Bearer hf_***"),
        ("token=hf_abcdefghijklmnop.", "token=hf_***."),
        ("token=hf_Ab3456789.", "token=hf_***."),
        ("/data/hf_datasets/hf_hub and hf_transfer", "/data/hf_datasets/hf_hub and hf_transfer"),
    ],
)
def test_untrusted_text_cannot_reach_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
