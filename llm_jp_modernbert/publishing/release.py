"""A ModernBERT model on the Hub: put together, checked, and sent in one commit.

Nothing is sent before the staged folder was loaded by transformers in a process that knows nothing of this package,
gave the source's logits, filled masks, and has a card whose metadata the Hub reads.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core import hub
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_config
from llm_jp_modernbert.inference.loading import OUR_MODEL_TYPES, load_masked_lm, load_tokenizer

from . import staging
from .release_check import check

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from transformers import PreTrainedTokenizerBase

    from llm_jp_modernbert.core.hub import Checkpoint, Patience
    from llm_jp_modernbert.evaluation.report.results import Row
    from llm_jp_modernbert.model_cards.facts import Example, Exports
    from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertForMaskedLM


@dataclass(frozen=True)
class ReleaseOptions:
    """What is released, and how.

    Attributes:
        source: a model's directory: a run, a checkpoint, or what `save_pretrained` wrote.
        repository: `ORG/NAME`.
        revision: a branch of it.
        private: whether the repository is made private; one that is there and public is then refused.
        dry_run: a folder to write the release to; nothing is sent then.
        format: `plain` for everyone's transformers, `native` for this package's model type, with its code.
        dtype: of the weights: `auto` (as they are), `float32` or `bfloat16`.
        max_shard_size: weights beyond it go into several files.
        results: folder of results that `evaluate` wrote.
        license: as the Hub names it.
        datasets: Hub ids of the training data.
        base_model: Hub id of the model that it was made from.
        pooling: of a sentence-transformers export; None for none.
        onnx: whether an ONNX file is exported.
        int8: whether a quantised one is, too.
    """

    source: Path
    repository: str
    revision: str = hub.MAIN
    private: bool = False
    dry_run: Path | None = None
    format: str = "plain"
    dtype: str = "auto"
    max_shard_size: str = "5GB"
    results: Path | None = None
    license: str = staging.DEFAULT_LICENSE
    datasets: tuple[str, ...] = ()
    base_model: str | None = None
    pooling: str | None = None
    onnx: bool = False
    int8: bool = False


@dataclass(frozen=True)
class Released:
    """What became of a release.

    Attributes:
        files: their sizes in bytes, by path.
        commit: on the Hub; None for a dry run.
        is_new: whether it was made now; an unchanged release makes none.
        examples: masks that the release filled in a process without this package.
        difference: greatest difference of its logits to the source's.
    """

    files: dict[str, int]
    commit: str | None
    is_new: bool
    examples: Sequence[Example]
    difference: float


def release(options: ReleaseOptions, patience: Patience = hub.PATIENT, api: HfApi | None = None) -> Released:
    """Stages a model, checks it, and sends it.

    Args:
        options: see there.
        patience: of the tries to reach the Hub; its `say` is told of each stage as well.
        api: the client; by default as the environment says.

    Raises:
        UsageError: the source is no such model, a check failed, or the Hub does not take it. Nothing was sent where a
            check failed, and nothing is half there.
    """
    from huggingface_hub import HfApi

    api, say = api or HfApi(), patience.say
    _check_options(options)
    with _staging_folder(options.dry_run) as folder:
        say(f"{options.source}: staging as {options.format}")
        model, tokenizer = _stage_model(options, folder)
        exports = _export(options, folder, say)
        say("loading it with transformers alone, and comparing logits")
        examples, difference = check(model, tokenizer, folder, options.format)
        rows = _stage_results(options, folder)
        checkpoints: Sequence[Checkpoint] = ()
        if options.dry_run is None:
            with hub.in_one_line(options.repository):
                checkpoints = _known_checkpoints(api, options.repository, patience)
        staging.write_card(
            folder,
            options.repository,
            tokenizer,
            license=options.license,
            datasets=options.datasets,
            base_model=options.base_model,
            rows=rows,
            checkpoints=checkpoints,
            exports=exports,
            examples=examples,
        )
        staging.write_manifest(folder)
        files = {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        if options.dry_run is not None:
            return Released(files, None, True, examples, difference)
        say(f"sending {sum(files.values()) / 1e6:,.1f} MB to {options.repository}")
        committed = send(api, folder, options.repository, options.revision, options.private, patience)
    return Released(files, str(committed.info.oid), committed.is_new, examples, difference)


def send(
    api: HfApi,
    folder: Path,
    repository: str,
    revision: str = hub.MAIN,
    private: bool = False,
    patience: Patience = hub.PATIENT,
) -> hub.Committed:
    """Sends a staged release in one commit, in which the release before it goes.

    Args:
        api: the client.
        folder: the staged release.
        repository: `ORG/NAME`; made where it is not there.
        revision: a branch of it.
        private: whether the repository is made private.
        patience: of the tries.

    Raises:
        UsageError: the Hub does not take it, or cannot be reached; the revision is then as it was.
    """
    with hub.in_one_line(repository):
        hub.create_repository(api, repository, private or None, patience=patience)
        replaced = _replaced(api, repository, revision, patience)
        return hub.commit_folder(api, folder, repository, revision, replaced=replaced, patience=patience)


def prepare_checkpoint(api: HfApi, repository: str, folder: Path) -> None:
    """Makes a release of a training checkpoint's snapshot: its card, with the checkpoints before it, and its licence.

    Args:
        api: the client.
        repository: `ORG/NAME`, which is there.
        folder: the snapshot.
    """
    staging.make_public(folder)
    staging.stage_license(staging.DEFAULT_LICENSE, None, folder)
    known = hub.checkpoints(api, repository, hub.Patience(waits=()))
    staging.write_card(folder, repository, load_tokenizer(str(folder)), checkpoints=known)
    staging.write_manifest(folder)


def _check_options(options: ReleaseOptions) -> None:
    hub.check_name(options.repository)
    if not options.source.is_dir():
        raise UsageError(f"{options.source}: no such directory. Name that of a run, a checkpoint or a saved model.")
    if not (options.source / "config.json").is_file():
        runs = sorted(options.source.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
        hint = f" Its last checkpoint is {runs[-1]}." if runs else ""
        raise UsageError(f"{options.source} holds no config.json, so it is no model.{hint}")
    if not any(options.source.glob("*.safetensors")):
        raise UsageError(f"{options.source} holds no weights in safetensors, and no others are released.")
    config = read_config(options.source)
    if config.get("model_type") not in OUR_MODEL_TYPES:
        raise UsageError(f"{options.source} is a {config.get('model_type')} model; ModernBERT models are released.")
    if options.format == "native" and (options.onnx or options.pooling):
        raise UsageError("--format native: exports are of plain releases. Leave --onnx and --sentence-transformers.")
    if options.int8 and not options.onnx:
        raise UsageError("--int8 is a form of the ONNX export: add --onnx.")


@contextmanager
def _staging_folder(dry_run: Path | None) -> Iterator[Path]:
    """A folder that goes away, or that becomes the dry run's once all is well."""
    if dry_run is None:
        with TemporaryDirectory(prefix="release-") as folder:
            yield Path(folder)
        return
    is_taken = dry_run.exists() and (not dry_run.is_dir() or any(dry_run.iterdir()))
    if is_taken and not (dry_run / staging.MANIFEST).is_file():
        raise UsageError(f"--dry-run {dry_run} holds something else than a release. Name another folder.")
    dry_run.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(mkdtemp(prefix=f".{dry_run.name}.", dir=dry_run.parent))
    try:
        yield aside
        aside.chmod(0o755)
        if dry_run.exists():
            shutil.rmtree(dry_run)
        os.replace(aside, dry_run)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _stage_model(options: ReleaseOptions, folder: Path) -> tuple[LlmJpModernBertForMaskedLM, PreTrainedTokenizerBase]:
    """Writes weights, configuration and tokenizer, and what training wrote; returns the source in float32."""
    source = str(options.source)
    model: Any = load_masked_lm(source, dtype=options.dtype, device="cpu")
    tokenizer = load_tokenizer(source)
    if tokenizer.mask_token_id is None:
        raise UsageError(f"{source}: its tokenizer has no mask token.")
    model.save_pretrained(folder, format=options.format, max_shard_size=options.max_shard_size)
    tokenizer.save_pretrained(folder)
    staging.stage_training(options.source, folder)
    staging.stage_license(options.license, options.source, folder)
    return model.float(), tokenizer


