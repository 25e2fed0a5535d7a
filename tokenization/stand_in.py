"""A small tokenizer of the same layout, trained in seconds, where the published one is not at hand."""

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

# A sentence with what closes it; a line without a full stop is one sentence.
_SENTENCE = re.compile(r"[^。．！？!?]+[。．！？!?]*[」』）)]*|[。．！？!?]+")
# The trainer drops sentences beyond 4192 bytes; a character has four at most.
_LONGEST_SENTENCE = 1000
# Characters to train on, which take seconds.
_ENOUGH = 500_000


def train_stand_in(texts: Iterable[str], vocab_size: int = 8000) -> LlmJpTokenizer:
    """Trains a Unigram vocabulary with llm-jp's special tokens, byte pieces and templates.

    Equal texts in equal order give an equal tokenizer. For tests and trials: a model trained with it is of no use with
    the published vocabulary.

    Args:
        texts: documents; a megabyte is plenty, and of much more only every n-th sentence is used. No piece crosses a
            newline.
        vocab_size: tokens, the 264 special and byte tokens included. Texts that do not yield so many pieces give
            fewer, with a warning.

    Returns:
        The tokenizer.

    Raises:
        ValueError: if `vocab_size` leaves no room for pieces, or the texts are too few to learn any.
    """
    if vocab_size <= LEADING_IDS:
        raise ValueError(
            f"vocab_size={vocab_size} leaves no room for pieces beside {LEADING_IDS} special and byte tokens. "
            "Take 1000 or more."
        )
    sentences = _without_rare_characters(_evenly_chosen(list(_sentences(texts))), most=(vocab_size - LEADING_IDS) // 2)
    if not sentences:
        raise ValueError("There is no text to train a tokenizer on: every text is empty or blank.")
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
            # Those of `<0x0A>`: where they are no pieces of their own, the text `<0x0A>` would be read as a byte.
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
            # Fixed, since another number adds up in another order and so gives other scores.
            num_threads=4,
            # Rounds of training, and candidates to begin with: a stand-in need not be the best of its size.
            num_sub_iterations=1,
            shrinking_factor=0.5,
            seed_sentencepiece_size=8 * vocab_size,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"The texts do not yield a vocabulary of {vocab_size}: {error}. Give more text, or a smaller vocab_size."
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "stand-in.model")
        with open(path, "wb") as file:
            file.write(model.getvalue())
        tokenizer = LlmJpTokenizer.from_sentencepiece(path)
    if len(tokenizer) < vocab_size:
        warnings.warn(
            f"The texts yield {len(tokenizer)} tokens, not {vocab_size}: they hold no more different pieces. "
            "Give more text, or this vocab_size.",
            stacklevel=2,
        )
    return tokenizer


def _evenly_chosen(sentences: list[str]) -> list[str]:
    step = sum(map(len, sentences)) // _ENOUGH + 1
    return sentences[::step]


def _without_rare_characters(sentences: list[str], most: int) -> list[str]:
    """Cuts the sentences at all characters but the `most` frequent ones, which so are left to the byte pieces.

    Every character of what is trained on becomes a piece. Japanese has thousands: they would fill a small vocabulary,
    or not fit it at all.
    """
    counts = Counter(character for sentence in sentences for character in sentence)
    # By code point among equals, so that the order of the texts does not matter.
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
