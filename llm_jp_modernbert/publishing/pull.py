"""Downloads a model from the Hub and verifies its checksums."""

from __future__ import annotations

import filecmp
import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import atomic_directory, check_vacant, read_config, sha256
from llm_jp_modernbert.core.hub import MAIN, PATIENT, TRAINING, Patience
from llm_jp_modernbert.core.hub_errors import one_line_errors

from .staging import CARD, MANIFEST, read_manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

# Formats that can run code when they are loaded.
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.h5", "*.msgpack", "*.joblib")


@dataclass(frozen=True)
class Pulled:
    """Result of a download.

    Attributes:
        name: `ORG/NAME@REVISION`.
        checked, listed: number of files that match the Hub's checksums, and the release's manifest if it has one.
        skipped: files that were not downloaded, because loading them could run code.
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
) -> Pulled:
    """Downloads a model and verifies every file.

    Args:
        repository: `ORG/NAME`.
        revision: branch, tag or commit; `main` by default.
        out: directory to copy the files to; by default they stay in the cache, where `from_pretrained` finds them.

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
        for path in paths:
            pure = PurePosixPath(path.replace("\\", "/"))
            if pure.is_absolute() or ".." in pure.parts or ":" in path:
                raise UsageError(f"{name} has a file {path!r}, which would be written outside of its directory.")
        if "config.json" not in paths:
            raise UsageError(f"{name} holds no config.json, so it is not a model.")
        # By revision, not by commit, so that the cache also resolves the revision offline.
        download = partial(api.snapshot_download, repository, revision=revision, ignore_patterns=list(_PICKLES))
        folder = Path(patience(download))
        commit = str(info.sha)
        if folder.name != commit:
            raise UsageError(f"{name} changed during the download. Run the same command again.")
        checked = _verify(api, repository, commit, folder, patience)
    listed = _verify_manifest(folder)
    skipped = tuple(path for path in paths if _is_pickle(path))
    if out is not None:
        _copy(folder, [path for path in paths if path not in skipped], out)
    return Pulled(name, commit, out or folder, checked, listed, skipped)


def _is_pickle(path: str) -> bool:
    return any(fnmatch(path, pattern) for pattern in _PICKLES)


def _verify(api: HfApi, repository: str, commit: str, folder: Path, patience: Patience) -> int:
    """Compares all files with the Hub's checksums and counts them; corrupted files are downloaded once more."""
    verify = partial(api.verify_repo_checksums, repository, revision=commit, local_dir=folder)
    result = patience(verify)
    missing = [path for path in result.missing_paths if not _is_pickle(path)]
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


def _verify_manifest(folder: Path) -> int | None:
    """Compares the files with the release's manifest and counts them; None without a manifest."""
    if not (folder / MANIFEST).is_file():
        return None
    listed = read_manifest(folder / MANIFEST)
    for path, expected in listed.items():
        if not (folder / path).is_file():
            raise UsageError(f"{folder}: {path} is missing, but {MANIFEST} lists it. The release is incomplete.")
        # Cards may be edited on the Hub's website.
        if path != CARD and sha256(folder / path) != expected["sha256"]:
            raise UsageError(f"{folder}: {path} differs from {MANIFEST}: it was changed after the release.")
    return len(listed)


def _copy(folder: Path, paths: Sequence[str], out: Path) -> None:
    """Copies files from the cache, all or none; an equal existing copy is kept."""
    if all((out / path).is_file() and filecmp.cmp(folder / path, out / path, shallow=False) for path in paths):
        return
    check_vacant(out, "--out")
    with atomic_directory(out) as new:
        for path in paths:
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, new / path)


def describe(folder: Path) -> dict[str, str]:
    """Describes a model directory: type, weights, shape, context length, training, license and results."""
    from huggingface_hub import ModelCard, parse_local_safetensors_file_metadata

    config = read_config(folder)
    facts = {"model type": str(config.get("model_type"))}
    if "auto_map" in config:
        facts["code"] = "has custom code: needs trust_remote_code=True, or this package"
    parameters: Counter[str] = Counter()
    for path in folder.glob("*.safetensors"):
        parameters.update(parse_local_safetensors_file_metadata(path).parameter_count)
    weights = f"{parameters.total():,} parameters, {', '.join(sorted(parameters))}"
    facts["weights"] = weights if parameters else "no safetensors files"
    labels = {"num_hidden_layers": "layers", "hidden_size": "hidden size", "vocab_size": "vocabulary size"}
    facts["shape"] = ", ".join(f"{label} {config[key]:,}" for key, label in labels.items() if key in config)
    if isinstance(config.get("max_position_embeddings"), int):
        facts["context length"] = f"{config['max_position_embeddings']:,} tokens"
    with suppress(OSError, ValueError, KeyError, TypeError):
        stages = json.loads((folder / TRAINING).read_text(encoding="utf-8"))["stages"]
        facts["training"] = "; ".join(
            f"{stage['stage']}: {stage['steps']:,} steps, {stage['tokens']:,.0f} tokens" for stage in stages
        )
    if (folder / CARD).is_file():
        card = ModelCard.load(folder / CARD, ignore_metadata_errors=True).data
        if card.license:
            facts["license"] = str(card.license)
        if card.eval_results:
            facts["results"] = f"{len(card.eval_results):,} scores in the model card"
    return facts
