"""From a SentencePiece model file to the vocabulary of a `tokenizers` tokenizer."""

from __future__ import annotations

import os
from typing import Any

from tokenizers import Tokenizer

from .layout import LEADING_IDS, SPECIAL_TOKENS, check_layout, encoder_form

# Each is written differently by one of SentencePiece's options that llm-jp does not use: NFKC, dropped spaces, no
# space before the text, newlines as spaces. The last is a sentence of both languages.
_PROBES = ("ＡＢＣ①ｶﾞ", "  a  b ", "一行\n二行\t", "形態素解析と言語モデルの学習 a long sentence")

# SentencePiece knows that a byte piece or a control piece is never found in the text, and gives it any score, usually
# 0. The tokenizers library would then read the six characters `<0x0A>` as a newline. This is llm-jp's own score.
_NOT_IN_TEXT = -127.5


def read_sentencepiece(path: str | os.PathLike[str]) -> list[tuple[str, float]]:
    """Reads the vocabulary of a llm-jp SentencePiece model.

    The pieces 3 to 7, `<MASK>` to `<EOD>` in the model, get the names that they have in the published tokenizers,
    `<MASK|LLM-jp>` to `<EOD|LLM-jp>`, since `<MASK>` may well stand in a text.

    Args:
        path: a `.model` file of llm-jp-tokenizer v3, or of the same layout.

    Returns:
        `(piece, score)` in the order of the ids, scores being log-probabilities.

    Raises:
        ValueError: if the file is missing, empty or no SentencePiece model, if it is no Unigram model with unchanged
            text and bytes for unknown characters, or if other pieces stand where llm-jp's special tokens do.
    """
    path = os.fspath(path)
    processor = _open(path)
    vocabulary = [(processor.id_to_piece(i), _score(processor, i)) for i in range(len(processor))]
    for token_id, name in enumerate(SPECIAL_TOKENS):
        piece, score = vocabulary[token_id] if token_id < len(vocabulary) else ("", 0.0)
        if piece == name.replace("|LLM-jp>", ">"):
            vocabulary[token_id] = (name, score)
    check_layout([piece for piece, _ in vocabulary], path)
    # A BPE model has no log-probabilities: the trainer writes the rank of the merge instead.
    if all(score == -rank for rank, (_, score) in enumerate(vocabulary[LEADING_IDS:])):
        raise ValueError(f"{path} is a BPE model, but llm-jp's is Unigram. Give the model of llm-jp-tokenizer v3.")
    _check_equal(processor, encoder_form(vocabulary), vocabulary, path)
    return vocabulary


def _open(path: str) -> Any:
    if os.path.isdir(path):
        raise ValueError(f"{path} is a directory. Name the SentencePiece file (*.model) in it.")
    if not os.path.isfile(path):
        raise ValueError(
            f"{path} does not exist. SentencePiece models of llm-jp-tokenizer are found at "
            "https://github.com/llm-jp/llm-jp-tokenizer under models/."
        )
    with open(path, "rb") as file:
        content = file.read()
    if not content:
        raise ValueError(f"{path} is empty. Download it again.")
    # Imported here, since only the conversion needs it: a saved tokenizer loads without SentencePiece.
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    try:
        loaded = processor.LoadFromSerializedProto(content) and len(processor) > 0
    except (RuntimeError, ValueError):
        loaded = False
    if not loaded:
        raise ValueError(
            f"{path} is no SentencePiece model ({len(content):,} bytes). Download it again, and with Git LFS run "
            "`git lfs pull`."
        )
    return processor


def _score(processor: Any, token_id: int) -> float:
    score: float = processor.get_score(token_id)
    if processor.is_control(token_id) or processor.is_byte(token_id) or processor.is_unknown(token_id):
        return min(score, _NOT_IN_TEXT)
    return score


def _check_equal(processor: Any, tokenizer: Tokenizer, vocabulary: list[tuple[str, float]], path: str) -> None:
    """Splits of equal score are ties, which the two libraries break differently: scores are compared, not ids."""
    for probe in _PROBES:
        theirs = processor.encode(probe)
        ours = tokenizer.encode(probe, add_special_tokens=False).ids
        same_text = "".join(vocabulary[i][0] for i in theirs) == "".join(vocabulary[i][0] for i in ours)
        difference = sum(vocabulary[i][1] for i in theirs) - sum(vocabulary[i][1] for i in ours)
        if not same_text or abs(difference) > 1e-3:
            raise ValueError(
                f"{path} splits {probe!r} into {processor.id_to_piece(theirs)}, which a llm-jp tokenizer would not: "
                "it must be a Unigram model that leaves the text unchanged (normalization_rule_name=identity, "
                "add_dummy_prefix=true, remove_extra_whitespaces=false, byte_fallback=true)."
            )
