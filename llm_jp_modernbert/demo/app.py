"""Builds the application from its tabs and serves it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from llm_jp_modernbert.core.errors import UsageError

from . import fill_mask, heat_map, scores, search, similarity, tokens
from .models import DemoModel, load_models
from .wording import WORDING, Language, language_of

TITLE = "llm-jp-modernbert"
# Fonts of the visitor's system: a local demo loads nothing from elsewhere.
_FONTS = ("system-ui", "Hiragino Sans", "Noto Sans JP", "Noto Sans CJK JP", "sans-serif")


def build(models: Sequence[DemoModel], results: Path | None = None, language: Language | None = None) -> gr.Blocks:
    """The application.

    Args:
        models: the models that visitors can use.
        results: results directory of the evaluate command.
        language: language of messages; by default that of each visitor's browser.
    """
    i18n = wording(language)
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {TITLE}")
        visitor_language = gr.State(language or "en")
        filling = [model for model in models if model.fills_masks]
        encoding = [model for model in models if model.encodes]
        for key, tab, suitable in (
            ("fill_mask", fill_mask, filling),
            ("tokens", tokens, models),
            ("search", search, encoding),
            ("heat_map", heat_map, filling),
            ("similarity", similarity, encoding),
        ):
            with gr.Tab(i18n(key)):
                if suitable:
                    tab.build(suitable, visitor_language, i18n)
                else:
                    gr.Markdown(i18n("no_suitable_model"))
        with gr.Tab(i18n("scores")):
            scores.build(results, i18n)
        if language is None:
            blocks.load(_language, None, visitor_language, show_progress="hidden")
    return blocks.queue(max_size=64, default_concurrency_limit=8)


def wording(language: Language | None) -> gr.I18n:
    """The words of the interface; with a language, the same ones for every browser."""
    english, japanese = ({key: words[place] for key, words in WORDING.items()} for place in (0, 1))
    return gr.I18n(en=japanese if language == "ja" else english, ja=english if language == "en" else japanese)


def _language(request: gr.Request) -> Language:
    return language_of(request.headers.get("accept-language", ""))


def launch(
    names: Sequence[str],
    results: Path | None = None,
    language: Language | None = None,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
) -> tuple[gr.Blocks, str]:
    """Loads models and serves the application in the background.

    Args:
        names: local paths, repositories, or `ORG/NAME@REVISION`.
        results: results directory of the evaluate command, for the leaderboard.
        language: language of the interface; by default that of each visitor's browser.
        host: address to listen on; by default this machine only, or `GRADIO_SERVER_NAME`.
        port: by default the first free one from 7860.
        share: whether to open a public link through Gradio's servers.

    Returns:
        The application and its address.

    Raises:
        UsageError: a model cannot be loaded, the results directory is not usable, or the port is in use.
    """
    blocks = build(load_models(names), results, language)
    try:
        _, local, public = blocks.launch(
            server_name=host,
            server_port=port,
            share=share,
            quiet=True,
            prevent_thread_lock=True,
            # No tab takes files.
            max_file_size=1,
            footer_links=[],
            i18n=wording(language),
            theme=gr.themes.Default(primary_hue="indigo", font=_FONTS, font_mono=("ui-monospace", "monospace")),
            css_paths=Path(__file__).parent / "style.css",
        )
    except OSError as error:
        place = f"--host {host}" + ("" if port is None else f" --port {port}")
        raise UsageError(f"{place}: cannot listen there. Choose another address or port.") from error
    return blocks, public or local
