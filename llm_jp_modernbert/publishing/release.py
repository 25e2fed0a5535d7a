"""Releases of ModernBERT models: staged in a directory, checked, and uploaded in one commit.

Nothing is uploaded before the staged model has passed its checks: transformers loads it in a process without this
package, its outputs equal the source's, the examples of its card run, and the Hub accepts its card's metadata.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core import hub
from llm_jp_modernbert.core.errors import UsageError, describe, is_failed_write
from llm_jp_modernbert.core.files import atomic_directory, files_by_path, lock, read_config, write_json
from llm_jp_modernbert.core.hub_errors import one_line_errors
from llm_jp_modernbert.inference.heads import (
    ENCODER,
    MASKED_LM,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Head,
    head_of,
)
from llm_jp_modernbert.inference.loading import OUR_MODEL_TYPES, load_model, load_tokenizer
from llm_jp_modernbert.model_cards.facts import Exports
from llm_jp_modernbert.model_cards.serving import RECORD

from . import space, staging
from .check import Checked, Source, check
from .export_sentence_transformers import described, embedder_class, load_embedder, stage_modules
from .options import ReleaseOptions
from .origin import Cards, unknown, with_origin

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from llm_jp_modernbert.core.hub import Checkpoint, Patience
    from llm_jp_modernbert.core.results import Row

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Released:
    """Result of a release.

    Attributes:
        files: sizes in bytes by path.
        commit: commit on the Hub; None for a dry run.
        is_new: whether the commit is new; an unchanged release makes none.
        checked: result of the check.
    """

    files: dict[str, int]
    commit: str | None
    is_new: bool
    checked: Checked


def release(options: ReleaseOptions, patience: Patience = hub.PATIENT, api: HfApi | None = None) -> Released:
    """Stages a model, checks it, and uploads it.

    Raises:
        UsageError: the source is unsupported, a check fails, or the Hub refuses the upload. The repository is then
            unchanged.
    """
    from huggingface_hub import HfApi

    api = api or HfApi()
    _check_options(options)
    stages = staging.read_stages(options.source)
    options = with_origin(options, stages, Cards(api, patience, options.dry_run is None))
    if missing := unknown(options, stages):
        logger.warning("The model card leaves out what is unknown. Give %s.", ", ".join(missing))
    with _directory(options) as folder:
        logger.info("%s: staging the release in the %s format", options.source, options.format)
        source = _stage_model(options, folder)
        exports = _export(options, source, folder)
        staging.stage_serving(options.source, folder)
        logger.info("Loading the release with transformers alone and comparing its outputs")
        checked = check(source, folder, options.format, exports)
        rows = _stage_results(options, folder)
        staging.write_card(
            folder,
            options.repository,
            source.tokenizer,
            license=options.license,
            license_name=options.license_name,
            languages=tuple(options.languages),
            datasets=tuple(options.datasets),
            base_model=options.base_model,
            rows=rows,
            checkpoints=_known_checkpoints(api, options, patience),
            exports=exports,
            examples=checked.examples,
            outputs=checked.outputs,
        )
        staging.check_secrets(folder)
        staging.write_manifest(folder, _name(options))
        files = {path: file.stat().st_size for path, file in files_by_path(folder).items()}
        model = options.repository if options.revision == hub.MAIN else _name(options)
        if options.dry_run is not None:
            if options.space is not None:
                space.stage_beside(options.dry_run, folder, model, options.license)
            return Released(files, None, True, checked)
        logger.info("Uploading %.1f MB to %s", sum(files.values()) / 1e6, options.repository)
        committed = send(api, folder, options.repository, options.revision, options.private, patience)
        if options.space is not None:
            with TemporaryDirectory() as temporary:
                space.write_space(Path(temporary), folder, model, options.license)
                space.send_space(api, Path(temporary), options.space, options.private, patience)
    return Released(files, str(committed.info.oid), committed.is_new, checked)


def send(
    api: HfApi,
    folder: Path,
    repository: str,
    revision: str = hub.MAIN,
    private: bool = False,
    patience: Patience = hub.PATIENT,
) -> hub.Committed:
    """Uploads a staged release in one commit, which also deletes the files of the previous release.

    A missing repository or revision is created.

    Raises:
        UsageError: the Hub refuses the upload or is unreachable. The revision is then unchanged.
    """
    with one_line_errors(repository):
        hub.create_repository(api, repository, private or None, patience=patience)
        previous = partial(_previous_release, api, repository)
        return hub.commit_folder(
            api, folder, repository, revision, replaced=_is_replaced, previous=previous, patience=patience
        )


def prepare_checkpoint(api: HfApi, repository: str, folder: Path) -> None:
    """Adds a card that lists the earlier checkpoints, and a manifest, to a snapshot of a training checkpoint.

    `folder` is the snapshot. The repository must exist.
    """
    once = hub.Patience(waits=())
    origin = with_origin(ReleaseOptions(folder, repository), staging.read_stages(folder), Cards(api, once))
    staging.make_public(folder, origin.base_model)
    staging.stage_license(origin.license, None, folder)
    staging.write_card(
        folder,
        repository,
        load_tokenizer(str(folder)),
        license=origin.license,
        license_name=origin.license_name,
        languages=tuple(origin.languages),
        datasets=tuple(origin.datasets),
        base_model=origin.base_model,
        checkpoints=hub.checkpoints(api, repository, once),
    )
    staging.check_secrets(folder)
    staging.write_manifest(folder)


def is_weights(path: str) -> bool:
    """Whether a path in a repository holds weights of the model. A new release replaces all of them."""
    return "/" not in path and path.endswith((".safetensors", ".safetensors.index.json"))


def _name(options: ReleaseOptions) -> str:
    return f"{options.repository}@{options.revision}"


@contextmanager
def _directory(options: ReleaseOptions) -> Iterator[Path]:
    """Yields the directory to stage the release in: a temporary one, or for a dry run the one that it names."""
    try:
        if options.dry_run is None:
            with TemporaryDirectory() as temporary:
                yield Path(temporary)
            return
        with lock(options.dry_run, "release"):
            is_release = (options.dry_run / staging.MANIFEST).is_file()
            if is_release:
                _check_replaced(options.dry_run, _name(options))
            with atomic_directory(options.dry_run, replace=is_release) as folder:
                yield folder
    except Exception as error:
        if not is_failed_write(error):
            raise
        raise UsageError(f"{options.dry_run or gettempdir()}: {describe(error)}") from error


def _check_replaced(target: Path, name: str) -> None:
    """Raises `UsageError` unless a directory holds the earlier dry run of a release and nothing else."""
    manifest = staging.read_manifest(target / staging.MANIFEST)
    added = sorted(files_by_path(target).keys() - {*manifest["files"], staging.MANIFEST, RECORD})
    if manifest.get("name") != name:
        other = manifest.get("name", "of an unknown repository")
        raise UsageError(f"--dry-run {target} holds the release {other}. Name a new directory.")
    if added:
        raise UsageError(f"--dry-run {target} holds {added[0]}, which no release wrote. Name a new directory.")


def _check_options(options: ReleaseOptions) -> None:
    hub.check_name(options.repository)
    if options.license_name and options.license != "other":
        raise UsageError("--license-name needs --license other: add it.")
    if options.int8 and not options.onnx:
        raise UsageError("--int8 needs --onnx: add --onnx.")
    source = options.source
    _check_source(source)
    is_embedder = embedder_class(source) is not None
    if options.format == "native" and (options.onnx or options.sentence_transformers or is_embedder):
        raise UsageError(
            "--format native has neither ONNX nor sentence-transformers files. Drop --onnx and "
            "--sentence-transformers, or use plain."
        )
    if options.sentence_transformers and is_embedder:
        raise UsageError(f"{source} already is a sentence-transformers model. Drop --sentence-transformers.")
    config = read_config(source)
    try:
        head = head_of(config)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from error
    if options.sentence_transformers and head not in (MASKED_LM, ENCODER):
        raise UsageError(f"{source} is a {head.name}, which gives no embeddings. Drop --sentence-transformers.")
    if options.space is not None:
        hub.check_name(options.space, "--space")
        if head not in (MASKED_LM, ENCODER) or embedder_class(source) not in (None, "SentenceTransformer"):
            raise UsageError(f"{source} neither fills masks nor embeds texts, as the demo does. Drop --space.")
    _check_labels(source, head, config)


def _check_source(source: Path) -> None:
    """Raises `UsageError` unless a directory holds a ModernBERT model in safetensors format."""
    if not source.is_dir():
        raise UsageError(f"{source}: no such directory. Name the directory of a run, a checkpoint or a saved model.")
    if (source / "adapter_config.json").is_file():
        raise UsageError(f"{source} holds a LoRA adapter. Merge it into its model (merge_and_unload) and save that.")
    if not (source / "config.json").is_file():
        checkpoints = sorted(source.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
        hint = f" Its last checkpoint is {checkpoints[-1]}." if checkpoints else ""
        if (source / "unfinished").is_dir():
            hint = " Its fine-tuning is not finished: run the same command again."
        raise UsageError(f"{source} holds no config.json, so it is not a model.{hint}")
    if not any(source.glob("*.safetensors")):
        raise UsageError(f"{source} holds no weights in safetensors format. Other formats are not supported.")
    staging.check_links(source)
    model_type = read_config(source).get("model_type")
    if model_type not in OUR_MODEL_TYPES:
        raise UsageError(f"{source} is a {model_type} model. Only ModernBERT models can be released.")


def _check_labels(source: Path, head: Head, config: Mapping[str, Any]) -> None:
    """Raises `UsageError` for a classifier without labels, and warns about labels without names."""
    # transformers does not save its default of two labels.
    labels = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    if head not in (SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION) or not isinstance(labels, dict):
        return
    if not labels:
        raise UsageError(f"{source}: id2label in config.json is empty. A {head.name} needs at least one label.")
    if len(labels) > 1 and all(name == f"LABEL_{number}" for number, name in labels.items()):
        logger.warning("%s: its labels have no names. Set id2label and label2id in config.json.", source)


def _stage_model(options: ReleaseOptions, folder: Path) -> Source:
    """Writes weights, configuration, tokenizer and training files; returns the source in float32."""
    from llm_jp_modernbert.tokenization import match_length

    name = str(options.source)
    model: Any = load_model(name, dtype=options.dtype, device="cpu")
    head, tokenizer = head_of(model.config.to_dict()), load_tokenizer(name)
    if head is MASKED_LM and tokenizer.mask_token_id is None:
        raise UsageError(f"{name}: its tokenizer has no mask token.")
    embedder = load_embedder(options.source)
    if embedder is None and "record" not in staging.records(options.source):
        match_length(tokenizer, model.config)
    model.save_pretrained(folder, format=options.format, max_shard_size=options.max_shard_size)
    if head is SEQUENCE_CLASSIFICATION:
        # text-embeddings-inference needs the number of labels, which transformers does not save.
        write_json(folder / "config.json", {**read_config(folder), "num_labels": model.config.num_labels})
    tokenizer.save_pretrained(folder)
    if embedder is not None:
        stage_modules(options.source, folder)
        if options.dtype != "auto":
            # The encoder of the release is rounded, its other modules are not.
            is_sparse = type(embedder).__name__ == "SparseEncoder"
            encoder = model.base_model if head is MASKED_LM and not is_sparse else model
            embedder.transformers_model.load_state_dict(encoder.state_dict())
    staging.stage_training(options.source, folder, options.base_model)
    staging.stage_license(options.license, options.source, folder)
    return Source(head, model.float(), tokenizer, embedder)


def _export(options: ReleaseOptions, source: Source, folder: Path) -> Exports:
    onnx: list[Path] = []
    if options.onnx:
        from .export_onnx import export_onnx

        logger.info("Exporting to ONNX")
        onnx = export_onnx(folder, options.int8)
    if options.sentence_transformers:
        from .export_sentence_transformers import add_sentence_transformers

        add_sentence_transformers(folder, options.pooling)
    paths = tuple(path.relative_to(folder).as_posix() for path in onnx)
    exports = Exports(paths, options.sentence_transformers, options.pooling)
    if source.embedder is not None:
        exports = described(source.embedder, paths)
    if options.packed:
        from llm_jp_modernbert.inference.graphs.export import add_packed_graphs

        logger.info("Exporting packed graphs")
        exports = replace(exports, packed=add_packed_graphs(folder))
    return exports


def _stage_results(options: ReleaseOptions, folder: Path) -> list[Row]:
    """Copies the results that fine-tuning left in the source, and those in `--results`."""
    from llm_jp_modernbert.core.results import Results
    from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName

    revision = EvaluatedModel(ModelName(str(options.source))).revision

    def belongs(row: Row) -> bool:
        return row.revision == revision

    rows: list[Row] = []
    own = options.source / staging.RESULTS
    if staging.records(options.source) and own.is_dir():
        # The other seeds have other weights.
        rows += staging.stage_results(
            Results(own),
            lambda row: belongs(row) or staging.is_recorded(options.source, row),
            options.repository,
            folder,
            # The job has drawn plots of its own.
            plotted=False,
        )
    if options.results is not None and options.results.resolve() != own.resolve():
        rows += staging.stage_results(Results(options.results), belongs, options.repository, folder)
    return rows


def _known_checkpoints(api: HfApi, options: ReleaseOptions, patience: Patience) -> list[Checkpoint]:
    """The checkpoints of the repository; none for a dry run, which uses no network."""
    from huggingface_hub.errors import RepositoryNotFoundError

    if options.dry_run is not None:
        return []
    with one_line_errors(options.repository):
        try:
            return hub.checkpoints(api, options.repository, patience)
        except RepositoryNotFoundError:
            return []


def _previous_release(api: HfApi, repository: str, commit: str) -> Collection[str]:
    """The files in the manifest of the release at a commit; empty without a valid manifest."""
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        return staging.read_manifest(Path(api.hf_hub_download(repository, staging.MANIFEST, revision=commit)))["files"]
    except RemoteEntryNotFoundError:
        return ()
    except UsageError as error:
        logger.warning("%s: the manifest of its previous release is ignored: %s", repository, error)
        return ()


def _is_replaced(path: str) -> bool:
    return path == staging.MANIFEST or is_weights(path)
