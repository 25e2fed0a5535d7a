"""The tab that compares sentences with each other."""

from __future__ import annotations

import html
from collections.abc import Sequence

import gradio as gr
import numpy as np

from .inputs import InputError, check_text, with_alerts
from .models import DemoModel, choose_model, model_named
from .wording import Language

MAX_SENTENCES = 20

_EXAMPLE = """弟が庭でボールを蹴っています。
男の子が外でサッカーをしています。
姉は台所でカレーを作っています。
夕食の準備をしている人がいます。
株価が大きく下がりました。"""


def matrix(model: DemoModel, sentences: Sequence[str]) -> np.ndarray:
    """The cosine of each pair of sentences, float32 `(sentences, sentences)`.

    Raises:
        InputError: a sentence has more tokens than the model reads.
    """
    for sentence in sentences:
        model.tokenize(sentence)
    with model.lock:
        vectors = model.encoder.encode(sentences)
    return vectors @ vectors.T


def render(sentences: Sequence[str], cosines: np.ndarray) -> str:
    """A table as HTML; colours range from the least to the most similar pair of different sentences."""
    others = cosines[~np.eye(len(sentences), dtype=bool)]
    low, range_ = others.min(), max(float(np.ptp(others)), 1e-6)
    head = "".join(f"<th>{number}</th>" for number in range(1, len(sentences) + 1))
    rows = []
    for number, cells in enumerate(cosines):
        strengths = [1.0 if other == number else (cell - low) / range_ for other, cell in enumerate(cells)]
        values = "".join(
            f'<td style="--strength: {strength:.2f}">{cell:.2f}</td>'
            for cell, strength in zip(cells, strengths, strict=True)
        )
        rows.append(f"<tr><th>{number + 1}</th>{values}</tr>")
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences)
    return (
        f'<ol class="sentences">{items}</ol><div class="scrolling"><table class="matrix">'
        f"<tr><th></th>{head}</tr>{''.join(rows)}</table></div>"
    )


def build(models: Sequence[DemoModel], language: gr.State, i18n: gr.I18n) -> None:
    """Adds the tab's components."""
    gr.Markdown(i18n("similarity_about"))
    model = choose_model(models, i18n)
    text = gr.Textbox(label=i18n("sentences"), lines=5, max_lines=20, value=_EXAMPLE, elem_id="similarity-text")
    button = gr.Button(i18n("compare"), variant="primary")
    result = gr.HTML(elem_id="similarity-result")

    @with_alerts
    def show(language: Language, label: str, text: str) -> str:
        sentences = [line.strip() for line in check_text(text).splitlines() if line.strip()]
        if not 2 <= len(sentences) <= MAX_SENTENCES:
            raise InputError("number_of_sentences", count=len(sentences), limit=MAX_SENTENCES)
        chosen = model_named(models, label)
        return render(sentences, matrix(chosen, sentences))

    gr.on([button.click, text.submit], show, [language, model, text], result)
