"""Offsets equal a hand computation from the lengths of the pieces in UTF-8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tokenizer_samples import BEGINNING_WITH_THE_SPACE_PIECE, ODD_TEXTS, SENTENCES
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, ModernBertConfig, ModernBertForTokenClassification, pipeline
from transformers.modeling_outputs import TokenClassifierOutput

from llm_jp_modernbert.tokenization import LlmJpTokenizer

RARE = [
    "𠮷𩸽",
    "💩💩🦆",
    "𠮷野家で𩸽を食べる𠮷",
    "辻󠄀さんと葛󠄀城市",
    "か\u3099き\u3099ハ\u309ae\u0301",
    "👨‍👩‍👧👍🏽🇯🇵",
    "⑪⑫⑬と石鹸と鹸と真鍮と鍮",
    "𝒳²\n\n\n🦆",
    " 🦆 🦆",
]
"""Unknown characters next to each other, combining characters and variation selectors."""

Span = tuple[int, int]


def expected_spans(text: str, tokens: Sequence[str], inserted: Span) -> list[Span]:
    """Spans of the tokens of a text, whose pieces follow each other byte by byte.

    Args:
        text: a text without special tokens.
        tokens: its pieces, the first of which begins with an inserted `▁`.
        inserted: the span of a piece that consists of the inserted `▁` only.
    """
    owners = [0] + [place for place, character in enumerate(text) for _ in character.encode()]
    spans = []
    begin = 0
    for token in tokens:
        if token.startswith("<0x"):
            length = 1
        else:
            # The inserted ▁ and a space have one byte here, a ▁ in the text has three.
            length, rest = 0, token
            while rest:
                here = begin + length
                is_space = rest[0] == "▁" and (here == 0 or text[owners[here]] == " ")
                length += 1 if is_space else len(rest[0].encode())
                rest = rest[1:]
        spans.append(inserted if begin == 0 and length == 1 else (owners[begin], owners[begin + length - 1] + 1))
        begin += length
    assert begin == len(owners)
    return spans


@pytest.mark.parametrize("text", [*RARE, *ODD_TEXTS, *BEGINNING_WITH_THE_SPACE_PIECE, *SENTENCES])
def test_offsets_equal_utf8_lengths(text: str, tokenizer: LlmJpTokenizer, saved: Path) -> None:
    if not text:
        return
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert encoded.offset_mapping == expected_spans(text, encoded.tokens(), (0, 0))
    plain = AutoTokenizer.from_pretrained(saved)(text, add_special_tokens=False, return_offsets_mapping=True)
    assert plain.offset_mapping == expected_spans(text, encoded.tokens(), (0, 1))


def test_offsets_equal_utf8_lengths_in_real_texts(tokenizer: LlmJpTokenizer, sample: list[str]) -> None:
    lines = [line for text in sample for line in text.splitlines() if line and not line.isascii()]
    lines = [line for line in lines if "<0x" not in line and "|LLM-jp>" not in line and "▁" not in line]
    encoded = tokenizer(lines, add_special_tokens=False, return_offsets_mapping=True)
    unknown = 0
    for place, (line, offsets) in enumerate(zip(lines, encoded.offset_mapping, strict=True)):
        tokens = encoded.tokens(place)
        unknown += sum(token.startswith("<0x") for token in tokens)
        assert offsets == expected_spans(line, tokens, (0, 0))
    assert unknown > 50


def test_unknown_characters_do_not_change_ids(tokenizer: LlmJpTokenizer, decoder: Tokenizer) -> None:
    """Also next to pieces with a character that has no piece of its own."""
    known = [piece.strip("▁") for piece in sorted(tokenizer.get_vocab()) if "<" not in piece and 1 < len(piece) < 5]
    texts = [
        f"{before}{rare}{after}" for rare in RARE for before, after in zip(known[::97], known[::89], strict=False)
    ]
    ids = tokenizer(texts, add_special_tokens=False).input_ids
    assert ids == [encoding.ids for encoding in decoder.encode_batch(texts, add_special_tokens=False)]


def test_pairs_windows_padding_and_words_have_the_offsets_of_single_texts(tokenizer: LlmJpTokenizer) -> None:
    def single(text: str) -> list[Span]:
        return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping

    none = (0, 0)
    for first, second in zip(RARE, reversed(RARE), strict=True):
        pair = tokenizer(first, second, return_offsets_mapping=True).offset_mapping
        assert pair == [none, *single(first), none, *single(second), none]
        words = tokenizer([first, second], is_split_into_words=True, return_offsets_mapping=True).offset_mapping
        assert words == [none, *single(first), *single(second), none]
    batch = tokenizer(RARE, padding=True, return_offsets_mapping=True, return_tensors="pt")
    for text, offsets in zip(RARE, batch.offset_mapping.tolist(), strict=True):
        expected = [list(span) for span in [none, *single(text), none]]
        assert offsets == expected + [[0, 0]] * (len(offsets) - len(expected))
    text = "".join(RARE)
    windows = tokenizer(
        RARE[0], text, truncation="only_second", max_length=30, stride=5,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    ).offset_mapping  # fmt: skip
    head = len(single(RARE[0])) + 2
    joined = windows[0][head:-1]
    for window in windows[1:]:
        joined += window[head + 5 : -1]
    assert joined == single(text)


def test_characters_find_their_tokens_and_words(tokenizer: LlmJpTokenizer) -> None:
    for text in RARE:
        encoded = tokenizer(text)
        offsets = tokenizer(text, return_offsets_mapping=True).offset_mapping
        for place in range(len(text)):
            token = encoded.char_to_token(place)
            assert token == next(index for index, (begin, end) in enumerate(offsets) if begin <= place < end)
            assert encoded.token_to_chars(token) == offsets[token]
            assert encoded.char_to_word(place) == encoded.word_ids()[token]


def test_ordinary_labelling_marks_an_entity_once(small: LlmJpTokenizer) -> None:
    """By overlap, by the token of the first character, and by leaving out empty spans; at the start of the text."""
    text, start, end = "𠮷田が行く", 0, 2
    encoded = small(text, return_offsets_mapping=True)
    tokens, offsets = encoded.tokens(), encoded.offset_mapping
    assert tokens[1] == "▁"
    inside = [place for place, (begin, finish) in enumerate(offsets) if begin < end and finish > start]
    assert inside[0] == encoded.char_to_token(start) == 2
    assert next(place for place, span in enumerate(offsets) if span != (0, 0)) == 2
    logits = torch.zeros(1, len(tokens), 3)
    for place in inside:
        logits[0, place, 1 if place == inside[0] else 2] = 9.0

    class Labelled(ModernBertForTokenClassification):
        def forward(self, **inputs: torch.Tensor) -> TokenClassifierOutput:
            return TokenClassifierOutput(logits=logits)

    config = ModernBertConfig(
        vocab_size=len(small), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        id2label={0: "O", 1: "B-PER", 2: "I-PER"}, pad_token_id=4,
    )  # fmt: skip
    find = pipeline(
        "token-classification", model=Labelled(config), tokenizer=small, aggregation_strategy="simple", device="cpu"
    )
    (entity,) = find(text)
    assert (entity["word"], entity["start"], entity["end"]) == ("𠮷田", 0, 2)


def test_loading_corrects_a_tokenizer_of_an_earlier_version(small: LlmJpTokenizer, tmp_path: Path) -> None:
    small.save_pretrained(tmp_path)
    earlier = AutoTokenizer.from_pretrained(tmp_path, model_max_length=512, padding_side="left")
    earlier.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first", split=False),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False),
        ]
    )
    earlier.save_pretrained(tmp_path)
    loaded = LlmJpTokenizer.from_pretrained(tmp_path)
    assert (loaded.model_max_length, loaded.padding_side) == (512, "left")
    for text in RARE:
        old, new = (tokenizer(text, return_offsets_mapping=True) for tokenizer in (earlier, loaded))
        assert old.input_ids == new.input_ids
        assert new.offset_mapping == small(text, return_offsets_mapping=True).offset_mapping
