"""What every llm-jp tokenizer of version 3 shares: the first 264 ids, and how text becomes pieces and pieces text.

Two forms of one vocabulary exist. The *decoder* form is the published one for causal models: `<s>` before the text.
The *encoder* form is the one for masked models: `CLS A SEP` and `CLS A SEP B SEP`. They give the same ids for the same
text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
"""The pieces of ids 8 to 263: the bytes of characters that no piece covers."""

LEADING_IDS = len(SPECIAL_TOKENS) + len(BYTE_PIECES)
"""How many ids are the same in every vocabulary."""

SPACE = "▁"
"""U+2581, which stands for a space inside pieces."""

MAX_LENGTH = 8192
"""Positions of the model, in tokens, special tokens included."""

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
"""Arguments of the encoder form's transformers tokenizer, and so the contents of its tokenizer_config.json."""

# The start of the text, but not of its other lines: `^` matches after every newline too.
_TEXT_START = r"(?<!\n)^"


def check_layout(pieces: Sequence[str], source: str) -> None:
    """Checks that the first 264 pieces are the special tokens and the bytes.

    Args:
        pieces: the vocabulary in the order of the ids.
        source: the file or repository to name in the message.

    Raises:
        ValueError: if another piece stands at one of these ids.
    """
    for token_id, expected in enumerate((*SPECIAL_TOKENS, *BYTE_PIECES)):
        found = pieces[token_id] if token_id < len(pieces) else None
        if found != expected:
            raise ValueError(
                f"{source}: id {token_id} is {found!r}, but {expected!r} stands there in a llm-jp tokenizer. Give the "
                "model of llm-jp-tokenizer v3 (such as llm-jp-tokenizer-100k.ver3.0b1.model) or a llm-jp-3 tokenizer."
            )


def decoder_form(vocabulary: Sequence[tuple[str, float]]) -> Tokenizer:
    """Builds the tokenizer that llm-jp publishes with its causal models, to the byte of its tokenizer.json.

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
    """Gives a tokenizer the encoder's way from text to ids and back; its vocabulary and added tokens stay.

    Args:
        tokenizer: changed in place.
    """
    # The library splits the text at special tokens first and normalises each section by itself, so the published
    # normaliser, which puts ▁ at the start of what it is given, would also put one after every mask. Only Metaspace
    # knows whether a section begins the text (`first`), but it spares a section that already begins with its
    # replacement. Spaces are therefore made ▁ beforehand and the replacement is the space, which no section can then
    # begin with; the second Metaspace makes ▁ of the one space that the first has set.
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first", split=False),
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=False),
        ]
    )
    tokenizer.decoder = _decoder()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in (CLS, SEP)],
    )
    tokenizer.no_truncation()
    tokenizer.no_padding()


def is_encoder_form(tokenizer: Tokenizer) -> bool:
    """Tells whether a tokenizer goes from text to ids and back as `set_encoder_form` would make it do.

    Args:
        tokenizer: left unchanged.
    """
    expected = Tokenizer(Unigram([(UNK, 0.0)], unk_id=0))
    set_encoder_form(expected)
    return all(
        _state(getattr(tokenizer, part)) == _state(getattr(expected, part))
        for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    )


def _state(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


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
