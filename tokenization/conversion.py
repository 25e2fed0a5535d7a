"""Read the vocabulary of a SentencePiece model file."""

from __future__ import annotations

import os
from typing import Any

from .layout import SPECIAL_TOKENS, check_layout

# SentencePiece never finds bytes and special tokens in a text, whatever their score, usually 0. The tokenizers library
# would read the six characters `<0x0A>` as a newline. This is the score in the published tokenizers.
_UNREACHABLE_SCORE = -127.5


def read_sentencepiece(path: str | os.PathLike[str]) -> list[tuple[str, float]]:
    """Reads the vocabulary of an llm-jp SentencePiece model.

    The pieces 3 to 7, `<MASK>` to `<EOD>` in the model, are renamed as in the published tokenizers, `<MASK|LLM-jp>` to
    `<EOD|LLM-jp>`, because `<MASK>` may occur in ordinary text.

    Args:
        path: a `.model` file of llm-jp-tokenizer v3, or of the same layout.

    Returns:
        `(piece, score)` in the order of the ids; scores are log-probabilities.

    Raises:
        ValueError: the file is missing, empty or not a SentencePiece model; it is not a Unigram model with unchanged
            text and byte fallback; or its first pieces are not llm-jp's special tokens.
    """
    path = os.fspath(path)
    model = _parse(path)
    special = (model.SentencePiece.UNKNOWN, model.SentencePiece.CONTROL, model.SentencePiece.BYTE)
    vocabulary = [
        (piece.piece, min(piece.score, _UNREACHABLE_SCORE) if piece.type in special else piece.score)
        for piece in model.pieces
    ]
    for token_id, name in enumerate(SPECIAL_TOKENS[: len(vocabulary)]):
        piece, score = vocabulary[token_id]
        if piece == name.replace("|LLM-jp>", ">"):
            vocabulary[token_id] = (name, score)
    check_layout([piece for piece, _ in vocabulary], path)
    if model.trainer_spec.model_type != model.trainer_spec.UNIGRAM:
        kind = model.trainer_spec.ModelType.Name(model.trainer_spec.model_type)
        raise ValueError(f"{path} is a {kind} model, but llm-jp's is Unigram. Name the model of llm-jp-tokenizer v3.")
    normalizer = model.normalizer_spec
    if (
        normalizer.precompiled_charsmap
        or not normalizer.add_dummy_prefix
        or normalizer.remove_extra_whitespaces
        or not model.trainer_spec.byte_fallback
    ):
        raise ValueError(
            f"{path} changes the text in a way that an llm-jp tokenizer does not. It must be trained with "
            "normalization_rule_name=identity, add_dummy_prefix=true, remove_extra_whitespaces=false and "
            "byte_fallback=true."
        )
    return vocabulary


def _parse(path: str) -> Any:
    if os.path.isdir(path):
        raise ValueError(f"{path} is a directory. Name the SentencePiece file (*.model) in it.")
    if not os.path.isfile(path):
        raise ValueError(
            f"{path} does not exist. The SentencePiece models of llm-jp-tokenizer are at "
            "https://github.com/llm-jp/llm-jp-tokenizer under models/."
        )
    with open(path, "rb") as file:
        content = file.read()
    if not content:
        raise ValueError(f"{path} is empty. Download it again.")
    # Imported here: a saved tokenizer loads without SentencePiece.
    from google.protobuf.message import DecodeError
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        model.Clear()
    if not model.pieces:
        raise ValueError(
            f"{path} is not a SentencePiece model ({len(content):,} bytes). Download it again; with Git LFS, run "
            "`git lfs pull`."
        )
    return model
