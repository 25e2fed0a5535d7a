"""Tokenizers to test: a small one trained here, and the published ones if the test data is available."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
from tokenizer_samples import MODELS, texts_of, train_sentencepiece
from tokenizers import Tokenizer

from llm_jp_modernbert.tokenization import LlmJpTokenizer
from llm_jp_modernbert.tokenization.conversion import read_sentencepiece
from llm_jp_modernbert.tokenization.layout import decoder_form


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model with the options and special pieces of llm-jp."""
    prefix = tmp_path_factory.mktemp("sentencepiece") / "small"
    train_sentencepiece(prefix)
    return prefix.with_suffix(".model")


@pytest.fixture(scope="session", params=["small", "v3.0"])
def model_file(request: pytest.FixtureRequest) -> Path:
    """A small SentencePiece model and a published one."""
    if request.param == "small":
        return request.getfixturevalue("small_model")
    return request.getfixturevalue("data_dir") / "tokenizer" / MODELS[request.param]


@pytest.fixture(scope="session")
def processor(model_file: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(model_file))


@pytest.fixture(scope="session")
def tokenizer(model_file: Path) -> LlmJpTokenizer:
    return LlmJpTokenizer.from_sentencepiece(model_file)


@pytest.fixture(scope="session")
def decoder(model_file: Path) -> Tokenizer:
    """The decoder form, which test_tokenizer_ids.py compares with the published file."""
    return decoder_form(read_sentencepiece(model_file))


@pytest.fixture(scope="session")
def saved(tokenizer: LlmJpTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the saved tokenizer."""
    folder = tmp_path_factory.mktemp("saved")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small(small_model: Path) -> LlmJpTokenizer:
    return LlmJpTokenizer.from_sentencepiece(small_model)


@pytest.fixture(scope="session")
def sample(data_dir: Path) -> Iterator[list[str]]:
    """The beginnings of about 110 manual pages and of 20 literary works."""
    manuals = sorted((data_dir / "corpus" / "manuals").glob("*.jsonl.gz"))
    works = texts_of(data_dir / "corpus" / "aozora" / "validation.jsonl.gz", 20)
    return [
        *(text[:2_000] for file in manuals for text in texts_of(file, 120 // len(manuals))),
        *(work[:4_000] for work in works),
    ]
