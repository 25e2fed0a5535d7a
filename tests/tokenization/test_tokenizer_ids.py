"""Ids equal those of SentencePiece and of the published decoder tokenizer, and decode to the text."""

from __future__ import annotations

from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizer_samples import BEGINNING_WITH_THE_SPACE_PIECE, MODELS, ODD_TEXTS, SENTENCES
from tokenizers import Tokenizer

from llm_jp_modernbert.tokenization import LlmJpTokenizer
from llm_jp_modernbert.tokenization.conversion import read_sentencepiece
from llm_jp_modernbert.tokenization.layout import SPECIAL_TOKENS, decoder_form

# git blob ids and sizes of the tokenizer.json files that llm-jp publishes with its causal models.
PUBLISHED = {
    "v3.0": ("0a87b0e61eb74fc708e32aede9a0c19aa4484a40", 6_416_433),
    "v3.1": ("f5c1982de381f4e3b7d3681a19ccfcb7bd9dfd8b", 6_344_285),
}


def git_blob_id(content: bytes) -> str:
    import hashlib

    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.mark.parametrize("version", MODELS)
def test_decoder_form_is_byte_identical_to_the_published_file(version: str, data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    decoder_form(read_sentencepiece(data_dir / "tokenizer" / MODELS[version])).save(str(file))
    content = file.read_bytes()
    assert (git_blob_id(content), len(content)) == PUBLISHED[version]


@pytest.mark.parametrize(("version", "ids"), [("v3.0", [5, 39801, 6]), ("v3.1", [5, 38737, 6])])
def test_ids_of_known_texts(version: str, ids: list[int], data_dir: Path) -> None:
    tokenizer = LlmJpTokenizer.from_sentencepiece(data_dir / "tokenizer" / MODELS[version])
    assert tokenizer("こんにちは").input_ids == ids
    if version == "v3.0":
        assert tokenizer("foo", "bar").input_ids == [5, 19229, 6, 2852, 6]


def ids_of(tokenizer: LlmJpTokenizer, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, verbose=False).input_ids


@pytest.mark.parametrize("text", [*ODD_TEXTS, *BEGINNING_WITH_THE_SPACE_PIECE, *SENTENCES])
def test_ids_equal_sentencepiece_and_decoder(
    text: str, tokenizer: LlmJpTokenizer, processor: SentencePieceProcessor, decoder: Tokenizer
) -> None:
    [ids] = ids_of(tokenizer, [text])
    assert ids == processor.encode(text)
    assert ids == decoder.encode(text, add_special_tokens=False).ids


def test_ids_equal_decoder_on_real_texts(tokenizer: LlmJpTokenizer, decoder: Tokenizer, sample: list[str]) -> None:
    texts = [text for text in sample if not any(token in text for token in SPECIAL_TOKENS)]
    assert len(texts) > 100
    expected = [encoding.ids for encoding in decoder.encode_batch(texts, add_special_tokens=False)]
    assert ids_of(tokenizer, texts) == expected


@pytest.mark.parametrize("text", [*ODD_TEXTS, *SENTENCES])
def test_decoding_restores_the_text(text: str, tokenizer: LlmJpTokenizer) -> None:
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_decoding_restores_real_texts(tokenizer: LlmJpTokenizer, sample: list[str]) -> None:
    ids = tokenizer(sample, verbose=False).input_ids
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == sample


@pytest.mark.parametrize("text", [*ODD_TEXTS, *SENTENCES])
def test_decoded_text_with_special_tokens_has_the_same_ids(text: str, tokenizer: LlmJpTokenizer) -> None:
    ids = tokenizer(text).input_ids
    assert tokenizer(tokenizer.decode(ids), add_special_tokens=False).input_ids == ids


def test_ids_of_special_tokens_and_bytes(tokenizer: LlmJpTokenizer, processor: SentencePieceProcessor) -> None:
    assert tokenizer.convert_ids_to_tokens(list(range(8))) == [
        "<unk>",
        "<s>",
        "</s>",
        "<MASK|LLM-jp>",
        "<PAD|LLM-jp>",
        "<CLS|LLM-jp>",
        "<SEP|LLM-jp>",
        "<EOD|LLM-jp>",
    ]
    assert [
        tokenizer.unk_token_id,
        tokenizer.mask_token_id,
        tokenizer.pad_token_id,
        tokenizer.cls_token_id,
        tokenizer.bos_token_id,
        tokenizer.sep_token_id,
        tokenizer.eos_token_id,
    ] == [0, 3, 4, 5, 5, 6, 6]
    assert len(tokenizer) == len(processor)
    assert [tokenizer.convert_ids_to_tokens(8 + byte) for byte in (0, 10, 255)] == ["<0x00>", "<0x0A>", "<0xFF>"]
