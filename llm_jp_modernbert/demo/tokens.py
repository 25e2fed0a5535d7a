"""The tab that shows how models split a text into tokens."""

from __future__ import annotations

import html
from collections.abc import Sequence

import gradio as gr

from .inputs import check_text, with_alerts
from .models import DemoModel
from .wording import Language, phrase

SHOWN = 1000
"""Tokens that are shown of a longer text, so that browsers stay quick."""

_COLORS = 6
_EXAMPLE = "吾輩は猫である。名前はまだ無い。𩸽を食べた😺"


def render(language: Language, model: DemoModel, text: str) -> str:
    """The tokens of a text as HTML, each with its id and its offsets.

    Raises:
        InputError: the text has more tokens than the model reads.
    """
    tokens = model.tokenize(text)
    ids = tokens.ids[:SHOWN]
    names = map(str, model.encoder.tokenizer.convert_ids_to_tokens(ids))
    items = []
    for place, (token_id, name, span) in enumerate(zip(ids, names, tokens.spans, strict=False)):
        color = f"color-{place % _COLORS}" if place in tokens.places else "special"
        shown = html.escape(name if span is None else text[slice(*span)])
        offsets = "–" if span is None else f"{span[0]}–{span[1]}"
        items.append(
            f'<li class="{color}" title="{html.escape(name)}"><b>{shown}</b><i>{token_id}</i><i>{offsets}</i></li>'
        )
    counts = phrase(language, "token_counts", tokens=len(tokens.ids), characters=len(text))
    if len(tokens.ids) > SHOWN:
        counts += phrase(language, "first_tokens", count=SHOWN)
    return f'<p>{counts}</p><ol class="tokens">{"".join(items)}</ol>'


def build(models: Sequence[DemoModel], language: gr.State, i18n: gr.I18n) -> None:
    """Adds the tab's components."""
    gr.Markdown(i18n("tokens_about"))
    text = gr.Textbox(label=i18n("text"), lines=3, max_lines=12, value=_EXAMPLE, elem_id="tokens-text")
    button = gr.Button(i18n("tokenize"), variant="primary")
    result = gr.HTML(elem_id="tokens-result")

    @with_alerts
    def show(language: Language, text: str) -> str:
        text = check_text(text)
        # A text can be too long for one model only.
        shown = ((model.label, with_alerts(render)(language, model, text)) for model in models)
        return "".join(f"<section><h3>{html.escape(label)}</h3>{tokens}</section>" for label, tokens in shown)

    gr.on([button.click, text.submit], show, [language, text], result)
