"""Vectors of the sentences of a long document, computed with the whole document as context."""

from __future__ import annotations

import re
from bisect import bisect

import numpy as np

from llm_jp_modernbert.inference.encoder.pooling import pool
from llm_jp_modernbert.tokenization.spans import Span

from .models import DemoModel

# A sentence ends at Japanese or Latin punctuation with its closing brackets, or at a line break.
_SENTENCE = re.compile(r"[^\n]+?(?:[。！？!?]+[」』）”)]*|\.(?=\s)|(?=\n)|\Z)")


def sentences(text: str) -> list[Span]:
    """The spans of the sentences of a text; those of whitespace only are left out."""
    return [match.span() for match in _SENTENCE.finditer(text) if match[0].strip()]


def similarities(model: DemoModel, document: str, question: str) -> list[tuple[Span, float]]:
    """Compares a question with the sentences of a document.

    The model reads the document once, and the vector of a sentence is the mean of its tokens' states, which depend on
    the whole document (late chunking, arXiv 2409.04701). An embedder's own modules replace the mean.

    Returns:
        The span of each sentence, and its cosine with the question.

    Raises:
        InputError: the document has more tokens than the model reads.
    """
    encoder = model.encoder
    # The prompt of an embedder is read, but belongs to no sentence.
    prompt = encoder.prompts.get("document", "")
    tokens = model.tokenize(prompt + document)
    chunks = sentences(document)
    begins = [len(prompt) + begin for begin, _ in chunks]
    firsts: dict[int, int] = {}
    end = 0
    for place, span in enumerate(tokens.spans):
        if span is not None and span[0] >= begins[0]:
            firsts.setdefault(bisect(begins, span[0]) - 1, place)
            end = place + 1
    boundaries = np.array([*firsts.values(), end])
    with model.lock:
        hidden = model.runner.hidden_states(np.array(tokens.ids), np.array([0, len(tokens.ids)]))
        modules = None if encoder.embedder is None else encoder.embedder.modules
        vectors = pool(hidden[boundaries[0] : end], boundaries - boundaries[0], modules or "mean")
        (asked,) = encoder.encode([question], "query" if "query" in encoder.prompts else None)
    cosines = vectors @ asked / np.linalg.norm(vectors, axis=1)
    return [(chunks[chunk], float(cosine)) for chunk, cosine in zip(firsts, cosines, strict=True)]