def _export(options: ReleaseOptions, folder: Path, say: Callable[[str], Any]) -> Exports:
    from llm_jp_modernbert.model_cards.facts import Exports

    onnx: list[Path] = []
    if options.onnx:
        from .export_onnx import export_onnx

        say("exporting to ONNX")
        onnx = export_onnx(folder, options.int8, say)
    if options.pooling is not None:
        from .export_sentence_transformers import add_sentence_transformers

        add_sentence_transformers(folder, options.pooling)
    paths = tuple(path.relative_to(folder).as_posix() for path in onnx)
    return Exports(paths, options.pooling is not None, options.pooling or "mean")


def _stage_results(options: ReleaseOptions, folder: Path) -> list[Row]:
    if options.results is None:
        return []
    from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName
    from llm_jp_modernbert.evaluation.report.results import Results

    revision = EvaluatedModel(ModelName(str(options.source))).revision
    return staging.stage_results(Results(options.results), {revision}, options.repository, folder)


def _known_checkpoints(api: HfApi, repository: str, patience: Patience) -> list[Checkpoint]:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return hub.checkpoints(api, repository, patience)
    except RepositoryNotFoundError:
        return []


def _replaced(api: HfApi, repository: str, revision: str, patience: Patience) -> Callable[[str], bool]:
    """What goes with a new release: whatever the one before it listed, and weights, which may only stand once."""
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    listed: set[str] = set()
    try:
        path = patience(lambda: api.hf_hub_download(repository, staging.MANIFEST, revision=revision))
        listed = set(staging.read_manifest(Path(path)))
    except (EntryNotFoundError, RevisionNotFoundError, UsageError):
        pass
    return lambda path: path in listed or path == staging.MANIFEST or is_weights(path)


def is_weights(path: str) -> bool:
    """Whether a path of a repository is one of a model's weights, which may stand there in one form alone."""
    return "/" not in path and path.endswith((".safetensors", ".safetensors.index.json"))
