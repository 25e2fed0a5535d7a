"""`push_to_hub` of this package's models and tokenizers: the files of a release in one commit."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_config
from llm_jp_modernbert.core.hub import MAIN, PATIENT, commit_folder, create_repository
from llm_jp_modernbert.core.references import ModelReference, is_repository
from llm_jp_modernbert.inference.heads import head_of

from . import staging
from .release import is_weights

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def push(
    saved: PreTrainedModel | PreTrainedTokenizerBase,
    repo_id: str,
    *,
    format: str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tags: list[str] | None = None,
    **saving: Any,
) -> CommitInfo:
    """Implements `push_to_hub` of models and tokenizers. A model also gets a card if the repository has none.

    Args:
        repo_id: `ORG/NAME`, or a name in the user's own namespace; created if missing.
        format: format of a model, `plain` or `native`; None for a tokenizer.
        revision: branch; created if missing.
        tags: tags of a new card.
        **saving: arguments of `save_pretrained`, such as `max_shard_size`.
            The remaining arguments are those of transformers' `push_to_hub`.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: the Hub refuses the upload.
        UsageError: `private` is set, but the repository is public; or a file contains an access token.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    name = create_repository(api, repo_id, private)
    is_model = format is not None
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if is_model:
            saved.save_pretrained(folder, format=format, **saving)
            if not api.file_exists(name, staging.CARD, revision=revision or MAIN):
                _write_card(folder, name, str(saved.config.name_or_path), tags or [])
        else:
            _save_tokenizer(saved, api, name, revision or MAIN, folder)
        staging.check_secrets(folder)
        return commit_folder(
            api,
            folder,
            name,
            revision or MAIN,
            commit_message or f"Upload {'model' if is_model else 'tokenizer'}",
            # The manifest of an earlier release is no longer valid.
            replaced=lambda path: path == staging.MANIFEST or (is_model and is_weights(path)),
            description=commit_description,
            create_pr=create_pr,
            patience=PATIENT,
        ).info


def _write_card(folder: Path, name: str, origin: str, tags: list[str]) -> None:
    """Writes the card of a saved model.

    Args:
        origin: directory or repository that the model was loaded from.
    """
    from huggingface_hub import ModelCard, ModelCardData

    try:
        head_of(read_config(folder))
    except UsageError:
        # Only the user knows the task of a class of their own: the Hub's template leaves it open.
        metadata = ModelCardData(library_name="transformers", tags=tags)
        ModelCard.from_template(metadata, model_id=name).save(folder / staging.CARD)
        return
    record = staging.last_record(Path(origin))
    base = record["base"] if record else ModelReference.parse(origin).name
    is_base = is_repository(base) and base != name
    staging.write_card(folder, name, tags=tags, base_model=base if is_base else None)


def _save_tokenizer(tokenizer: Any, api: HfApi, repository: str, revision: str, folder: Path) -> None:
    """Saves a tokenizer with the maximum length of the repository's model, if there is one."""
    from huggingface_hub.errors import RemoteEntryNotFoundError, RevisionNotFoundError

    before = tokenizer.model_max_length
    with suppress(RemoteEntryNotFoundError, RevisionNotFoundError, UsageError):
        config = read_config(Path(api.hf_hub_download(repository, "config.json", revision=revision)).parent)
        if isinstance(config.get("max_position_embeddings"), int):
            tokenizer.model_max_length = config["max_position_embeddings"]
    try:
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.model_max_length = before
