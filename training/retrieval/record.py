"""`retrieval.json`: the data and trainings of an embedder, reranker, sparse or late-interaction model.

The commands write it into the model's directory; `release` and the model card read it. Further metrics are result rows
in `results/` (see `core.results`).
"""

from __future__ import annotations

from typing_extensions import TypedDict

from ..finetuning.record import Part, Seed
from .dataset import Form
from .options import Kind

RECORD = "retrieval.json"
"""File name of the record, in the directory of a trained model."""


class Negatives(TypedDict):
    """How hard negatives were mined: their number for each pair, and the embedder."""

    per_pair: int
    model: str


class Baseline(TypedDict):
    """A system to compare with: `BM25`, or the base before training; its metrics by part."""

    name: str
    metrics: dict[str, dict[str, float | None]]


class Record(TypedDict):
    """Content of `retrieval.json`.

    Attributes:
        schema: version of this layout, 1.
        kind: type of model.
        form: form of the training data.
        loss: name of the loss, as for `--loss`.
        base: repository or directory name of the base model, without local parents.
        base_revision: its commit, or `sha256:…` of its weights.
        columns: role → column of the user's data.
        prompts: `query` and `document` prefix; empty for rerankers.
        pooling: how token vectors become an embedding; empty for other types than embedders.
        similarity: `cosine`, `dot` or `maxsim`; empty for rerankers.
        dimensions: length of a vector; 0 for rerankers.
        matryoshka: lengths that embeddings can be truncated to.
        negatives: mined negatives, or None.
        teacher: name of the teacher; None without one.
        metric: metric that selected epoch and seed, for example `ndcg@10`.
        parts: `train`, `validation` and the test datasets, as `test` or `test:NAME`.
        best_seed: seed of the model that was kept.
        seeds: all trainings.
        baselines: systems measured on the same parts.
        candidates: for rerankers, which system finds the candidates, and their number, as in `BM25, 50`; else empty.
        max_length: maximum tokens of an input.
        seconds: duration of all trainings.
        device: processes and hardware, as in the log.
        versions: versions of the libraries.
    """

    schema: int
    kind: Kind
    form: Form
    loss: str
    base: str
    base_revision: str
    columns: dict[str, str]
    prompts: dict[str, str]
    pooling: str
    similarity: str
    dimensions: int
    matryoshka: list[int]
    negatives: Negatives | None
    teacher: str | None
    metric: str
    parts: dict[str, Part]
    best_seed: int
    seeds: list[Seed]
    baselines: list[Baseline]
    candidates: str
    max_length: int
    seconds: float
    device: str
    versions: dict[str, str]
