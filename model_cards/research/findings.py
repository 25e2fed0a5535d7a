"""Tests of the paper's findings on the results of a training run, each decided by an explicit criterion.

All intervals are 95% intervals. Those over texts are percentile bootstraps that draw the same texts for both models;
those over seeds use Student's t. They cover the variation over texts or seeds, not over corpora or model sizes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json
from llm_jp_modernbert.core.intervals import bootstrap
from llm_jp_modernbert.evaluation.report.plots import Measured
from llm_jp_modernbert.evaluation.tasks.alignment_uniformity import redrawn
from llm_jp_modernbert.evaluation.tasks.fill_mask import FillMask, FillMaskPublishedTokenizer

from ..facts import Estimate, Finding
from . import finding_plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLERANCE = 0.01
"""Differences in held-out loss below this many nats count as no difference."""

AXES = ("tokens", "seconds")
"""Budgets at which learning curves are compared."""

Instances = Sequence[Mapping[str, Any]]
"""Per-example outputs of an evaluation."""

Curve = Mapping[str, Sequence[float]]
"""Held-out `loss` in nats against `tokens` and `seconds`."""


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
    packed: Sequence[Curve]
    padded: Sequence[Curve]


def findings(measured: Sequence[Measured], models: Models) -> Iterator[tuple[Finding, Figure]]:
    """Test and plot every finding for which results exist; `measured` may include other models.

    Raises:
        UsageError: results to be compared are not on the same texts.
    """
    for test in (longer_context, trade_off, packing, theta, mask_space):
        plotted = test(measured, models)
        if plotted is not None:
            yield plotted


def longer_context(measured: Sequence[Measured], models: Models) -> tuple[Finding, Figure] | None:
    """Whether stage 2 helps beyond the sequence length of stage 1, and only there."""
    pair = _matching_results(measured, "pseudo-perplexity", [models.stage2, models.stage1])
    if pair is None:
        return None
    ours, theirs = pair
    boundary = models.boundary
    ratios = perplexity_ratios(ours.instances, theirs.instances)
    beyond = [context for context in ratios if context > boundary]
    within = [context for context in ratios if context <= boundary]
    if not beyond or not within:
        return None
    shorter, longer = max(within), max(beyond)
    gain = gain_by_context(ours.instances, theirs.instances, shorter, longer)
    if gain.low is None:
        raise UsageError("pseudo-perplexity of a single document has no interval. Evaluate more documents.")
    lower = [context for context, ratio in ratios.items() if _is_below(ratio, 1)]
    remarks = [
        f"From {shorter:,} to {longer:,} tokens of context, the ratio changes by a factor of {gain.value:.3f} "
        f"({gain.low:.3f} to {gain.high:.3f}). Below 1, stage 2 uses the additional context better than stage 1, "
        "independently of its gain from further training."
    ]
    finding = Finding(
        "context",
        f"Stage 2 lowers pseudo-perplexity only beyond {boundary:,} tokens of context",
        "The interval of the ratio of pseudo-perplexities (end of stage 2 ÷ end of stage 1) lies entirely below 1 at "
        f"every context longer than {boundary:,} tokens and at no context of up to {boundary:,} tokens.",
        (
            (f"lower at every context longer than {boundary:,} tokens", set(beyond) <= set(lower)),
            (f"lower at no context of up to {boundary:,} tokens", set(within).isdisjoint(lower)),
        ),
        (*ratios.values(), gain),
        "ratio of pseudo-perplexities, 95% interval over documents",
        remarks,
    )
    rows = {models.checkpoints[os.path.normpath(result.model)]: result.rows for result in (theirs, ours)}
    return finding, finding_plots.by_context(
        "Pseudo-perplexity by context length at the end of each stage",
        rows,
        ratios,
        boundary,
        "ratio, stage 2 ÷ stage 1",
    )


def trade_off(measured: Sequence[Measured], models: Models) -> tuple[Finding, Figure] | None:
    """Whether alignment and uniformity trade off during training."""
    names = [name for name in models.checkpoints if _results_of(measured, "alignment-uniformity", name)]
    results = _matching_results(measured, "alignment-uniformity", names) if len(names) > 2 else None
    if results is None:
        return None
    alignments, uniformities, correlation = embedding_metrics([result.instances for result in results])
    labels = [models.checkpoints[name] for name in names]
    changes = (np.diff([estimate.value for estimate in metric]) for metric in (alignments, uniformities))
    opposite = int((np.prod(list(changes), axis=0) < 0).sum())
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
    return finding, finding_plots.trade_off(labels, alignments, uniformities)


def packing(measured: Sequence[Measured], models: Models) -> tuple[Finding, Figure] | None:
    """Whether packed rows train as well as padded ones, at equal tokens and at equal time."""
    if not models.packed:
        return None
    pairs = list(zip(models.packed, models.padded, strict=True))
    estimates = [loss_differences(pairs, axis) for axis in AXES]
    ranges = []
    for axis in AXES:
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
    return finding, finding_plots.packing(estimates, TOLERANCE)


def theta(measured: Sequence[Measured], models: Models) -> tuple[Finding, Figure] | None:
    """Whether the larger of two RoPE thetas in stage 2 is better at long contexts."""
    if models.other_theta is None or models.thetas is None:
        return None
    pair = _matching_results(measured, "pseudo-perplexity", [models.stage2, models.other_theta])
    if pair is None:
        return None
    by_theta = sorted(zip(models.thetas, pair, strict=True), key=lambda item: -item[0])
    (_, ours), (_, theirs) = by_theta
    high, low = (f"{value:,.0f}" for value, _ in by_theta)
    ratios = perplexity_ratios(ours.instances, theirs.instances)
    beyond = [ratio for context, ratio in ratios.items() if context > models.boundary]
    if not beyond:
        return None
    worse = ", ".join(f"{context:,}" for context, ratio in ratios.items() if _is_above(ratio, 1))
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
        [
            f"Theta {low} is better (interval entirely above 1) at "
            f"{f'{worse} tokens of context' if worse else 'no context length'}."
        ],
    )
    rows = {f"theta {value:,.0f}": result.rows for value, result in by_theta}
    title = f"Pseudo-perplexity by context length with RoPE theta {high} and {low} in stage 2"
    return finding, finding_plots.by_context(title, rows, ratios, models.boundary, f"ratio, theta {high} ÷ {low}")


def mask_space(measured: Sequence[Measured], models: Models) -> tuple[Finding, Figure] | None:
    """Whether the space that the published tokenizer inserts after the mask lowers accuracy, with equal weights."""
    pairs: dict[str, list[Instances]] = {}
    for name in models.checkpoints:
        ours, theirs = (_results_of(measured, task.name, name) for task in (FillMask, FillMaskPublishedTokenizer))
        common = set(ours) & set(theirs)
        if common:
            key = max(common, key=lambda key: ours[key].rows[0].examples)
            pairs[name] = [ours[key].instances, theirs[key].instances]
    if models.stage2 not in pairs:
        return None
    differences = {name: accuracy_differences(*pair) for name, pair in pairs.items()}
    estimates, p_value = differences.pop(models.stage2)
    finding = Finding(
        "mask",
        "The published tokenizer's space after the mask lowers fill-mask accuracy",
        "The interval of the difference in top-1 accuracy on the fill-mask prompts (without − with the space) lies "
        "entirely above 0 for the final weights of stage 2.",
        (("the accuracy is higher without the space", _is_above(estimates[0], 0)),),
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
    accuracies = [
        [_estimate("top-1 accuracy", [_ranks(side) == 1], np.mean) for side in sides]
        for sides in zip(*pairs.values(), strict=True)
    ]
    return finding, finding_plots.mask_space([models.checkpoints[name] for name in pairs], *accuracies)


def perplexity_ratios(ours: Instances, theirs: Instances) -> dict[int, Estimate]:
    """Pseudo-perplexity of one model divided by that of another on the same targets, by context in tokens."""
    losses = _losses(ours, theirs)
    return {
        context: _estimate(f"{context:,} tokens of context", [table[context] for table in losses], _ratio)
        for context in losses[0]
    }


def gain_by_context(ours: Instances, theirs: Instances, shorter: int, longer: int) -> Estimate:
    """The ratio of `perplexity_ratios` at the longer context divided by that at the shorter one.

    Below 1, the first model benefits more from the additional context than the second.
    """
    gains = [table[longer] - table[shorter] for table in _losses(ours, theirs)]
    return _estimate(f"ratio at {longer:,} tokens divided by ratio at {shorter:,}", gains, _ratio)


def embedding_metrics(checkpoints: Sequence[Instances]) -> tuple[list[Estimate], list[Estimate], Estimate]:
    """Alignment and uniformity of each checkpoint, and their Spearman rank correlation over checkpoints.

    Raises:
        UsageError: the checkpoints were evaluated on different numbers of texts.
    """
    values = []
    for name in ("squared_distance", "closeness"):
        rows = [[example[name] for example in instances if name in example] for instances in checkpoints]
        if len({len(row) for row in rows}) != 1 or not rows[0]:
            raise UsageError(
                f"alignment-uniformity: the checkpoints have {', '.join(str(len(row)) for row in rows)} values of "
                f"{name}. Evaluate all of them on the same data."
            )
        values.append(np.array(rows))
    distances, closeness = values
    alignments = [_estimate("alignment", [row], np.mean) for row in distances]
    uniformities = [
        _estimate("uniformity", [row], lambda sample, axis, mean=mean: redrawn(mean, sample.mean(axis=axis)))
        for mean, row in zip(closeness.mean(1), closeness, strict=True)
    ]

    def correlation(pairs: np.ndarray, texts: np.ndarray) -> float:
        resampled = redrawn(closeness.mean(1), closeness[:, texts].mean(1))
        return float(stats.spearmanr(distances[:, pairs].mean(1), resampled).statistic)

    # The same pairs and texts are drawn for all checkpoints.
    indices = [np.arange(distances.shape[1]), np.arange(closeness.shape[1])]
    interval = stats.bootstrap(
        indices, correlation, vectorized=False, n_resamples=2000, method="percentile", rng=0
    ).confidence_interval
    name = "rank correlation of alignment and uniformity"
    estimate = Estimate(name, correlation(*indices), len(checkpoints), float(interval.low), float(interval.high))
    return alignments, uniformities, estimate


def accuracy_differences(ours: Instances, theirs: Instances) -> tuple[list[Estimate], float]:
    """Differences in top-1 accuracy, top-5 accuracy and mean reciprocal rank on the same fill-mask prompts.

    Returns:
        The differences, and the p-value of McNemar's exact test on top-1 accuracy.

    Raises:
        UsageError: the prompts differ.
    """
    prompts = [[example["id"] for example in side if example["rank"] is not None] for side in (ours, theirs)]
    if prompts[0] != prompts[1] or not prompts[0]:
        raise UsageError("the two fill-mask results are not on the same prompts. Evaluate both on the same file.")
    ranks = np.array([_ranks(ours), _ranks(theirs)])
    scores = {"top-1 accuracy": ranks == 1, "top-5 accuracy": ranks <= 5, "mean reciprocal rank": 1 / ranks}
    estimates = [
        _estimate(name, list(score), lambda first, second, axis: first.mean(axis=axis) - second.mean(axis=axis))
        for name, score in scores.items()
    ]
    correct, other_correct = ranks == 1
    gained, lost = int((correct & ~other_correct).sum()), int((other_correct & ~correct).sum())
    return estimates, float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def learning_curve(run: Path) -> Curve:
    """Held-out loss of a run, or of one of its checkpoints, against the tokens and seconds spent.

    Raises:
        UsageError: trainer_state.json is missing or has no held-out loss at a logged step.
    """
    path = run / "trainer_state.json"
    log = read_json(path)["log_history"]
    spent = {0: (0.0, 0.0)}
    tokens = seconds = 0.0
    for entry in log:
        if "tokens_per_second" in entry:
            seconds += (entry["tokens"] - tokens) / entry["tokens_per_second"]
            tokens = entry["tokens"]
            spent[entry["step"]] = (tokens, seconds)
    points = [
        (*spent[entry["step"]], entry["eval_loss"]) for entry in log if "eval_loss" in entry and entry["step"] in spent
    ]
    if not points:
        raise UsageError(
            f"{path}: no held-out loss at a logged step. Set validation_data, eval_strategy=steps, and eval_steps to "
            "a multiple of logging_steps."
        )
    return {name: list(values) for name, values in zip((*AXES, "loss"), zip(*points, strict=True), strict=True)}


def loss_differences(pairs: Sequence[tuple[Curve, Curve]], axis: str) -> Estimate:
    """Mean difference in held-out loss between two learning curves per seed, where the shorter of them ends."""
    differences = []
    for curves in pairs:
        end = min(curve[axis][-1] for curve in curves)
        ours, theirs = (float(np.interp(end, curve[axis], curve["loss"])) for curve in curves)
        differences.append(ours - theirs)
    name = f"at equal {'tokens' if axis == 'tokens' else 'time'}"
    mean, count = float(np.mean(differences)), len(differences)
    if count < 2:
        return Estimate(name, mean, count)
    return Estimate(name, mean, count, *map(float, stats.ttest_1samp(differences, 0).confidence_interval()))


def _matching_results(measured: Sequence[Measured], task: str, models: Sequence[str]) -> list[Measured] | None:
    """One result per model with equal data and settings, with the most examples; None if they have none in common."""
    by_model = [_results_of(measured, task, model) for model in models]
    common = set.intersection(*map(set, by_model))
    if not common:
        return None
    key = max(sorted(common), key=lambda key: by_model[0][key].rows[0].examples)
    return [results[key] for results in by_model]


def _results_of(measured: Sequence[Measured], task: str, model: str) -> dict[str, Measured]:
    """Results of one model with the default protocol, by data, seed and settings."""
    results: dict[str, Measured] = {}
    for result in measured:
        row = result.rows[0]
        if (row.task, row.protocol, os.path.normpath(row.model)) == (task, "default", model):
            key = json.dumps([row.dataset_revision, row.seed, row.settings], sort_keys=True, default=str)
            if key in results and results[key].rows[0].revision != row.revision:
                raise UsageError(
                    f"{task} of {model}: results of two different weights ({results[key].rows[0].revision} and "
                    f"{row.revision}). Move those of the older weights out of the folder."
                )
            results[key] = result
    return results


def _losses(*sides: Instances) -> list[dict[int, np.ndarray]]:
    """Mean cross-entropy of each document by context, for each model."""
    targets = [
        [(example["document"], example["context"], example["characters"]) for example in side] for side in sides
    ]
    if targets[0] != targets[1]:
        raise UsageError(
            "the two pseudo-perplexity results have different targets. Evaluate both models with the same tokenizer, "
            "--texts, --limit and --seed."
        )
    contexts = sorted({example["context"] for example in sides[0]})
    return [
        {
            context: np.array(
                [np.mean(example["cross_entropies"]) for example in side if example["context"] == context]
            )
            for context in contexts
        }
        for side in sides
    ]


def _ratio(ours: np.ndarray, theirs: np.ndarray, axis: int) -> Any:
    return np.exp(ours.mean(axis=axis) - theirs.mean(axis=axis))


def _ranks(instances: Instances) -> np.ndarray:
    return np.array([example["rank"] for example in instances if example["rank"] is not None])


def _estimate(name: str, samples: Sequence[Any], statistic: Callable[..., Any]) -> Estimate:
    """A statistic of paired samples with its bootstrap interval."""
    arrays = [np.asarray(sample, float) for sample in samples]
    return Estimate(name, float(statistic(*arrays, axis=-1)), len(arrays[0]), *bootstrap(arrays, statistic, 0))


def _is_below(estimate: Estimate, limit: float) -> bool:
    return estimate.high is not None and estimate.high < limit


def _is_above(estimate: Estimate, limit: float) -> bool:
    return estimate.low is not None and estimate.low > limit
