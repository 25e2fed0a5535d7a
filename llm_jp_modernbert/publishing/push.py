"""`push_to_hub` of this package's models and tokenizers: the same files as a release, in the same one commit."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.hub import MAIN, PATIENT, commit_folder, create_repository

from . import staging
from .release import is_weights

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
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
    """What `push_to_hub` of a model or a tokenizer does; a repository without a card gets one with a model.

    Args:
        saved: the model or tokenizer.
        repo_id: `ORG/NAME`, or a name of one's own; made where it is not there.
        format: of a model, `plain` or `native`.
        commit_message: title of the commit.
        commit_description: more of it.
        private: whether a new repository is made private.
        token: in the place of the one that is logged in.
        revision: a branch.
        create_pr: whether a pull request is opened instead.
        tags: for a new card.
        **saving: for `save_pretrained`, such as `max_shard_size`.

    Raises:
        huggingface_hub.errors.HfHubHTTPError: the Hub does not take it.
        UsageError: a public repository was to be private.
    """
    from huggingface_hub import HfApi
    from transformers.utils.hub import create_and_tag_model_card

    api = HfApi(token=token)
    name = create_repository(api, repo_id, private)
    is_model = format is not None
    with TemporaryDirectory() as aside:
        folder = Path(aside)
        if is_model:
            saved.save_pretrained(folder, format=format, **saving)
            if type(saved).__name__.endswith("ForMaskedLM"):
                if not api.file_exists(name, staging.CARD, revision=revision or MAIN):
                    staging.stage_license(staging.DEFAULT_LICENSE, None, folder)
                    staging.write_card(folder, name, tags=tags or ())
            else:
                # What a fine-tuned model is for, its user knows: transformers' own card leaves room for it.
                create_and_tag_model_card(name, tags, token=token).save(folder / staging.CARD)
        else:
            saved.save_pretrained(folder)
        return commit_folder(
            api,
            folder,
            name,
            revision or MAIN,
            commit_message or f"Upload {'model' if is_model else 'tokenizer'}",
            # The list of an earlier release is true no more.
            replaced=lambda path: path == staging.MANIFEST or (is_model and is_weights(path)),
            description=commit_description,
            create_pr=create_pr,
            patience=PATIENT,
        ).info
