"""The texts of a quickstart: what is trained on, what is held out, and the questions asked at the end."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm_jp_modernbert.core.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTIONS = 5
"""How many questions are asked."""

# One document in so many is held out.
_HELD_OUT_IN = 20
# Held-out documents are cut to so many characters each, so that one long work does not stand for all.
_LONGEST_HELD_OUT = 8000

_CORPUS = Path(__file__).parent / "corpus"

_SENTENCE = re.compile(r"[^。！？\n]+[。！？]")
_WORD = re.compile(r"[\w々ー]+")
_KANJI = re.compile(r"[一-龯々]")


@dataclass(frozen=True)
class Question:
    """A text with one mask, as `[MASK]`, and what would be right there."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Texts:
    """Documents to train on and documents held out.

    Attributes:
        train: documents that the model is trained on.
        held_out: documents that it never sees.
        origin: where they come from, in words.
        complete: whether all of the data was read; otherwise only its beginning was.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    origin: str
    complete: bool

    @property
    def characters(self) -> int:
        """Characters to train on."""
        return sum(map(len, self.train))


def embedded_texts() -> Texts:
    """The corpus that comes with this package."""
    from llm_jp_modernbert.training.data.readers import read_documents

    train, held_out = (
        tuple(document.text for document in read_documents(str(_CORPUS / name)))
        for name in ("train.jsonl", "validation.jsonl")
    )
    return Texts(train, held_out, "the corpus that comes with this package", complete=True)


def embedded_questions() -> list[Question]:
    """The questions that come with the embedded corpus."""
    with open(_CORPUS / "questions.jsonl", encoding="utf-8") as file:
        records = [json.loads(line) for line in file if line.strip()]
    return [Question(record["text"], tuple(record["answers"])) for record in records]


def own_texts(patterns: Sequence[str], text_column: str, most_characters: int) -> Texts:
    """The user's own files.

    Args:
        patterns: files, folders and glob patterns.
        text_column: the JSON key or Parquet column that holds the text.
        most_characters: how much is read; the files are read in turn, a document of each.

    Raises:
        UsageError: fewer than two different documents.
        SourceError: a file cannot be read.
    """
    from llm_jp_modernbert.training.data.readers import find_files, read_in_turn

    paths = find_files(patterns)
    texts: list[str] = []
    characters, complete = 0, True
    for document in read_in_turn(paths, text_column):
        if characters >= most_characters:
            complete = False
            break
        # What is left of the last one is enough of it.
        texts.append(document.text[: most_characters - characters])
        characters += len(texts[-1])
        complete = complete and len(texts[-1]) == len(document.text)
    train, held_out = hold_out(texts)
    if not train or not held_out:
        raise UsageError(
            f"--data {' '.join(patterns)}: one document, but at least two different ones are needed, one to train on "
            "and one to hold out. In a text file, blank lines part documents."
        )
    return Texts(
        tuple(train),
        tuple(text[:_LONGEST_HELD_OUT] for text in held_out),
        paths[0] if len(paths) == 1 else f"{len(paths)} files",
        complete,
    )


def hold_out(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Parts documents into those to train on and those held out, about one in twenty.

    The text itself decides: equal documents fall on the same side, and more data moves none to the other.
    """
    train: list[str] = []
    held_out: list[str] = []
    for text in texts:
        (train if _hash(text) % _HELD_OUT_IN else held_out).append(text)
    if train and not held_out:
        # Of few documents perhaps none is chosen.
        chosen = min(train, key=_hash)
        held_out = [text for text in train if text == chosen]
        train = [text for text in train if text != chosen]
    return train, held_out


def answerable(questions: Iterable[Question], tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    """The questions with an answer that is a single token: a mask stands for one."""
    return [question for question in questions if any(_is_token(answer, tokenizer) for answer in question.answers)]


def held_out_questions(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, train: Sequence[str] = ()
) -> list[Question]:
    """Sentences of held-out text with one token masked; which ones is decided by their hash, not by the model.

    Args:
        texts: the held-out documents.
        tokenizer: the tokenizer.
        train: the documents trained on; a sentence that stands in one of them is no question.

    Returns:
        At most `QUESTIONS`, of different sentences.
    """
    sentences = {sentence for text in texts for sentence in _sentences(text)}
    questions: list[Question] = []
    for sentence in sorted(sentences, key=_hash):
        if len(questions) == QUESTIONS:
            break
        if any(sentence in text for text in train):
            continue
        encoded = tokenizer(sentence, add_special_tokens=False, return_offsets_mapping=True)
        words = [
            (start, end)
            for start, end in encoded["offset_mapping"]
            # Particles and punctuation are guessed too easily to be of interest.
            if start > 0 and _WORD.fullmatch(sentence[start:end]) and _is_word(sentence[start:end])
        ]
        if words:
            start, end = words[_hash(sentence) % len(words)]
            questions.append(Question(f"{sentence[:start]}[MASK]{sentence[end:]}", (sentence[start:end],)))
    return questions


def _sentences(text: str) -> Iterator[str]:
    for found in _SENTENCE.findall(text):
        sentence = str(found).strip()
        # A sentence of some length, and hardly anything but Japanese.
        if 15 <= len(sentence) <= 60 and len(re.findall("[ぁ-ゖァ-ヺー一-龯、。]", sentence)) > 0.9 * len(sentence):
            yield sentence


def _is_word(text: str) -> bool:
    return len(text) >= 3 or bool(_KANJI.search(text))


def _is_token(text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text is one token in the midst of another."""
    ids = tokenizer(f"{tokenizer.mask_token}{text}", add_special_tokens=False)["input_ids"]
    return len(ids) == 2


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
