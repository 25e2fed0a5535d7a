"""The tab that fills masks with several models side by side."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import gradio as gr

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.fill_mask import MASK_ALIASES, FilledText

from .inputs import InputError, alert, check_text
from .models import DemoModel
from .wording import Language, phrase

MAX_MASKS = 10
TOP_K = 8

_MASK = MASK_ALIASES[0]
_EXAMPLES = (
    "今日のご飯は[MASK]である。",
    "弟は毎朝七時に、妹と一緒に朝ごはんを[MASK]ます。",
    "[MASK]は日本で一番高い[MASK]です。",
)
# A click on a candidate becomes the event `select` with its mask and text.
_SELECT = """
element.addEventListener("click", (event) => {
  const candidate = event.target.closest("button[data-mask]");
  if (candidate) trigger("select", { mask: Number(candidate.dataset.mask), text: candidate.dataset.text });
});
"""


@dataclass(frozen=True)
class Prediction:
    """The candidates for the masks of a text, and those that the visitor has inserted.

    Attributes:
        parts: the text between its masks: one more than masks.
        results: for each model its label and its candidates, or the reason why it has none.
        chosen: for each mask the inserted text, if any.
    """

    parts: tuple[str, ...]
    results: tuple[tuple[str, FilledText | UsageError], ...]
    chosen: tuple[str | None, ...]

    @property
    def text(self) -> str:
        """The text with the inserted candidates."""
        fillings = [_MASK if text is None else text for text in self.chosen]
        return "".join(part + filling for part, filling in zip(self.parts, [*fillings, ""], strict=True))

    def insert(self, mask: int, text: str) -> Prediction:
        """Inserts a candidate at a mask, in place of one that was inserted before."""
        return replace(self, chosen=(*self.chosen[:mask], text, *self.chosen[mask + 1 :]))


def predict(models: Sequence[DemoModel], text: str | None) -> Prediction:
    """Predicts the masks of a text with each model.

    Raises:
        InputError: the text is empty, has no mask or too many.
    """
    text = check_text(text)
    spellings = {*MASK_ALIASES, *(str(model.encoder.tokenizer.mask_token) for model in models)}
    parts = re.split("|".join(map(re.escape, spellings)), text)
    if len(parts) == 1:
        raise InputError("no_mask")
    if len(parts) - 1 > MAX_MASKS:
        raise InputError("too_many_masks", count=len(parts) - 1, limit=MAX_MASKS)
    results = tuple((model.label, _fill(model, _MASK.join(parts))) for model in models)
    return Prediction(tuple(parts), results, (None,) * (len(parts) - 1))


def _fill(model: DemoModel, text: str) -> FilledText | UsageError:
    encoder = model.encoder
    try:
        model.tokenize(text.replace(_MASK, str(encoder.tokenizer.mask_token)))
        with model.lock:
            return encoder.fill_mask([text], TOP_K)[0]
    except UsageError as error:
        return error


def render(prediction: Prediction, language: Language) -> str:
    """The candidates as HTML: a column for each model, a button with a bar for each candidate."""
    columns = []
    for label, result in prediction.results:
        column = [f"<h3>{html.escape(label)}</h3>"]
        if isinstance(result, UsageError):
            column.append(alert(result, language))
        else:
            count = len(result.masks)
            for mask, candidates in enumerate(result.masks):
                if count > 1:
                    column.append(f"<h4>{phrase(language, 'mask_number', number=mask + 1, count=count)}</h4>")
                for candidate in candidates:
                    text = html.escape(candidate.text)
                    is_chosen = str(candidate.text == prediction.chosen[mask]).lower()
                    column.append(
                        f'<button class="candidate" data-mask="{mask}" data-text="{text}" aria-pressed="{is_chosen}" '
                        f'style="--share: {candidate.probability:.4f}"><span>{text}</span>'
                        f"<span>{candidate.probability:.1%}</span></button>"
                    )
        columns.append(f"<section>{''.join(column)}</section>")
    return f'<div class="columns">{"".join(columns)}</div>'


def build(models: Sequence[DemoModel], language: gr.State, i18n: gr.I18n) -> None:
    """Adds the tab's components."""
    gr.Markdown(i18n("fill_mask_about"))
    text = gr.Textbox(label=i18n("text"), lines=3, value=_EXAMPLES[0], elem_id="fill-mask-text")
    button = gr.Button(i18n("predict"), variant="primary")
    gr.Examples([[example] for example in _EXAMPLES], text, label=i18n("examples"))
    candidates = gr.HTML(js_on_load=_SELECT, elem_id="fill-mask-candidates")
    prediction = gr.State()

    def show(language: Language, text: str) -> tuple[Prediction | None, str]:
        try:
            predicted = predict(models, text)
        except UsageError as error:
            return None, alert(error, language)
        return predicted, render(predicted, language)

    def insert(
        language: Language, text: str, predicted: Prediction | None, event: gr.EventData
    ) -> tuple[str, Prediction | None, str]:
        if predicted is None or text.strip() != predicted.text:
            return text, None, alert(InputError("changed"), language)
        filled = predicted.insert(event.mask, event.text)
        return filled.text, filled, render(filled, language)

    gr.on([button.click, text.submit], show, [language, text], [prediction, candidates])
    candidates.select(insert, [language, text, prediction], [text, prediction, candidates], show_progress="hidden")
