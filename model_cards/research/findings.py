"""Tests of the paper's findings on the results of a training run, each decided by an explicit criterion.

All figures are computed from results with their per-example outputs and from the logs of the runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.evaluation.metrics.intervals import bootstrap
from llm_jp_modernbert.evaluation.report.plots import Measured
from llm_jp_modernbert.evaluation.tasks.fill_mask import FillMask, FillMaskPublishedTokenizer

from ..facts import Estimate, Finding
from . import comparisons, finding_plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLERANCE = 0.01
"""Differences in held-out loss below this many nats count as no difference."""

_BY_CONTEXT = "pseudo-perplexity", "improved"

PlottedFinding = tuple[Finding, Callable[[Finding], "Figure"]]
"""A finding with the function that plots it."""


@dataclass(frozen=True)
class Models:
    """The models and runs to compare, by their names in the results.

    Attributes:
        checkpoints: checkpoints in training order; name in the results → label in plots, such as `stage1 step 500`.
        stage1: last checkpoint of stage 1.
        stage2: last checkpoint of stage 2.
        other_theta: a second stage 2 with another RoPE theta of the global layers; None to skip this comparison.
        boundary: sequence length of stage 1, in tokens.
        thetas: RoPE thetas of `stage2` and `other_theta`.
        packed: learning curves of runs with packed rows, one per seed.
        padded: learning curves of runs with one document per row, one per seed.
    """

    checkpoints: Mapping[str, str]
    stage1: str
    stage2: str
    other_theta: str | None
    boundary: int
    thetas: tuple[float, float] | None
    packed: Sequence[Mapping[str, Sequence[float]]]
    padded: Sequence[Mapping[str, Sequence[float]]]


def findings(measured: Sequence[Measured], models: Models) -> Iterator[PlottedFinding]:
    """Test every finding for which results exist.

    Args:
        measured: results, which may include other models.
        models: the models and runs to compare.

    Raises:
        UsageError: results to be compared are not on the same texts.
    """
    for test in (longer_context, trade_off, packing, theta, mask_space):
        finding = test(measured, models)
        if finding is not None:
            yield finding


def longer_context(measured: Sequence[Measured], models: Models) -> PlottedFinding | None:
    """Whether stage 2 helps beyond the sequence length of stage 1, and only there."""
    pair = matching_results(measured, *_BY_CONTEXT, [models.stage2, models.stage1])
    if pair is None:
        return None
    ours, theirs = pair
    boundary = models.boundary
    ratios = comparisons.perplexity_ratios(ours.instances, theirs.instances)
    beyond = [context for context in ratios if context > boundary]
    within = [context for context in ratios if context <= boundary]
    if not beyond or not within:
        return None
    shorter, longer = max(within), max(beyond)
    gain = comparisons.gain_by_context(ours.instances, theirs.instances, shorter, longer)
    factor = f"{gain.value:.3f}" if gain.low is None else f"{gain.value:.3f} ({gain.low:.3f} to {gain.high:.3f})"
    lower = [context for context, ratio in ratios.items() if _is_below(ratio, 1)]
    lower_within = [context for context in within if context in lower]
    remarks = [
        f"From {shorter:,} to {longer:,} tokens of context, the ratio changes by a factor of {factor}. "
        "Below 1, stage 2 uses the additional context better than stage 1, independently of its gain from further "
        "training."
    ]
    if lower_within:
        remarks.append(
            f"Stage 2 is also further training: it is already better at {_listed(lower_within)} tokens, a context "
            "length that stage 1 was trained on."
        )
    finding = Finding(
        "context",
        f"Stage 2 lowers pseudo-perplexity only beyond {boundary:,} tokens of context",
        "The interval of the ratio of pseudo-perplexities (end of stage 2 ÷ end of stage 1) lies entirely below 1 at "
        f"every context longer than {boundary:,} tokens and at no context of up to {boundary:,} tokens.",
        (
            (f"lower at every context longer than {boundary:,} tokens", set(beyond) <= set(lower)),
            (f"lower at no context of up to {boundary:,} tokens", not lower_within),
        ),
        (*ratios.values(), gain),
        "ratio of pseudo-perplexities, 95% interval over documents",
        remarks,
    )
    perplexities = {
        models.checkpoints[os.path.normpath(result.rows[0].model)]: _perplexities(result) for result in (theirs, ours)
    }
    return finding, lambda drawn: finding_plots.by_context(
        drawn, perplexities, ratios, boundary, ("stage 2", "stage 1")
    )


def trade_off(measured: Sequence[Measured], models: Models) -> PlottedFinding | None:
    """Whether alignment and uniformity trade off during training."""
    names = [name for name in models.checkpoints if _results_of(measured, "alignment-uniformity", "improved", name)]
    results = matching_results(measured, "alignment-uniformity", "improved", names) if len(names) > 2 else None
    if results is None:
        return None
    alignments, uniformities, correlation = comparisons.trade_off([result.instances for result in results])
    labels = [models.checkpoints[name] for name in names]
    opposite = sum(
        (alignments[step + 1].value - alignments[step].value)
        * (uniformities[step + 1].value - uniformities[step].value)
        < 0
        for step in range(len(names) - 1)
    )
    finding = Finding(
        "trade-off",
        "Alignment and uniformity trade off during training",
        "The interval of Spearman's rank correlation of the two metrics over the checkpoints is entirely negative, so "
        "that more uniform checkpoints are less aligned.",
        (("the correlation is negative", _is_below(correlation, 0)),),
        (
            correlation,
            *(
                replace(estimate, name=f"{estimate.name}, {label}")
                for label, *metrics in zip(labels, alignments, uniformities, strict=True)
                for estimate in metrics
            ),
        ),
        "lower is better for both, 95% interval over passages",
        [
            f"The two metrics move in opposite directions in {opposite} of {len(names) - 1} steps from one checkpoint "
            "to the next.",
            f"The interval is over passages; {len(names)} checkpoints of one run say little about other runs.",
        ],
    )
    return finding, lambda drawn: finding_plots.trade_off(drawn, labels, alignments, uniformities)


def packing(measured: Sequence[Measured], models: Models) -> PlottedFinding | None:
    """Whether packed rows train as well as padded ones, at equal tokens and at equal time."""
    if not models.packed:
        return None
    pairs = list(zip(models.packed, models.padded, strict=True))
    estimates = [comparisons.loss_differences(pairs, axis) for axis in comparisons.AXES]
    ranges = []
    for axis in comparisons.AXES:
        ends = [min(ours[axis][-1], theirs[axis][-1]) for ours, theirs in pairs]
        ranges.append(f"{min(ends):,.0f} to {max(ends):,.0f} {axis}")
    finding = Finding(
        "packing",
        "Packed rows without attention across documents train as well as padded and truncated ones",
        f"The interval of the difference in held-out loss (packed − padded) lies entirely below {TOLERANCE:g} nats, "
        "both at equal tokens and at equal time.",
        tuple((f"no worse {estimate.name}", _is_below(estimate, TOLERANCE)) for estimate in estimates),
        estimates,
        f"difference in held-out loss in nats, 95% interval (Student's t) over {len(pairs)} pairs of seeds",
        [
            f"Each pair is compared where its shorter run ended ({', '.join(ranges)}), with the loss of the longer "
            "run interpolated. At that point the longer run had not completed its learning-rate schedule.",
            "This implementation never computes padding: at equal time, padded rows are slower only because they are "
            "short. Implementations that compute padding are slower still.",
        ],
    )
    return finding, lambda drawn: finding_plots.learning_curves(drawn, models.packed, models.padded)


def theta(measured: Sequence[Measured], models: Models) -> PlottedFinding | None:
    """Whether the larger of two RoPE thetas in stage 2 is better at long contexts."""
    if models.other_theta is None or models.thetas is None:
        return None
    pair = matching_results(measured, *_BY_CONTEXT, [models.stage2, models.other_theta])
    if pair is None:
        return None
    by_theta = sorted(zip(models.thetas, pair, strict=True), key=lambda item: -item[0])
    (_, ours), (_, theirs) = by_theta
    high, low = (f"{value:,.0f}" for value, _ in by_theta)
    ratios = comparisons.perplexity_ratios(ours.instances, theirs.instances)
    beyond = [ratio for context, ratio in ratios.items() if context > models.boundary]
    if not beyond:
        return None
    worse = [context for context, ratio in ratios.items() if ratio.low is not None and ratio.low > 1]
    contexts = f"{_listed(worse)} tokens of context" if worse else "no context length"
    finding = Finding(
        "theta",
        f"A RoPE theta of {high} instead of {low} in stage 2 lowers pseudo-perplexity beyond {models.boundary:,} "
        "tokens",
        f"The interval of the ratio of pseudo-perplexities (theta {high} ÷ theta {low}) lies entirely below 1 at "
        f"every context longer than {models.boundary:,} tokens.",
        (
            (
                f"lower at every context longer than {models.boundary:,} tokens",
                all(_is_below(ratio, 1) for ratio in beyond),
            ),
        ),
        tuple(ratios.values()),
        "ratio of pseudo-perplexities, 95% interval over documents",
        [f"Theta {low} is better (interval entirely above 1) at {contexts}."],
    )
    perplexities = {f"theta {value:,.0f}": _perplexities(result) for value, result in by_theta}
    return finding, lambda drawn: finding_plots.by_context(drawn, perplexities, ratios, models.boundary, (high, low))


def mask_space(measured: Sequence[Measured], models: Models) -> PlottedFinding | None:
    """Whether the space that the published tokenizer inserts after the mask lowers accuracy, with equal weights."""
    pairs: dict[str, tuple[Measured, Measured]] = {}
    for name in models.checkpoints:
        ours, theirs = (
            _results_of(measured, task.name, "improved", name) for task in (FillMask, FillMaskPublishedTokenizer)
        )
        common = set(ours) & set(theirs)
        if common:
            key = max(common, key=lambda key: ours[key].rows[0].examples)
            pairs[name] = ours[key], theirs[key]
    if models.stage2 not in pairs:
        return None
    differences = {
        name: comparisons.accuracy_differences(ours.instances, theirs.instances)
        for name, (ours, theirs) in pairs.items()
    }
    estimates, p_value = differences.pop(models.stage2)
    finding = Finding(
        "mask",
        "The published tokenizer's space after the mask lowers fill-mask accuracy",
        "The interval of the difference in top-1 accuracy on the fill-mask prompts (without − with the space) lies "
        "entirely above 0 for the final weights of stage 2.",
        (("the accuracy is higher without the space", estimates[0].low is not None and estimates[0].low > 0),),
        (
            *estimates,
            *(
                replace(top1, name=f"{top1.name}, {models.checkpoints[name]}")
                for name, ((top1, *_), _) in differences.items()
            ),
        ),
        "difference of shares, 95% interval over prompts",
        [f"McNemar's exact test of top-1 accuracy: p = {p_value:.3g}."],
    )
    accuracies = {
        "without the space": [_accuracy(ours) for ours, _ in pairs.values()],
        "with the published tokenizer's ▁ after the mask": [_accuracy(theirs) for _, theirs in pairs.values()],
    }
    labels = [models.checkpoints[name] for name in pairs]
    return finding, lambda drawn: finding_plots.accuracies(drawn, labels, accuracies)


def matching_results(
    measured: Sequence[Measured], task: str, protocol: str, models: Sequence[str]
) -> list[Measured] | None:
    """Results of several models with equal data and settings; those with most examples if there are several.

    Returns:
        One result per model; None if the models have none in common.
    """
    by_model = [_results_of(measured, task, protocol, model) for model in models]
    common = set.intersection(*map(set, by_model)) if by_model else set()
    if not common:
        return None
    key = max(sorted(common), key=lambda key: by_model[0][key].rows[0].examples)
    return [results[key] for results in by_model]


def _results_of(measured: Sequence[Measured], task: str, protocol: str, model: str) -> dict[str, Measured]:
    """Results of one model by data, seed and settings."""
    results: dict[str, Measured] = {}
    for result in measured:
        row = result.rows[0]
        if (row.task, row.protocol, os.path.normpath(row.model)) == (task, protocol, model):
            key = json.dumps([row.dataset_revision, row.seed, row.settings], sort_keys=True, default=str)
            if key in results and results[key].rows[0].revision != row.revision:
                raise UsageError(
                    f"{task} of {model}: results of two different weights ({results[key].rows[0].revision} and "
                    f"{row.revision}). Move those of the older weights out of the folder."
                )
            results[key] = result
    return results


def _is_below(estimate: Estimate, limit: float) -> bool:
    return estimate.high is not None and estimate.high < limit


def _perplexities(result: Measured) -> dict[int, float]:
    """Pseudo-perplexity by tokens of context."""
    return {
        row.context: row.value
        for row in result.rows
        if row.metric == "pseudo_perplexity" and row.subset and row.context and row.value is not None
    }


def _accuracy(result: Measured) -> Estimate:
    import numpy as np

    correct = np.array([example["rank"] == 1 for example in result.instances if example["rank"] is not None], float)
    interval = bootstrap((correct,), lambda sample, axis: sample.mean(axis=axis), 0)
    return Estimate("top-1 accuracy", float(correct.mean()), len(correct), *interval)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(f"{number:,}" for number in numbers)
