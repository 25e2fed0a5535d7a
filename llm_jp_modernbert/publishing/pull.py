"""Downloads a model from the Hub and verifies its checksums."""

from __future__ import annotations

import filecmp
import logging
import math
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError, first_line
from llm_jp_modernbert.core.files import atomic_directory, check_vacant, lock, read_config, read_json, sha256
from llm_jp_modernbert.core.hub import MAIN, PATIENT, TRAINING, Patience, Training
from llm_jp_modernbert.core.hub_errors import one_line_errors
from llm_jp_modernbert.inference.heads import SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, head_of
from llm_jp_modernbert.inference.retrieval.layout import MODULES, Module
from llm_jp_modernbert.model_cards.check import read_metadata, text

from .staging import CARD, MANIFEST, RECORDS, read_manifest, records

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

# Files of a model: formats that run no code when they are loaded, in folders that are not hidden.
_ALLOWED = re.compile(
    r"""(\w[\w .,+=@()-]*/)*
    (\w[\w .,+=@()-]*\.(safetensors|onnx|onnx_data|jsonl?|ya?ml|txt|md|csv|tsv|parquet|arrow|jinja|png|jpe?g|gif)
    |openvino_model\.(xml|bin)
    |(tokenizer|spiece|spm|sentencepiece[.\w-]*)\.(model|vocab)
    |LICEN[CS]E[\w-]*|NOTICE|README|COPYING|AUTHORS|CITATION\.cff)""",
    re.VERBOSE,
)
# Files that only the Hub uses. They stay in the cache.
_HUB_ONLY = re.compile(r"\.gitattributes|\.eval_results/\w[\w.-]*\.yaml")
_CODE = re.compile(r"(\w[\w-]*/)*\w+\.py")
# The client compares every file with every name that is wanted.
_MOST_FILES = 10_000
# Labels in the description of a model.
_MOST_LABELS = 12


@dataclass(frozen=True)
class Pulled:
    """Result of a download.

    Attributes:
        name: `ORG/NAME@REVISION`.
        checked, listed: number of files that match the Hub's checksums, and the release's manifest if it has one.
        skipped: files that are not part of a model, such as those that could run code.
    """

    name: str
    commit: str
    folder: Path
    checked: int
    listed: int | None
    skipped: tuple[str, ...]


def pull(
    repository: str,
    revision: str | None = None,
    out: Path | None = None,
    patience: Patience = PATIENT,
    api: HfApi | None = None,
    trust_remote_code: bool = False,
) -> Pulled:
    """Downloads a model and verifies every file. Files that are not part of a model are skipped.

    Args:
        repository: `ORG/NAME`.
        revision: branch, tag or commit; `main` by default.
        out: directory to copy the files to; by default they stay in the cache, where `from_pretrained` finds them.
        trust_remote_code: whether to download the model's Python files as well.

    Raises:
        UsageError: the model cannot be downloaded, a checksum differs, or `out` has different contents.
    """
    from huggingface_hub import HfApi

    api = api or HfApi()
    revision = revision or MAIN
    name = f"{repository}@{revision}"
    with one_line_errors(name):
        info = patience(partial(api.model_info, repository, revision=revision))
        paths = [sibling.rfilename for sibling in info.siblings or ()]
        _check_paths(name, paths)
        if "config.json" not in paths:
            raise UsageError(f"{name} holds no config.json, so it is not a model.")
        # By revision, not by commit, so that the cache also resolves the revision offline.
        wanted = _wanted(paths, trust_remote_code)
        if len(wanted) > _MOST_FILES:
            raise UsageError(f"{name} has {len(wanted):,} files. At most {_MOST_FILES:,} are downloaded as a model.")
        skipped = tuple(path for path in paths if path not in wanted)
        download = partial(api.snapshot_download, repository, revision=revision, allow_patterns=sorted(wanted))
        folder = Path(patience(download))
        commit = str(info.sha)
        if folder.name != commit:
            raise UsageError(f"{name} changed during the download. Run the same command again.")
        checked = _verify(api, repository, commit, folder, wanted, patience)
    listed = _verify_manifest(folder, wanted, skipped)
    if out is not None:
        _copy(folder, sorted(path for path in wanted if not _HUB_ONLY.fullmatch(path)), out)
    return Pulled(name, commit, out or folder, checked, listed, skipped)


