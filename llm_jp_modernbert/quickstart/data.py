"""Texts and fill-mask questions of the quickstart."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm_jp_modernbert.core.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTIONS = 5
"""Number of questions."""

# One in twenty documents is held out.
_HELD_OUT_INTERVAL = 20
# In characters: a single long document must not dominate the measurement.
_MAX_HELD_OUT_LENGTH = 8000
_CORPUS = Path(__file__).parent / "corpus"

_SENTENCE = re.compile(r"[^。！？\n]+[。！？]")
JAPANESE = re.compile("[ぁ-ゖァ-ヺー一-龯、。]")
"""Matches a Japanese character."""
# Particles and punctuation would be too easy to guess.
_WORD = re.compile(r"(?=[\w々ー]{3}|.*[一-龯々])[\w々ー]+")


@dataclass(frozen=True)
class Question:
    """A text with one `[MASK]`, and the accepted answers."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Texts:
    """Documents for training and held-out documents.

    Attributes:
        train: training documents.
        held_out: documents that the model never sees in training.
        origin: description of the data.
        complete: whether all data was read; if false, only the beginning of each file was.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    origin: str
    complete: bool

    @property
    def characters(self) -> int:
        """Number of characters for training."""
        return sum(map(len, self.train))


def embedded_texts() -> Texts:
    """The corpus in this package."""
    from llm_jp_modernbert.training.data.readers import read_documents

    train, held_out = (
        tuple(document.text for document in read_documents(str(_CORPUS / name)))
        for name in ("train.jsonl", "validation.jsonl")
    )
    return Texts(train, held_out, "the corpus in this package", complete=True)


def embedded_questions() -> list[Question]:
    """The questions for the corpus in this package."""
    lines = (_CORPUS / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines if line.strip()]
    return [Question(record["text"], tuple(record["answers"])) for record in records]


def own_texts(patterns: Sequence[str], text_column: str, max_characters: int) -> Texts:
    """Reads the user's files and holds out about one document in twenty.

    Args:
        patterns: files, directories and glob patterns.
        text_column: JSON key or Parquet column that holds the text.
        max_characters: number of characters to read, from all files in turn.

    Raises:
        UsageError: there are fewer than two different documents.
        SourceError: a file cannot be read.
    """
    from llm_jp_modernbert.training.data.readers import find_files, read_in_turn

    paths = find_files(patterns)
    texts: list[str] = []
    characters, complete = 0, True
    for document in read_in_turn(paths, text_column):
        if characters >= max_characters:
            complete = False
            break
        texts.append(document.text[: max_characters - characters])
        characters += len(texts[-1])
        complete = complete and len(texts[-1]) == len(document.text)
    train, held_out = hold_out(texts)
    if not train or not held_out:
        raise UsageError(
            f"--data {' '.join(patterns)}: only one document. At least two different documents are needed, one for "
            "training and one to hold out. In a text file, blank lines separate documents."
        )
    return Texts(
        tuple(train),
        tuple(text[:_MAX_HELD_OUT_LENGTH] for text in held_out),
        paths[0] if len(paths) == 1 else f"{len(paths)} files",
        complete,
    )


def hold_out(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Divides documents into training and held-out documents by a hash of their text.

    Equal documents are in the same part, and adding documents moves no other document.
    """
    train: list[str] = []
    held_out: list[str] = []
    for text in texts:
        (train if _hash(text) % _HELD_OUT_INTERVAL else held_out).append(text)
    if train and not held_out:
        chosen = min(train, key=_hash)
        held_out = [text for text in train if text == chosen]
        train = [text for text in train if text != chosen]
    return train, held_out


def answerable(questions: Iterable[Question], tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    """The questions that can be answered with a single token."""
    lengths = {
        answer: len(tokenizer(f"{tokenizer.mask_token}{answer}", add_special_tokens=False)["input_ids"])
        for question in questions
        for answer in question.answers
    }
    return [question for question in questions if any(lengths[answer] == 2 for answer in question.answers)]


def held_out_questions(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, train: Sequence[str] = ()
) -> list[Question]:
    """Makes questions from held-out sentences by masking one token, chosen by a hash of the sentence.

    Returns:
        At most `QUESTIONS` questions from different sentences, none of which occurs in the training documents.
    """
    sentences = {match.strip() for text in texts for match in _SENTENCE.findall(text)}
    questions: list[Question] = []
    for sentence in sorted(filter(_is_japanese, sentences), key=_hash):
        if len(questions) == QUESTIONS:
            break
        if any(sentence in text for text in train):
            continue
        offsets = tokenizer(sentence, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        words = [(start, end) for start, end in offsets if start > 0 and _WORD.fullmatch(sentence[start:end])]
        if words:
            start, end = words[_hash(sentence) % len(words)]
            questions.append(Question(f"{sentence[:start]}[MASK]{sentence[end:]}", (sentence[start:end],)))
    return questions


def _is_japanese(sentence: str) -> bool:
    """Whether a sentence of moderate length consists almost only of Japanese characters."""
    return 15 <= len(sentence) <= 60 and len(JAPANESE.findall(sentence)) > 0.9 * len(sentence)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
