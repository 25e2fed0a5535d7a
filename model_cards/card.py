"""The model card of a release: all that it says is computed from facts that are given, and nothing else."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from . import facts, markdown, numbers
from .metadata import metadata

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from .about import About

TEMPLATE = "model_card.md"


def model_card(about: About) -> ModelCard:
    """The card; equal facts give equal bytes.

    Args:
        about: the facts.

    Raises:
        UsageError: the configuration is none of a ModernBERT model, or two results contradict each other.
    """
    import jinja2
    from huggingface_hub import ModelCard

    environment = jinja2.Environment(
        # Whatever a template prints is escaped, unless it was made as Markdown.
        finalize=markdown.text,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        code=markdown.code,
        plain=markdown.plain,
        literal=markdown.literal,
        link=markdown.link,
        target=markdown.target,
        about=numbers.about,
        about_japanese=numbers.about_japanese,
        number=numbers.setting,
    )
    template = environment.from_string(
        files("llm_jp_modernbert.model_cards").joinpath("templates", TEMPLATE).read_text("utf-8")
    )
    body = template.render(about=about, **facts.facts(about))
    return ModelCard(f"---\n{metadata(about).to_yaml()}\n---\n\n{body}")
