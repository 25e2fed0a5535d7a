"""Hard negatives: passages that an embedder takes for relevant, though they belong to other queries."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError

from ..finetuning.finetune.base import Base, open_base
from .cached import cached
from .dataset import Example, RetrievalData
from .options import EmbedderOptions, RetrievalOptions

_FILE = "negatives.json"
_MARGIN = 0.05
"""A negative is less similar than the relevant passage by at least this share, which excludes most relevant passages
without a label (NV-Retriever, arXiv 2407.15831)."""
_CANDIDATES = 200
"""Candidates of a query in addition to ten for each negative; weak embedders rank relevant passages low."""
_QUERIES_AT_ONCE = 512

logger = logging.getLogger(__name__)


def mine_negatives(
    data: RetrievalData, options: RetrievalOptions, base: Base, directory: Path, tokens_per_batch: int
) -> RetrievalData:
    """Adds `--mine-negatives` hard negatives to each training pair, which makes the pairs `triplets`.

    Candidates are the training passages and `--corpus`, without the passages of validation and test. The nearest ones
    are chosen that are at least 5% less similar to the query than its relevant passages. If there are too few,
    random passages follow.

    Args:
        data: data of `load_data`.
        options: options of the command; without `--mine-negatives`, the data stay as they are.
        base: the base, which finds the negatives with mean pooling, unless `--mine-with` names an embedder.
        directory: existing directory for the result, which a later call reads.
        tokens_per_batch: maximum tokens computed at once.

    Raises:
        UsageError: the embedder cannot be loaded, or there are too few passages.
    """
    number, train = options.mine_negatives, data.train
    if not number:
        return data
    relevant: dict[str, set[str]] = {}
    for example in train.examples:
        relevant.setdefault(example.query, {example.query}).add(example.passages[0])
    measured = {
        text for part in (data.validation, *data.tests) for example in part.examples for text in example.passages
    }
    further = [text for text in data.corpus if text not in measured]
    passages = list(dict.fromkeys((*(example.passages[0] for example in train.examples), *further)))
    if len(passages) < number + max(map(len, relevant.values())):
        raise UsageError(
            f"--mine-negatives {number}: {len(passages):,} passages are too few. Lower it, or add --corpus."
        )

    def compute() -> list[list[int]]:
        miner = base if options.mine_with is None else open_base(options.mine_with)
        logger.info(
            f"Mining {number} negatives for each of {len(train.examples):,} pairs among {len(passages):,} passages "
            f"with {miner.name}."
        )
        tokenizer = options.tokenizer if options.mine_with is None else None
        found = _found(_embedder(miner, tokenizer, tokens_per_batch), train.examples, passages, number)
        return _completed(found, train.examples, passages, relevant, number, options.seed)

    pairs = [(example.query, example.passages[0]) for example in train.examples]
    inputs = [pairs, passages, number, options.mine_with or base.revision, options.seed]
    chosen = cached(directory / _FILE, inputs, compute)
    examples = [
        replace(example, passages=(*example.passages, *(passages[int(index)] for index in indices)))
        for example, indices in zip(train.examples, chosen, strict=True)
    ]
    return replace(data, train=replace(train, form="triplets", examples=examples))


def _embedder(miner: Base, tokenizer: str | None, tokens_per_batch: int) -> Any:
    """The embedder that mines, with its own pooling and prompts if it has any."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    from .embedder import Embedder

    def modules(transformer: Any) -> list[Any]:
        encoder = transformer("feature-extraction")
        return [encoder, Pooling(encoder.get_embedding_dimension(), pooling_mode="mean")]

    model = Embedder(EmbedderOptions(str(miner.reference), tokenizer=tokenizer)).load(miner, modules, seed=0)
    model.tokens_per_batch = tokens_per_batch
    return model.eval()


def _found(
    model: Any, examples: Sequence[Example], passages: Sequence[str], number: int
) -> Mapping[tuple[str, str], list[str]]:
    """Negatives of each pair, the nearest first; pairs may have fewer than `number`, or be missing."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    pairs = {
        "query": [example.query for example in examples],
        "passage": [example.passages[0] for example in examples],
    }
    mined = mine_hard_negatives(
        Dataset.from_dict(pairs),
        model,
        corpus=list(passages),
        relative_margin=_MARGIN,
        range_max=min(10 * number + _CANDIDATES, len(passages)),
        num_negatives=number,
        output_format="labeled-list",
        faiss_batch_size=_QUERIES_AT_ONCE,
        verbose=False,
    )
    return {(row["query"], row["passage"][0]): row["passage"][1:] for row in mined}


def _completed(
    found: Mapping[tuple[str, str], list[str]],
    examples: Sequence[Example],
    passages: Sequence[str],
    relevant: Mapping[str, set[str]],
    number: int,
    seed: int,
) -> list[list[int]]:
    """Places of the negatives of each example among the passages; random ones if too few are found."""
    places = {text: place for place, text in enumerate(passages)}
    generator = np.random.default_rng(seed)
    completed, incomplete = [], 0
    for example in examples:
        known = relevant[example.query]
        nearest = found.get((example.query, example.passages[0]), [])
        chosen = dict.fromkeys(places[text] for text in nearest if text not in known)
        incomplete += len(chosen) < number
        while len(chosen) < number:
            place = int(generator.integers(len(passages)))
            if passages[place] not in known:
                chosen[place] = None
        completed.append(list(chosen))
    if incomplete:
        logger.info(
            f"  {incomplete:,} of {len(examples):,} pairs have fewer negatives that are clearly less similar than the "
            "relevant passage; random passages complete them."
        )
    return completed