def _check_paths(name: str, paths: Sequence[str]) -> None:
    """Raises `UsageError` for a path that leaves its directory on some system."""
    for path in paths:
        pure = PurePosixPath(path.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or ":" in path:
            raise UsageError(f"{name} has a file {path!r}, which would be written outside of its directory.")


def _wanted(paths: Sequence[str], trust_remote_code: bool) -> set[str]:
    """The files to download. Of names that are equal where case is ignored, ASCII in lower case is preferred."""
    patterns = (_ALLOWED, _HUB_ONLY, *((_CODE,) if trust_remote_code else ()))
    allowed = [path for path in paths if any(pattern.fullmatch(path) for pattern in patterns)]
    unique: dict[str, str] = {}
    for path in sorted(allowed, key=lambda path: (not path.isascii(), path.swapcase())):
        unique.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
    return set(unique.values())


def _verify(
    api: HfApi, repository: str, commit: str, folder: Path, wanted: Collection[str], patience: Patience
) -> int:
    """Compares all files with the Hub's checksums and counts them; corrupted files are downloaded once more."""
    verify = partial(api.verify_repo_checksums, repository, revision=commit, local_dir=folder)
    result = patience(verify)
    missing = [path for path in result.missing_paths if path in wanted]
    if missing:
        raise UsageError(f"{repository}: the download is incomplete: {missing[0]} is missing. Run the command again.")
    if not result.mismatches:
        return result.checked_count
    for mismatch in result.mismatches:
        logger.warning("%s does not match the Hub's checksum. Downloading it again.", mismatch["path"])
        patience(partial(api.hf_hub_download, repository, mismatch["path"], revision=commit, force_download=True))
    result = patience(verify)
    for mismatch in result.mismatches:
        # A corrupted file must not stay in the cache.
        path = folder / mismatch["path"]
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    if result.mismatches:
        names = ", ".join(mismatch["path"] for mismatch in result.mismatches)
        raise UsageError(
            f"{repository}: {names} failed the checksum twice and was removed. Try again, or use another network."
        )
    return result.checked_count


def _verify_manifest(folder: Path, wanted: Collection[str], skipped: Collection[str]) -> int | None:
    """Compares the files with the release's manifest and counts them; None without a manifest."""
    if MANIFEST not in wanted:
        return None
    files = read_manifest(folder / MANIFEST)["files"]
    listed = {path: entry for path, entry in files.items() if path not in skipped}
    for path, expected in listed.items():
        if path not in wanted:
            raise UsageError(f"{folder}: {path} is missing, but {MANIFEST} lists it. The release is incomplete.")
        # Cards may be edited on the Hub's website.
        if path != CARD and sha256(folder / path) != expected["sha256"]:
            raise UsageError(f"{folder}: {path} differs from {MANIFEST}: it was changed after the release.")
    return len(listed)


def _copy(folder: Path, paths: Sequence[str], out: Path) -> None:
    """Copies files from the cache, all or none; an equal existing copy is kept."""
    with lock(out, "pull"):
        if all((out / path).is_file() and filecmp.cmp(folder / path, out / path, shallow=False) for path in paths):
            return
        check_vacant(out, "--out")
        try:
            with atomic_directory(out) as new:
                for path in paths:
                    (new / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(folder / path, new / path)
        except OSError as error:
            # The error of copyfile names the file in the cache, even if `out` is full.
            raise OSError(error.errno, error.strerror, str(out)) from error


def describe(folder: Path) -> dict[str, str]:
    """Describes a model directory: type, head, labels, weights, shape, context length, training, license and results.

    A file that cannot be parsed is logged, and its facts are left out.
    """
    config = read_config(folder)
    facts = {"model type": str(config.get("model_type"))}
    with suppress(UsageError):
        facts |= _head(config)
    if "auto_map" in config:
        facts["code"] = "has custom code: needs trust_remote_code=True, or this package"
    facts["weights"] = _weights(folder)
    labels = {"num_hidden_layers": "layers", "hidden_size": "hidden size", "vocab_size": "vocabulary size"}
    numbers = {key: value for key, value in config.items() if isinstance(value, int)}
    facts["shape"] = ", ".join(f"{label} {numbers[key]:,}" for key, label in labels.items() if key in numbers)
    if "max_position_embeddings" in numbers:
        facts["context length"] = f"{numbers['max_position_embeddings']:,} tokens"
    for name, read in (
        (MODULES, _modules),
        (TRAINING, _training),
        *((name, lambda path: _job(path.parent)) for name in RECORDS),
        (CARD, _card),
    ):
        if (folder / name).is_file():
            try:
                facts |= read(folder / name)
            except UsageError as error:
                logger.warning("%s", error)
    return facts


def _weights(folder: Path) -> str:
    from safetensors import SafetensorError, safe_open

    parameters: Counter[str] = Counter()
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "numpy") as weights:
                for name in weights.keys():  # noqa: SIM118
                    weight = weights.get_slice(name)
                    parameters[weight.get_dtype()] += math.prod(weight.get_shape())
        except (SafetensorError, OSError, ValueError) as error:
            return f"{path.name} cannot be read: {first_line(error)}"
    if not parameters:
        return "no safetensors files"
    return f"{parameters.total():,} parameters, {', '.join(sorted(parameters))}"


def _head(config: Mapping[str, Any]) -> dict[str, str]:
    head, labels = head_of(config), config.get("id2label")
    facts = {"head": head.name}
    if head in (SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION) and isinstance(labels, dict) and len(labels) > 1:
        names = [str(name) for name in labels.values()]
        more = f", … ({len(names):,} in all)" if len(names) > _MOST_LABELS else ""
        facts["labels"] = ", ".join(names[:_MOST_LABELS]) + more
    return facts


def _modules(path: Path) -> dict[str, str]:
    kinds = [module["type"].rpartition(".")[2] for module in read_json(path, list[Module])]
    return {"sentence-transformers": ", ".join(kinds)}


def _job(folder: Path) -> dict[str, str]:
    facts = {}
    for name, record in records(folder).items():
        if name == "vocabulary":
            facts["vocabulary"] = f"{record['change']}, from {record['base']}"
        elif name == "adaptation":
            facts["adapted"] = f"from {record['base']} to {record['train']['name']}"
        else:
            train = record["parts"]["train"]
            job = "fine-tuned" if name == "record" else "trained"
            facts[job] = f"{record['kind']}, from {record['base']} on {train['rows']:,} examples of {train['name']}"
    return facts


def _training(path: Path) -> dict[str, str]:
    stages = read_json(path, Training)["stages"]
    texts = (f"{stage['stage']}: {stage['steps']:,} steps, {stage['tokens'] or 0:,.0f} tokens" for stage in stages)
    return {"training": "; ".join(texts)}


def _card(path: Path) -> dict[str, str]:
    data = read_metadata(path)
    license = text(data, "license")
    facts = {"license": license} if license else {}
    with suppress(KeyError, TypeError):
        scores = sum(len(result["metrics"]) for model in data["model-index"] for result in model["results"])
        facts["results"] = f"{scores:,} scores in the model card"
    return facts
