"""A small corpus and its tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import runs


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Directories of a corpus and of a tokenizer trained on it."""
    folder = tmp_path_factory.mktemp("data")
    corpus = runs.write_corpus(folder / "corpus")
    return corpus, runs.write_tokenizer(folder / "tokenizer", corpus)
