"""A release from the Hub onto this machine: downloaded, held against its sums, and told what it is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import git_blob, read_config, sha256
from llm_jp_modernbert.core.hub import MAIN, PATIENT, TRAINING, Patience, in_one_line

from .staging import CARD, MANIFEST, read_manifest

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

# Files that can run code when they are loaded; whoever wants them has other ways.
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.h5", "*.msgpack", "*.joblib")


@dataclass(frozen=True)
class Pulled:
    """What was pulled.

    Attributes:
        name: `ORG/NAME@REVISION`.
        commit: what the revision was.
        folder: where the files are.
        checked: files whose sums are the Hub's.
        listed: files whose sums are those of the release's own list; None where it has none.
        left_out: files that were not downloaded, since loading them could run code.
    """

    name: str
    commit: str
    folder: Path
    checked: int
    listed: int | None
    left_out: tuple[str, ...]


def pull(
    repository: str,
    revision: str | None = None,
    out: Path | None = None,
    patience: Patience = PATIENT,
    api: HfApi | None = None,
) -> Pulled:
    """Downloads a model and checks every file.

    Args:
        repository: `ORG/NAME`.
        revision: branch, tag or commit; `main` by default.
        out: a folder to copy it to; without it, it stays in the cache, where `from_pretrained` finds it offline.
        patience: of the tries.
        api: the client; by default as the environment says.

    Raises:
        UsageError: it cannot be had, a file is not what the Hub or the release says, or `out` holds something else.
    """
    from huggingface_hub import HfApi

    api = api or HfApi()
    name = f"{repository}@{revision or MAIN}"
    with in_one_line(name):
        info = patience(lambda: api.model_info(repository, revision=revision or MAIN, files_metadata=True))
        siblings = [one for one in info.siblings or () if not _is_pickle(one.rfilename)]
        _check_names(name, [one.rfilename for one in siblings])
        if "config.json" not in {one.rfilename for one in siblings}:
            raise UsageError(f"{name} holds no config.json, so it is no model.")
        # By its name, so that the cache knows the revision by it, too, when the Hub is away.
        folder = Path(
            patience(
                lambda: api.snapshot_download(repository, revision=revision or MAIN, ignore_patterns=list(_PICKLES))
            )
        )
        commit = str(info.sha)
        if folder.name != commit:
            raise UsageError(f"{name} changed while it was downloaded. Run the same command again.")
        for sibling in siblings:
            _check(api, repository, commit, folder, sibling, patience)
    listed = _check_list(folder)
    left_out = tuple(one.rfilename for one in info.siblings or () if _is_pickle(one.rfilename))
    if out is not None:
        _copy(folder, [one.rfilename for one in siblings], out)
    return Pulled(name, commit, out or folder, len(siblings), listed, left_out)


def _is_pickle(path: str) -> bool:
    return any(fnmatch(path, pattern) for pattern in _PICKLES)


def _check_names(name: str, paths: Sequence[str]) -> None:
    for path in paths:
        pure = PurePosixPath(path.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or ":" in path:
            raise UsageError(f"{name} has a file {path!r}, which would be written outside of its folder. Not pulled.")


def _check(api: HfApi, repository: str, commit: str, folder: Path, sibling: RepoSibling, patience: Patience) -> None:
    """Compares a file with the sum that the Hub has of it; one that is wrong is downloaded once more."""
    path = sibling.rfilename
    if _is_right(folder / path, sibling):
        return
    patience.say(f"{path} is not what the Hub lists (another sum): downloading it again.")
    patience(lambda: api.hf_hub_download(repository, path, revision=commit, force_download=True))
    if not _is_right(folder / path, sibling):
        # What is known to be wrong must not be what is found offline later.
        os.unlink((folder / path).resolve())
        (folder / path).unlink(missing_ok=True)
        raise UsageError(
            f"{repository}: {path} is not what the Hub lists, twice. It was removed; try again, from another network "
            "if it stays so."
        )


def _is_right(path: Path, sibling: RepoSibling) -> bool:
    if sibling.lfs is not None:
        return sha256(path) == sibling.lfs.sha256
    return sibling.blob_id is None or git_blob(path) == sibling.blob_id


def _check_list(folder: Path) -> int | None:
    """Compares the files with the release's own list, where there is one."""
    if not (folder / MANIFEST).is_file():
        return None
    listed = read_manifest(folder / MANIFEST)
    for path, expected in listed.items():
        if not (folder / path).is_file():
            raise UsageError(f"{folder}: {path} is missing, though {MANIFEST} lists it. The release is not complete.")
        # People edit cards on the Hub's pages.
        if path != CARD and sha256(folder / path) != expected["sha256"]:
            raise UsageError(f"{folder}: {path} is not what {MANIFEST} lists: it was changed after the release.")
    return len(listed)


def _copy(folder: Path, paths: Sequence[str], out: Path) -> None:
    """Copies files out of the cache, all of them or none."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if out.is_dir() and all((out / path).is_file() and _same(folder / path, out / path) for path in paths):
            return
        raise UsageError(f"--out {out} holds something else. Name another folder, or remove it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        for path in paths:
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, aside / path)
        aside.chmod(0o755)
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _same(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and sha256(one) == sha256(other)


def describe(folder: Path) -> dict[str, str]:
    """What a model's folder holds, in words, by what they are about."""
    from huggingface_hub import ModelCard

    config = read_config(folder)
    facts = {"model type": str(config.get("model_type"))}
    if "auto_map" in config:
        facts["code"] = "brings code of its own: needs trust_remote_code=True, or this package"
    parameters, dtypes = _weights(folder)
    if parameters:
        facts["weights"] = f"{parameters:,} parameters, {', '.join(dtypes)}"
    else:
        facts["weights"] = "none in safetensors"
    shape = {"num_hidden_layers": "layers", "hidden_size": "wide", "vocab_size": "tokens in the vocabulary"}
    counts = {word: config.get(key) for key, word in shape.items()}
    facts["shape"] = ", ".join(f"{count:,} {word}" for word, count in counts.items() if isinstance(count, int))
    if isinstance(config.get("max_position_embeddings"), int):
        facts["reads"] = f"{config['max_position_embeddings']:,} tokens at most"
    facts |= _training(folder)
    if (folder / CARD).is_file():
        card = ModelCard.load(folder / CARD, ignore_metadata_errors=True).data
        if card.license:
            facts["licence"] = str(card.license)
        if card.eval_results:
            facts["results"] = f"{len(card.eval_results):,} figures in its card"
    return facts


def _weights(folder: Path) -> tuple[int, list[str]]:
    """Parameters, and the kinds of numbers that they are, from the headers of the weights."""
    from safetensors import safe_open

    parameters, dtypes = 0, set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as weights:
            for name in weights.keys():  # noqa: SIM118 - no mapping
                part = weights.get_slice(name)
                count = 1
                for size in part.get_shape():
                    count *= size
                parameters += count
                dtypes.add(str(part.get_dtype()))
    return parameters, sorted(dtypes)


def _training(folder: Path) -> dict[str, str]:
    try:
        stages: list[dict[str, Any]] = json.loads((folder / TRAINING).read_text(encoding="utf-8"))["stages"]
        told = [f"{one['stage']}: {one['steps']:,} steps, {one['tokens']:,.0f} tokens" for one in stages]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {"training": "; ".join(told)}
