"""The text around a mask is split as in the unmasked sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tokenizer_samples import MODELS, SENTENCES, texts_of

from llm_jp_modernbert.tokenization import LlmJpTokenizer

MASK = "<MASK|LLM-jp>"


def masked_in_text_and_in_ids(tokenizer: LlmJpTokenizer, sentence: str) -> tuple[list[str], list[list[int]]]:
    """For each piece, the sentence with the piece's text masked, and the ids with the piece's id masked.

    The bytes of unknown characters share one span of text, and so one mask. A leading `▁` has no text of its own: a
    mask at the start replaces it together with the first word.
    """
    encoded = tokenizer(sentence, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoded.input_ids
    spans = [tuple(span) for span in encoded.offset_mapping]
    first = 1 if tokenizer.convert_ids_to_tokens(ids[:1]) == ["▁"] and spans[1][0] == 0 else 0
    texts, expected = [], []
    for start, end in dict.fromkeys(spans[first:]):
        positions = [i for i in range(first, len(ids)) if spans[i] == (start, end)]
        before = ids[: positions[0]] if start > 0 else []
        texts.append(sentence[:start] + MASK + sentence[end:])
        expected.append([*before, tokenizer.mask_token_id, *ids[positions[-1] + 1 :]])
    return texts, expected


def test_no_space_piece_is_inserted_after_a_mask(tokenizer: LlmJpTokenizer) -> None:
    tokens = tokenizer.tokenize("今日のご飯は<MASK|LLM-jp>である。")
    assert tokens[tokens.index(MASK) + 1] != "▁"
    assert "".join(tokens) == "▁今日のご飯は<MASK|LLM-jp>である。" or "<0x" in "".join(tokens)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_masking_text_equals_masking_ids(sentence: str, tokenizer: LlmJpTokenizer) -> None:
    texts, expected = masked_in_text_and_in_ids(tokenizer, sentence)
    assert tokenizer(texts, add_special_tokens=False).input_ids == expected


def test_masking_text_equals_masking_ids_in_a_thousand_sentences(data_dir: Path) -> None:
    """Exact: at any boundary between pieces, the best split of a text joins the best splits of both sides."""
    tokenizer = LlmJpTokenizer.from_sentencepiece(data_dir / "tokenizer" / MODELS["v3.0"])
    documents = [
        *texts_of(data_dir / "corpus" / "aozora" / "validation.jsonl.gz", 40),
        *texts_of(data_dir / "corpus" / "manuals" / "manpages-ja.jsonl.gz", 200),
    ]
    sentences = [s for text in documents for s in re.findall(r"[^。\n]+。?", text) if 5 < len(s) < 120]
    sentences = sentences[:: len(sentences) // 1000][:1000]
    assert len(sentences) == 1000
    texts, expected = [], []
    for sentence in sentences:
        more = masked_in_text_and_in_ids(tokenizer, sentence)
        texts += more[0]
        expected += more[1]
    actual = tokenizer(texts, add_special_tokens=False).input_ids
    differing = [text for text, ids, wanted in zip(texts, actual, expected, strict=True) if ids != wanted]
    assert len(texts) > 10_000
    assert differing == []


def test_no_space_is_decoded_after_a_mask(tokenizer: LlmJpTokenizer) -> None:
    for text in ("今日は<MASK|LLM-jp>です。", "<MASK|LLM-jp>です。", "I<MASK|LLM-jp> tea", "a <MASK|LLM-jp> b"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text


def test_spaces_around_a_mask_are_kept(tokenizer: LlmJpTokenizer) -> None:
    tokens = tokenizer.tokenize("a <MASK|LLM-jp> b")
    position = tokens.index(MASK)
    assert tokens[position - 1].endswith("▁")
    assert tokens[position + 1].startswith("▁")


def test_adjacent_masks(tokenizer: LlmJpTokenizer) -> None:
    body = tokenizer.tokenize("です。")
    plain = body[1:] if body[0] == "▁" else [body[0].removeprefix("▁"), *body[1:]]
    assert tokenizer.tokenize(f"{MASK}{MASK}です。")[:2] == [MASK, MASK]
    assert "".join(tokenizer.tokenize(f"{MASK}{MASK}です。")[2:]) == "".join(plain)
