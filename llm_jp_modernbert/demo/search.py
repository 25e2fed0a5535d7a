"""The tab that searches a pasted document."""

from __future__ import annotations

import html
from collections.abc import Sequence

import gradio as gr

from llm_jp_modernbert.tokenization.spans import Span

from .inputs import check_text, with_alerts
from .models import DemoModel, choose_model, model_named
from .passages import similarities
from .wording import Language, phrase

TOP_K = 5

_MAX_QUESTION = 1000
_DOCUMENT = """図書館は午前九時に開き、午後八時に閉まります。月曜日は休館日です。
本は一人十冊まで、二週間借りることができます。予約した人がいなければ、もう一度だけ延ばせます。
閲覧室での食事はご遠慮ください。ふたの付いた飲み物は持ち込めます。
自転車は建物の裏にある駐輪場に停めてください。駐車場はありませんので、バスをご利用ください。"""
_QUESTION = "何冊まで借りられますか。"
# A click on a result scrolls to its sentence.
_SCROLL = """
element.addEventListener("click", (event) => {
  const result = event.target.closest("button[data-sentence]");
  if (!result) return;
  const sentence = element.querySelector(`mark[data-sentence="${result.dataset.sentence}"]`);
  sentence.scrollIntoView({ behavior: "smooth", block: "center" });
  sentence.focus({ preventScroll: true });
});
"""


def render(language: Language, document: str, found: Sequence[tuple[Span, float]]) -> str:
    """The best sentences as HTML, and the document with them marked: the better, the darker."""
    best = sorted(range(len(found)), key=lambda index: -found[index][1])[:TOP_K]
    results, pieces, end = [], [], 0
    for rank, index in enumerate(best, start=1):
        span, similarity = found[index]
        text = html.escape(document[slice(*span)].strip())
        results.append(
            f'<li><button data-sentence="{index}"><span>{rank}. {text}</span><span>{similarity:.3f}</span></button>'
        )
    for index in sorted(best):
        begin, after = found[index][0]
        strength = 1 - best.index(index) / TOP_K
        sentence = html.escape(document[begin:after])
        pieces.append(html.escape(document[end:begin]))
        pieces.append(
            f'<mark data-sentence="{index}" tabindex="-1" style="--strength: {strength:.2f}">{sentence}</mark>'
        )
        end = after
    pieces.append(html.escape(document[end:]))
    heading = phrase(language, "best_sentences", count=len(best), total=len(found))
    return (
        f'<h3>{heading}</h3><ol class="results">{"".join(results)}</ol><div class="document">{"".join(pieces)}</div>'
    )


def build(models: Sequence[DemoModel], language: gr.State, i18n: gr.I18n) -> None:
    """Adds the tab's components."""
    gr.Markdown(i18n("search_about"))
    model = choose_model(models, i18n)
    document = gr.Textbox(label=i18n("document"), lines=6, max_lines=12, value=_DOCUMENT, elem_id="search-document")
    question = gr.Textbox(label=i18n("question"), value=_QUESTION, elem_id="search-question")
    button = gr.Button(i18n("find"), variant="primary")
    result = gr.HTML(js_on_load=_SCROLL, elem_id="search-result")

    @with_alerts
    def show(language: Language, label: str, document: str, question: str) -> str:
        document, question = check_text(document), check_text(question, _MAX_QUESTION)
        chosen = model_named(models, label)
        return render(language, document, similarities(chosen, document, question))

    gr.on([button.click, question.submit], show, [language, model, document, question], result)
