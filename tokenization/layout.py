"""The layout shared by all llm-jp tokenizers of version 3: the first 264 ids, normalization and decoding.

The vocabulary exists in two forms, which give the same ids for the same text. The *decoder* form is published for
causal models and puts `<s>` before the text. The *encoder* form, for masked language models, uses the templates
`CLS A SEP` and `CLS A SEP B SEP`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

UNK, BOS, EOS, MASK, PAD, CLS, SEP, EOD = SPECIAL_TOKENS = (
    "<unk>",
    "<s>",
    "</s>",
    "<MASK|LLM-jp>",
    "<PAD|LLM-jp>",
    "<CLS|LLM-jp>",
    "<SEP|LLM-jp>",
    "<EOD|LLM-jp>",
)
"""The special tokens in the order of their ids, 0 to 7."""

BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))
"""The pieces with ids 8 to 263: bytes, for characters that are in no other piece."""

LEADING_IDS = len(SPECIAL_TOKENS) + len(BYTE_PIECES)
"""Number of ids that are the same in every vocabulary."""

SPACE = "▁"
"""U+2581, which represents a space in pieces."""

MAX_LENGTH = 8192
"""Context length of the model in tokens, special tokens included."""

ENCODER_SETTINGS: dict[str, Any] = {
    "bos_token": CLS,
    "eos_token": SEP,
    "unk_token": UNK,
    "sep_token": SEP,
    "cls_token": CLS,
    "pad_token": PAD,
    "mask_token": MASK,
    "model_max_length": MAX_LENGTH,
    "model_input_names": ["input_ids", "attention_mask"],
    "clean_up_tokenization_spaces": False,
}
"""Arguments of the transformers tokenizer in encoder form, saved in its tokenizer_config.json."""

# The start of the text only: `^` alone also matches after every newline.
_TEXT_START = r"(?<!\n)^"


def check_layout(pieces: Sequence[str], source: str) -> None:
    """Checks that the first 264 pieces are the special tokens and the bytes.

    Args:
        pieces: the vocabulary in the order of the ids.
        source: the file or repository, for the message.

    Raises:
        ValueError: one of these ids belongs to another piece.
    """
    for token_id, expected in enumerate((*SPECIAL_TOKENS, *BYTE_PIECES)):
        piece = pieces[token_id] if token_id < len(pieces) else None
        if piece != expected:
            raise ValueError(
                f"{source}: id {token_id} is {piece!r}, but {expected!r} in an llm-jp tokenizer. Name the model of "
                "llm-jp-tokenizer v3 (such as llm-jp-tokenizer-100k.ver3.0b1.model) or an llm-jp-3 tokenizer."
            )


def decoder_form(vocabulary: Sequence[tuple[str, float]]) -> Tokenizer:
    """Builds the tokenizer that llm-jp publishes with its causal models; its tokenizer.json is byte-identical.

    Args:
        vocabulary: `(piece, score)` in the order of the ids, scores being log-probabilities.

    Returns:
        A `tokenizers.Tokenizer` with the template `<s> A`.
    """
    tokenizer = _unigram(vocabulary)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(_TEXT_START), SPACE), normalizers.Replace(Regex(" "), SPACE)]
    )
    tokenizer.decoder = _decoder()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, SPECIAL_TOKENS.index(BOS))]
    )
    return tokenizer


def encoder_form(vocabulary: Sequence[tuple[str, float]]) -> Tokenizer:
    """Builds the tokenizer of a masked language model.

    Args:
        vocabulary: `(piece, score)` in the order of the ids, scores being log-probabilities.

    Returns:
        A `tokenizers.Tokenizer` with the template `CLS A SEP`, `CLS A SEP B SEP`.
    """
    tokenizer = _unigram(vocabulary)
    set_encoder_form(tokenizer)
    return tokenizer


def set_encoder_form(tokenizer: Tokenizer) -> None:
    """Converts a tokenizer to the encoder form in place; its vocabulary and added tokens are unchanged."""
    # The library splits the text at special tokens and normalizes each section separately, so the published
    # normalizer, which puts ▁ at the start of its input, would put one after every mask. Only Metaspace knows whether
    # a section is the first of the text, but it skips sections that already begin with its replacement. So the
    # normalizer turns spaces into ▁, the first Metaspace prepends a space, which no section can begin with any more,
    # and the second one turns that space into ▁.
    # Unigram gives the bytes of adjacent unknown characters one common span, so each of them is split off.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first", split=False),
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=False),
            pre_tokenizers.Split(Regex(_unknown_character(tokenizer.get_vocab(with_added_tokens=False))), "isolated"),
        ]
    )
    for name, part in _encoder_parts().items():
        setattr(tokenizer, name, part)
    tokenizer.no_truncation()
    tokenizer.no_padding()


def is_encoder_form(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is in the encoder form, of this or an earlier version of this package."""

    def state(part: Any) -> Any:
        return None if part is None else json.loads(part.__getstate__())

    return all(state(getattr(tokenizer, name)) == state(part) for name, part in _encoder_parts().items())


def _encoder_parts() -> dict[str, Any]:
    """The parts of the encoder form that do not depend on the vocabulary."""
    return {
        "normalizer": normalizers.Replace(" ", SPACE),
        "decoder": _decoder(),
        "post_processor": processors.TemplateProcessing(
            single=f"{CLS} $A {SEP}",
            pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
            special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in (CLS, SEP)],
        ),
    }


def _unknown_character(vocabulary: Iterable[str]) -> str:
    """A regular expression for a character that becomes bytes, in the syntax shared by Oniguruma and JavaScript.

    Such a character is neither a piece itself nor, at this place in the text, part of a longer piece. No piece
    contains it, so splitting it off does not change the pieces of the text.
    """
    pieces = set(vocabulary)
    known = {piece for piece in pieces if len(piece) == 1}
    ranges: list[list[str]] = []
    for character in sorted(known):
        if ranges and ord(ranges[-1][-1]) == ord(character) - 1:
            ranges[-1][1:] = [character]
        else:
            ranges.append([character])
    inside = sorted(
        f"(?<={_escaped(piece[: place + 1])}){_escaped(piece[place + 1 :])}"
        for piece in pieces
        if not known.issuperset(piece)
        for place, character in enumerate(piece)
        if character not in known
    )
    single = "".join("-".join(_escaped(end).replace("-", r"\-") for end in ends) for ends in ranges)
    return f"[^{single}]" + (f"(?!{'|'.join(inside)})" if inside else "")


def _escaped(text: str) -> str:
    # `re.escape` also escapes characters that JavaScript does not allow to be escaped.
    return re.sub(r"[\\^$.*+?()[\]{}|/]", r"\\\g<0>", text)


def _unigram(vocabulary: Sequence[tuple[str, float]]) -> Tokenizer:
    tokenizer = Tokenizer(Unigram(list(vocabulary), unk_id=SPECIAL_TOKENS.index(UNK), byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    return tokenizer


def _decoder() -> decoders.Decoder:
    return decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Replace(Regex(SPACE), " "),
            decoders.Fuse(),
            decoders.Replace(Regex(_TEXT_START + " "), ""),
        ]
    )
