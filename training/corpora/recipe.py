"""The keys of a corpus recipe, and their YAML files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.yaml_files import parse_yaml, read_yaml

from .measures import MEASURES

ExecutorName = Literal["local", "slurm", "ray"]

_FOLDER = Path(__file__).parent / "recipes"
_STRICT = ConfigDict(extra="forbid", strict=True)

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class Source:
    """A part of the corpus.

    Attributes:
        path: file, directory or glob pattern of `.jsonl`, `.txt`, `.parquet` or `.arrow` files; also on remote file
            systems that fsspec knows, such as `hf://datasets/ORG/NAME/data/*.parquet`.
        name: name of the source in ids and reports; by default that of the directory.
        text_column: JSON key or column that holds the text.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    path: str
    name: str | None = None
    text_column: str = "text"


@dataclass(frozen=True)
class Range:
    """Accepted values of a measure, ends included."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    min: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class NearDuplicates:
    """Removal of near duplicates by MinHash (Broder, 1997) with locality-sensitive hashing.

    Two documents with Jaccard similarity s of their n-grams match with probability 1 - (1 - s^hashes)^bands.

    Attributes:
        characters: length of the n-grams in characters.
        bands: number of bands.
        hashes: number of hashes in each band.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    characters: Count = 5
    bands: Count = 20
    hashes: Count = 12


@dataclass(frozen=True)
class Decontamination:
    """Removal of documents that contain a sentence of evaluation texts.

    Attributes:
        texts: files with evaluation texts: JSON, JSON lines (all strings in them) or text; also glob patterns.
        characters: length of the compared n-grams in characters.
        share: share of the n-grams of a sentence that a document must contain to be removed.
        min_characters: shorter sentences are ignored, since they also occur in unrelated texts.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    texts: list[str] = field(default_factory=list)
    characters: Count = 13
    share: Share = 0.8
    min_characters: Count = 20


@dataclass(frozen=True)
class Slurm:
    """Settings of the Slurm jobs.

    Attributes:
        partition: partition of the jobs.
        time: time limit of each task.
        cpus_per_task: number of cores of each task.
        mem_per_cpu_gb: memory of each core in GB.
        max_array_size: largest job array that the cluster accepts.
        qos: quality of service.
        sbatch_args: further options of sbatch, such as `{account: my-project}`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    partition: str = "cpu"
    time: str = "24:00:00"
    cpus_per_task: Count = 1
    mem_per_cpu_gb: Count = 4
    max_array_size: Count = 1000
    qos: str | None = None
    sbatch_args: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CorpusRecipe:
    """A corpus recipe.

    Attributes:
        data: sources of documents: paths, or mappings as in `Source`.
        output_dir: directory to write.
        tasks: number of parts that are processed independently. A file is never divided, so more tasks than files
            do not help. The same number of tasks gives the same files, whatever the number of processes.
        normalization: Unicode normalization form to apply to the texts: `none`, `NFC` or `NFKC`.
        filters: accepted range of each measure, see `measures.MEASURES`.
        exact_duplicates: whether to remove documents whose text equals that of another.
        near_duplicates: removal of near duplicates; null for none.
        decontamination: removal of documents with evaluation texts; null for none.
        validation_share: share of the documents that become the validation split. The text of a document decides.
        shard_bytes: approximate size of the written files in bytes.
        slurm: settings of the Slurm jobs.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    data: list[str | Source] | str = field(default_factory=list)
    output_dir: str = ""
    tasks: Count = 1
    normalization: Literal["none", "NFC", "NFKC"] = "NFC"
    filters: dict[str, Range] = field(default_factory=dict)
    exact_duplicates: bool = True
    near_duplicates: NearDuplicates | None = None
    decontamination: Decontamination | None = None
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shard_bytes: Count = 500_000_000
    slurm: Slurm = field(default_factory=Slurm)

    @property
    def sources(self) -> list[Source]:
        """`data` as a list of sources."""
        entries = [self.data] if isinstance(self.data, str) else self.data
        return [Source(entry) if isinstance(entry, str) else entry for entry in entries]

    def plain(self) -> dict[str, Any]:
        """The keys that decide about the result, as JSON values."""
        values = asdict(self)
        for key in ("output_dir", "slurm"):
            del values[key]
        return values


def shipped() -> list[str]:
    """Names of the packaged recipes."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_recipe(recipe: str, overrides: Sequence[str] = ()) -> CorpusRecipe:
    """Reads a recipe and checks all of its keys.

    Args:
        recipe: name of a packaged recipe, or path of a YAML file.
        overrides: `key=value` pairs with YAML values; `filters.characters.min=100` sets a key of a mapping.

    Raises:
        UsageError: the recipe does not exist, a key is unknown or a value is invalid.

    Example:
        >>> load_recipe("japanese-web", ["data=pages/*.jsonl.gz", "output_dir=corpus", "tasks=64"])
    """
    path = _FOLDER / f"{recipe}.yaml"
    if not path.is_file():
        path = Path(os.path.expanduser(recipe))
    if not path.is_file():
        raise UsageError(f"{recipe}: no such recipe or file. Packaged recipes: {', '.join(shipped())}.")
    keys = read_yaml(path)
    if not isinstance(keys, dict):
        raise UsageError(f"{path}: a recipe must be a mapping of keys to values.")
    for override in overrides:
        _apply(keys, override)
    try:
        # As JSON: in strict mode, pydantic makes dataclasses of JSON objects only.
        loaded = TypeAdapter(CorpusRecipe).validate_json(json.dumps(keys))
    except ValidationError as error:
        raise UsageError(f"{recipe}: {_first(error)}") from None
    _check(loaded, recipe)
    return loaded


def _apply(keys: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals:
        raise UsageError(f"{override}: give key=value.")
    *outer, last = name.split(".")
    for part in outer:
        inner = keys.get(part)
        keys[part] = inner = dict(inner) if isinstance(inner, dict) else {}
        keys = inner
    keys[last] = parse_yaml(text, name)


def _first(error: ValidationError) -> str:
    """The first fault of a recipe in one sentence."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    # The longest path is that of the alternative of a union that the value fits best.
    fault = max(faults, key=lambda fault: len(fault["loc"]))
    # Names of types mark the alternatives of a union.
    place = ".".join(str(part) for part in fault["loc"] if not str(part).startswith(("list[", "str", "Source")))
    if fault["type"] == "unexpected_keyword_argument":
        return f"unknown key {place}."
    return f"{place}: {fault['msg']}."


def _check(recipe: CorpusRecipe, place: str) -> None:
    for name, accepted in recipe.filters.items():
        if name not in MEASURES:
            close = get_close_matches(name, MEASURES, 1)
            hint = f"Did you mean {close[0]}?" if close else f"Filters: {', '.join(MEASURES)}."
            raise UsageError(f"{place}: unknown key filters.{name}. {hint}")
        low, high = accepted.min or 0.0, math.inf if accepted.max is None else accepted.max
        if low > high or high < 0 or (low > 1 and name != "characters"):
            raise UsageError(f"{place}: filters.{name}: no text is in this range. Shares are from 0 to 1.")
    if not recipe.sources or not recipe.output_dir:
        missing = "data" if not recipe.sources else "output_dir"
        raise UsageError(f"{place}: {missing} is not set. Give {missing}=… on the command line or in the recipe.")
    if recipe.decontamination is not None and not recipe.decontamination.texts:
        raise UsageError(
            f"{place}: decontamination.texts is not set. Name the evaluation texts, or set decontamination=null."
        )
