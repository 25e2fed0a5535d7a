"""`retrieval.json`: the data and trainings of an embedder, reranker, sparse or late-interaction model.

The commands write it into the model's directory; `release` and the model card read it. Further metrics are result rows
in `results/` (see `core.results`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import NotRequired, TypedDict

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json, write_json

from ..finetuning.record import Part, Seed
from .dataset import Form
from .options import Kind

if TYPE_CHECKING:
    from llm_jp_modernbert.core.results import Row

RECORD = "retrieval.json"
"""File name of the record, in the directory of a trained model."""


class Negatives(TypedDict):
    """How hard negatives were mined: their number for each pair, and the embedder."""

    per_pair: int
    model: str


class Baseline(TypedDict):
    """A system to compare with: `bm25`, the base before training, or a reranker's candidates; its metrics by part."""

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
        candidates: for rerankers, which system finds the candidates, and their number, as in `bm25, 50`; else empty.
        index: size of the index, see `measuring.index_facts`; empty for rerankers.
        by_length: nDCG@10 of embeddings on the last part, truncated to each length of `matryoshka`.
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
    index: NotRequired[dict[str, float]]
    by_length: NotRequired[dict[str, float]]
    max_length: int
    seconds: float
    device: str
    versions: dict[str, str]


def read_record(folder: Path) -> Record | None:
    """The record of a trained model, or None if the directory holds none.

    Raises:
        UsageError: the file is not valid.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    record: Record = read_json(path, Record)
    if missing := {"train", "validation"} - record["parts"].keys():
        raise UsageError(f"{path}: parts lacks {' and '.join(sorted(missing))}.")
    if record["best_seed"] not in [seed["seed"] for seed in record["seeds"]]:
        raise UsageError(f"{path}: seeds lacks best_seed, {record['best_seed']}.")
    return record


def write_record(folder: Path, record: Record) -> None:
    """Writes the record of a trained model."""
    write_json(folder / RECORD, record)


def task_of(kind: Kind) -> str:
    """The task of result rows, as the command is called."""
    return f"train-{kind}"


def is_recorded(record: Record, row: Row) -> bool:
    """Whether a result is one of the model's values in a record; those of baselines are not."""
    if row.task != task_of(record["kind"]) or row.model in [baseline["name"] for baseline in record["baselines"]]:
        return False
    seed = next((seed for seed in record["seeds"] if seed["seed"] == row.seed), None)
    parts = [name for name, part in record["parts"].items() if part["name"] == row.dataset]
    return seed is not None and any(
        name.partition(":")[0] == row.split and seed["metrics"].get(name, {}).get(row.metric) == row.value
        for name in parts
    )
