"""Train a small tokenizer of the same layout in seconds, for use without the published one."""

from __future__ import annotations

import io
import os
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator

from .layout import BOS, EOS, LEADING_IDS, SPECIAL_TOKENS, UNK
from .tokenization_llm_jp import LlmJpTokenizer

# A sentence with its closing marks and brackets; a line without a full stop is one sentence.
_SENTENCE = re.compile(r"[^。．！？!?]+[。．！？!?]*[」』）)]*|[。．！？!?]+")
# In characters, of up to four bytes each. The trainer drops sentences above a number of bytes.
_LONGEST_SENTENCE = 1000
# Characters to train on.
_TRAINING_CHARACTERS = 500_000


def train_stand_in(texts: Iterable[str], vocab_size: int = 8000) -> LlmJpTokenizer:
    """Trains a Unigram vocabulary with llm-jp's special tokens, byte pieces and templates.

    Deterministic. For tests and trials: a model trained with it cannot be used with the published vocabulary.

    Args:
        texts: documents; a megabyte is enough, and of more only every n-th sentence is used. No piece crosses a
            newline.
        vocab_size: number of tokens, including 264 special and byte tokens. Too little text gives fewer tokens, with
            a warning.

    Returns:
        The tokenizer.

    Raises:
        ValueError: `vocab_size` leaves no room for pieces, or there is too little text.
    """
    if vocab_size <= LEADING_IDS:
        raise ValueError(
            f"vocab_size={vocab_size} leaves no room for pieces: {LEADING_IDS} tokens are special tokens and "
            "bytes. Use 1000 or more."
        )
    sentences = list(_sentences(texts))
    # Every n-th sentence.
    sentences = sentences[:: sum(map(len, sentences)) // _TRAINING_CHARACTERS + 1]
    sentences = _without_rare_characters(sentences, most=(vocab_size - LEADING_IDS) // 2)
    if not sentences:
        raise ValueError("No text to train a tokenizer on: all texts are empty or blank.")
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=1.0,
            # The characters of `<0x0A>`: without pieces for them, the text `<0x0A>` would be read as a byte.
            required_chars="<>x0123456789ABCDEF",
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            unk_piece=UNK,
            bos_piece=BOS,
            eos_piece=EOS,
            control_symbols=list(SPECIAL_TOKENS[3:]),
            max_sentence_length=4 * _LONGEST_SENTENCE + 1,
            # Fixed: the number of threads changes the order of sums and so the scores.
            num_threads=4,
            # Fewer rounds and candidates than by default: speed matters more than quality.
            num_sub_iterations=1,
            shrinking_factor=0.5,
            seed_sentencepiece_size=8 * vocab_size,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"The texts are too few for a vocabulary of {vocab_size}: {error}. Add text, or reduce vocab_size."
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "stand-in.model")
        with open(path, "wb") as file:
            file.write(model.getvalue())
        tokenizer = LlmJpTokenizer.from_sentencepiece(path)
    if len(tokenizer) < vocab_size:
        warnings.warn(
            f"The texts yield {len(tokenizer)} tokens instead of {vocab_size}. Add text, or set this vocab_size.",
            stacklevel=2,
        )
    return tokenizer


def _without_rare_characters(sentences: list[str], most: int) -> list[str]:
    """Removes all but the `most` frequent characters, so that the others are encoded as bytes.

    Every character of the training text becomes a piece. Japanese has thousands, too many for a small vocabulary.
    """
    counts = Counter(character for sentence in sentences for character in sentence)
    # Equal counts are ordered by code point, whatever the order of the texts.
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    rare = {ord(character): "\n" for character in ranked[most:]}
    return [part for sentence in sentences for part in sentence.translate(rare).split("\n") if part]


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.splitlines():
            for sentence in _SENTENCE.findall(line):
                if sentence.isspace():
                    continue
                for start in range(0, len(sentence), _LONGEST_SENTENCE):
                    yield sentence[start : start + _LONGEST_SENTENCE]
