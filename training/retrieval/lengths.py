"""Numbers of tokens of the examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .dataset import Part

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def input_lengths(
    part: Part, tokenizer: PreTrainedTokenizerBase, prompts: Mapping[str, str], are_joined: bool
) -> list[np.ndarray]:
    """Tokens of the inputs of each example before truncation.

    Args:
        part: the examples.
        tokenizer: tokenizer of the model.
        prompts: prefixes of `query` and `document`, if any.
        are_joined: whether a query and a passage are one input, as rerankers read them.
    """
    query_prompt, passage_prompt = (prompts.get(role, "") for role in ("query", "document"))
    queries = {example.query: query_prompt + example.query for example in part.examples}
    passages = {text: passage_prompt + text for example in part.examples for text in example.passages}
    of_query, of_passage = (
        dict(zip(texts, map(len, _encode(tokenizer, list(texts.values()))), strict=True))
        for texts in (queries, passages)
    )
    special = tokenizer.num_special_tokens_to_add(pair=are_joined)
    inputs = []
    for example in part.examples:
        query, texts = of_query[example.query], [of_passage[text] for text in example.passages]
        lengths = [query + text for text in texts] if are_joined else [query, *texts]
        inputs.append(np.array(lengths) + special)
    return inputs


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    # `verbose` would warn about texts longer than the model reads.
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    return ids
