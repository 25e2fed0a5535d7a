"""Tables and statements about models that were adapted to a domain, or whose vocabulary was changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .finetuned import share
from .formatting import Markdown, code, number, table

if TYPE_CHECKING:
    from llm_jp_modernbert.training.run.adaptation import Change, Estimate

    from .facts import ModelFacts

_PERPLEXITY, _ACCURACY = "pseudo_perplexity", "masked_accuracy"
_METRICS = {_PERPLEXITY: "pseudo-perplexity ↓", _ACCURACY: "masked accuracy ↑"}
_FIGURES = {
    "tokens": "Tokens in the vocabulary",
    "parameters": "Parameters",
    "weights_bytes": "Weights, bytes",
    "characters_per_token": "Characters per token",
    "tokens_per_character": "Tokens per character",
    "round_trips": "Documents that decoding restores, %",
    "masked_accuracy": "Masked accuracy, %",
    "span_accuracy": "Accuracy on equal spans, %",
    "loss_per_character": "Loss per character, nats",
}
_SHARES = ("round_trips", "masked_accuracy", "span_accuracy")
# New tokens that are listed.
_TERMS = 30


def adaptation(facts: ModelFacts) -> Markdown | None:
    """Measurements of the base and of the adapted model."""
    record = facts.adaptation
    if record is None:
        return None
    lines = []
    for name in ("domain", "general"):
        measured: Any = record[name]
        for metric, change in measured["metrics"].items() if measured else ():
            values = (_with_interval(metric, change[time]) for time in ("before", "after"))
            lines.append(
                [name, code(measured["name"]), _METRICS.get(metric, metric), *values, _difference(metric, change)]
            )
    return table(["Text", "Source", "Metric", "Before", "After", "Change"], lines, numbers=3)


def _with_interval(metric: str, estimate: Estimate) -> str:
    interval = ""
    if estimate["low"] is not None and estimate["high"] is not None:
        interval = f" ({_figure(metric, estimate['low'])} to {_figure(metric, estimate['high'])})"
    return _figure(metric, estimate["value"]) + interval


def _figure(metric: str, value: float) -> str:
    return share(value) if metric == _ACCURACY else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _difference(metric: str, change: Change) -> str:
    value = change["change"]["value"]
    return f"{100 * value:+.1f}" if metric == _ACCURACY else f"× {value:.3g}"


def vocabulary(facts: ModelFacts) -> Markdown | None:
    """Figures before and after a change of the vocabulary."""
    record = facts.vocabulary
    if record is None:
        return None
    before: Any = record["before"]
    after: Any = record["after"]
    lines = []
    for name, title in _FIGURES.items():
        values = [before[name], after[name]]
        if None not in values:
            shown = [share(value) if name in _SHARES else _count(value) for value in values]
            lines.append([title, *shown])
    return table(["On held-out text", "Before", "After"], lines, numbers=2)


def _count(value: float) -> str:
    return number(value) if isinstance(value, int) else f"{value:.3f}"


def terms(facts: ModelFacts) -> Markdown:
    """The first new tokens."""
    listed = facts.vocabulary["terms"] if facts.vocabulary else []
    more = f" and {len(listed) - _TERMS:,} more" if len(listed) > _TERMS else ""
    return Markdown(", ".join(code(term) for term in listed[:_TERMS]) + more)


def limits(facts: ModelFacts) -> list[str]:
    """Limits that the records show."""
    return [*_limits_of_adaptation(facts), *_limits_of_vocabulary(facts)]


def _limits_of_adaptation(facts: ModelFacts) -> list[str]:
    record, lines = facts.adaptation, []
    if record is None:
        return []
    domain = record["domain"]["metrics"].get(_PERPLEXITY)
    if domain and (domain["change"]["high"] or domain["change"]["value"]) >= 1:
        lines.append("The adaptation did not clearly improve the pseudo-perplexity of the domain.")
    if record["general"] is None:
        lines.append("It was not measured how much the model has forgotten about general text.")
    else:
        general = record["general"]["metrics"].get(_PERPLEXITY)
        if general and (general["change"]["low"] or general["change"]["value"]) > 1:
            lines.append(
                "The model has forgotten: its pseudo-perplexity of general text is × "
                f"{general['change']['value']:.3g} that of its base."
            )
    return lines


def _limits_of_vocabulary(facts: ModelFacts) -> list[str]:
    record = facts.vocabulary
    if record is None:
        return []
    if record["change"] == "extend":
        return [
            "The new tokens start as averages of the embeddings of their parts. Continue the training on texts of the "
            "domain before relying on them."
        ]
    return [
        f"Tokens that are rare or missing in {record['texts']['name']} were removed. Texts of another kind are split "
        "into more and smaller pieces."
    ]
