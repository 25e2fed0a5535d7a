"""The tab that colours the tokens of a text by their probability."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import gradio as gr

from llm_jp_modernbert.inference.fill_mask import readable

from .inputs import check_text, with_alerts
from .models import DemoModel, Tokens, choose_model, model_named
from .perplexity import Guess, budget_of, guesses, passes_for
from .wording import Language, phrase

_EXAMPLE = "彼は毎朝六時に起きて、近くの公園を散歩します。昨日は雨が降ったので、家で豆腐を読みました。"
# The probability exp(-8), 0.03 %, and lower ones have the strongest colour.
_STRONGEST = 8


def render(language: Language, model: DemoModel, text: str, tokens: Tokens, guessed: Sequence[Guess]) -> str:
    """The text as HTML, each token with a colour for its probability."""
    tokenizer = model.encoder.tokenizer
    pieces, end = [], 0
    for place, guess in zip(tokens.places, guessed, strict=True):
        span = tokens.spans[place]
        if span is None:
            continue
        # Bytes of one character share its span.
        begin = max(span[0], end)
        name = readable(tokenizer, tokens.ids[place])
        facts = phrase(
            language,
            "token_probability",
            token=name,
            percentage=100 * math.exp(guess.log_probability),
            best=readable(tokenizer, guess.best),
        )
        strength = min(-guess.log_probability / _STRONGEST, 1)
        pieces.append(html.escape(text[end:begin]))
        pieces.append(
            f'<span tabindex="-1" data-facts="{html.escape(facts)}" style="--strength: {strength:.2f}">'
            f"{html.escape(text[begin : span[1]]) or '·'}</span>"
        )
        end = max(end, span[1])
    pieces.append(html.escape(text[end:]))
    value = math.exp(-sum(guess.log_probability for guess in guessed) / len(guessed))
    return f'<h3>{phrase(language, "pseudo_perplexity", value=value)}</h3><div class="heat">{"".join(pieces)}</div>'


def build(models: Sequence[DemoModel], language: gr.State, i18n: gr.I18n) -> None:
    """Adds the tab's components."""
    gr.Markdown(i18n("heat_map_about"))
    model = choose_model(models, i18n)
    text = gr.Textbox(label=i18n("text"), lines=4, max_lines=12, value=_EXAMPLE, elem_id="heat-map-text")
    button = gr.Button(i18n("measure"), variant="primary")
    result = gr.HTML(elem_id="heat-map-result")

    @with_alerts
    def show(language: Language, label: str, text: str, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        text = check_text(text)
        chosen = model_named(models, label)
        tokens = chosen.tokenize(text)
        passes = passes_for(len(tokens.places), budget_of(chosen))
        guessed = guesses(chosen, tokens.ids, tokens.places, passes, progress)
        key = "each_alone" if passes == len(tokens.places) else "several_masked"
        note = phrase(language, key, tokens=len(tokens.places), passes=passes)
        return f"{render(language, chosen, text, tokens, guessed)}<p class='note'>{note}</p>"

    # One long text at a time, so that the other tabs stay quick.
    gr.on([button.click, text.submit], show, [language, model, text], result, concurrency_limit=1)
