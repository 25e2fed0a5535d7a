"""What the results of a training say of the paper's findings, each by a rule that is told with the answer.

Every figure is computed from results with what they keep of each example, and from the logs of runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.evaluation.metrics.intervals import bootstrap
from llm_jp_modernbert.evaluation.report.plots import Measured
from llm_jp_modernbert.evaluation.tasks.fill_mask import FillMask, FillMaskPublishedTokenizer

from ..about import Estimate, Finding
from . import comparisons, finding_plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_WORSE = 0.01
"""Nats of held-out loss that count as no difference."""

_CONTEXTS = "pseudo-perplexity", "improved"

Found = tuple[Finding, Callable[[Finding], "Figure"]]
"""A finding, and what draws it."""


@dataclass(frozen=True)
class Roles:
    """Which model and run is what.

    Attributes:
        states: those of the training in their order; by the names that results call them, what plots call them, such
            as `stage1 step 500`.
        stage1: the one that stage 2 began with.
        stage2: the last one.
        other_theta: a stage 2 from the same start with another RoPE theta of the global layers; None for none.
        boundary: tokens of a row of stage 1.
        thetas: of stage 2 and of the other.
        packed: courses of runs with packed rows, one for each seed.
        padded: as many of runs with one document a row.
    """

    states: Mapping[str, str]
    stage1: str
    stage2: str
    other_theta: str | None
    boundary: int
    thetas: tuple[float, float] | None
    packed: Sequence[Mapping[str, Sequence[float]]]
    padded: Sequence[Mapping[str, Sequence[float]]]


def findings(measured: Sequence[Measured], roles: Roles) -> Iterator[Found]:
    """All that can be tested with what there is.

    Args:
        measured: of the models that `roles` names, and of others.
        roles: which of them is what.

    Raises:
        UsageError: two measurements that are compared are not of the same texts.
    """
    for test in (longer_context, trade_off, packing, theta, mask_defect):
        found = test(measured, roles)
        if found is not None:
            yield found


def longer_context(measured: Sequence[Measured], roles: Roles) -> Found | None:
    """Whether stage 2 helps beyond the rows of stage 1, and only there."""
    pair = together(measured, *_CONTEXTS, [roles.stage2, roles.stage1])
    if pair is None:
        return None
    ours, theirs = pair
    ratios = comparisons.perplexity_ratios(ours.instances, theirs.instances)
    beyond, within = _split(ratios, roles.boundary)
    if not beyond or not within:
        return None
    shorter, longer = max(within), max(beyond)
    gain = comparisons.gain_by_context(ours.instances, theirs.instances, shorter, longer)
    lower_within = [context for context, one in within.items() if one.high is not None and one.high < 1]
    remarks = [
        f"From {shorter:,} to {longer:,} tokens of context the ratio itself changes by a factor of {_shown(gain)}: "
        "below 1, stage 2 made better use of the additional context, whatever it gained by training on."
    ]
    if lower_within:
        remarks.append(
            f"Stage 2 is further training, too: it is lower already at {_listed(lower_within)} tokens, where no "
            "context is new."
        )
    finding = Finding(
        "context",
        f"Stage 2 lowers pseudo-perplexity beyond {roles.boundary:,} tokens and not below",
        f"Yes, if the whole interval of the ratio of pseudo-perplexities, end of stage 2 / end of stage 1, lies "
        f"below 1 at every context of more than {roles.boundary:,} tokens, and at none up to it.",
        (
            (f"lower at every context beyond {roles.boundary:,} tokens", _all_below(beyond)),
            (f"lower at none up to {roles.boundary:,} tokens", not lower_within),
        ),
        (*ratios.values(), gain),
        "ratio of pseudo-perplexities; 95 % interval over documents",
        remarks,
    )
    absolute = {roles.states[os.path.normpath(one.rows[0].model)]: _absolute(one) for one in (theirs, ours)}
    return finding, lambda told: finding_plots.by_context(
        told, absolute, ratios, roles.boundary, ("stage 2", "stage 1")
    )


def trade_off(measured: Sequence[Measured], roles: Roles) -> Found | None:
    """Whether one of alignment and uniformity is paid for with the other in the course of training."""
    names = [name for name in roles.states if _of(measured, "alignment-uniformity", "improved", name)]
    states = together(measured, "alignment-uniformity", "improved", names) if len(names) > 2 else None
    if states is None:
        return None
    alignments, uniformities, correlation = comparisons.trade_off([one.instances for one in states])
    steps = [
        (after.value - before.value) * (later.value - earlier.value)
        for before, after, earlier, later in zip(
            alignments, alignments[1:], uniformities, uniformities[1:], strict=False
        )
    ]
    finding = Finding(
        "trade-off",
        "Alignment and uniformity trade off along training",
        "Yes, if the whole interval of Spearman's rank correlation of the two over the checkpoints is negative: the "
        "more uniform, the worse aligned.",
        (("the correlation is negative", correlation.high is not None and correlation.high < 0),),
        (
            correlation,
            *(
                Estimate(f"{one.name}, {roles.states[name]}", one.value, one.examples, one.low, one.high)
                for name, *both in zip(names, alignments, uniformities, strict=True)
                for one in both
            ),
        ),
        "lower is better for both; 95 % interval over passages",
        [
            f"From checkpoint to checkpoint the two move in opposite directions {sum(step < 0 for step in steps)} "
            f"times of {len(steps)}.",
            f"The interval is over passages: {len(names)} checkpoints of one run say little of other runs.",
        ],
    )
    labels = [roles.states[name] for name in names]
    return finding, lambda told: finding_plots.trade_off(told, labels, alignments, uniformities)


def packing(measured: Sequence[Measured], roles: Roles) -> Found | None:
    """Whether packed rows teach no less than padded ones, at equal tokens and at equal time."""
    if not roles.packed:
        return None
    pairs = list(zip(roles.packed, roles.padded, strict=True))
    estimates = [comparisons.loss_differences(pairs, axis) for axis in comparisons.AXES]
    parts = tuple((f"no worse {one.name}", one.high is not None and one.high < NO_WORSE) for one in estimates)
    ends = [
        f"{axis} {min(min(a[axis][-1], b[axis][-1]) for a, b in pairs):,.0f} to "
        f"{max(max(a[axis][-1], b[axis][-1]) for a, b in pairs):,.0f}"
        for one, axis in zip(estimates, comparisons.AXES, strict=True)
    ]
    finding = Finding(
        "packing",
        "Packed rows without attention across documents teach as well as padded and truncated ones",
        f"Yes, if the whole interval of the difference in held-out loss, packed − padded, lies below {NO_WORSE:g} "
        "nats, at equal tokens read as well as at equal time.",
        parts,
        estimates,
        f"difference in held-out loss, nats; 95 % interval of Student's t over {len(pairs)} pairs of seeds",
        [
            f"Each pair is compared where the shorter of its runs ended, and the longer is read off there "
            f"({'; '.join(ends)}). A run that is read off before its end has not had the end of its schedule.",
            "Padding is never computed here: in time, padded rows lose what short rows cost, and not the padding "
            "itself, which other implementations compute as well.",
        ],
    )
    return finding, lambda told: finding_plots.courses(told, roles.packed, roles.padded)


def theta(measured: Sequence[Measured], roles: Roles) -> Found | None:
    """Whether the greater theta of two stages 2 is better at long contexts."""
    if roles.other_theta is None or roles.thetas is None:
        return None
    pair = together(measured, *_CONTEXTS, [roles.stage2, roles.other_theta])
    if pair is None:
        return None
    thetas, (ours, theirs) = zip(*sorted(zip(roles.thetas, pair, strict=True), key=lambda one: -one[0]), strict=True)
    high, low = (f"{value:,.0f}" for value in thetas)
    ratios = comparisons.perplexity_ratios(ours.instances, theirs.instances)
    beyond, _ = _split(ratios, roles.boundary)
    if not beyond:
        return None
    finding = Finding(
        "theta",
        f"A RoPE theta of {high} at stage 2 lowers pseudo-perplexity beyond {roles.boundary:,} tokens against {low}",
        f"Yes, if the whole interval of the ratio of pseudo-perplexities, theta {high} / theta {low}, lies below 1 at "
        f"every context of more than {roles.boundary:,} tokens.",
        ((f"lower at every context beyond {roles.boundary:,} tokens", _all_below(beyond)),),
        tuple(ratios.values()),
        "ratio of pseudo-perplexities; 95 % interval over documents",
        [
            f"The whole interval lies above 1, theta {low} being better, at {_listed(above) or 'none'}"
            f"{' tokens' if above else ' of the contexts'}."
            for above in [[context for context, one in ratios.items() if one.low is not None and one.low > 1]]
        ],
    )
    absolute = {f"theta {value:,.0f}": _absolute(one) for value, one in zip(thetas, (ours, theirs), strict=True)}
    return finding, lambda told: finding_plots.by_context(told, absolute, ratios, roles.boundary, (high, low))


def mask_defect(measured: Sequence[Measured], roles: Roles) -> Found | None:
    """Whether the published tokenizer's space after the mask costs right answers, with the weights of stage 2."""
    tasks = (FillMask.name, FillMaskPublishedTokenizer.name)
    pairs: dict[str, tuple[Measured, Measured]] = {}
    for name in roles.states:
        ours, theirs = (_of(measured, task, "improved", name) for task in tasks)
        common = set(ours) & set(theirs)
        if common:
            key = max(common, key=lambda one: ours[one].rows[0].examples)
            pairs[name] = ours[key], theirs[key]
    if roles.stage2 not in pairs:
        return None
    estimates, p_value = comparisons.accuracy_differences(*(one.instances for one in pairs[roles.stage2]))
    others = [
        Estimate(f"top-1 accuracy, {roles.states[name]}", one.value, one.examples, one.low, one.high)
        for name, pair in pairs.items()
        if name != roles.stage2
        for one in comparisons.accuracy_differences(*(side.instances for side in pair))[0][:1]
    ]
    finding = Finding(
        "mask",
        "The published tokenizer's space after the mask costs right answers",
        "Yes, if the whole interval of the difference in top-1 accuracy over the fill-mask prompts, without − with "
        "the space, lies above 0 for the weights of the end of stage 2.",
        (("the accuracy is higher without the space", estimates[0].low is not None and estimates[0].low > 0),),
        (*estimates, *others),
        "difference of shares; 95 % interval over prompts",
        [f"McNemar's exact test of top-1 accuracy: p = {p_value:.3g}."],
    )
    labels = {"as here": 0, "with the published tokenizer's ▁ after the mask": 1}
    values = {label: [_accuracy(pair[side]) for pair in pairs.values()] for label, side in labels.items()}
    names = [roles.states[name] for name in pairs]
    return finding, lambda told: finding_plots.accuracies(told, names, values)


def together(measured: Sequence[Measured], task: str, protocol: str, models: Sequence[str]) -> list[Measured] | None:
    """The same measurement of several models, or None where they have none in common; that of most examples.

    Args:
        measured: to choose from.
        task: as results name it.
        protocol: one of `PROTOCOLS`.
        models: as results name them.
    """
    by_model = [_of(measured, task, protocol, model) for model in models]
    common = set.intersection(*(set(found) for found in by_model)) if by_model else set()
    if not common:
        return None
    key = max(sorted(common), key=lambda one: by_model[0][one].rows[0].examples)
    return [found[key] for found in by_model]


def _of(measured: Sequence[Measured], task: str, protocol: str, model: str) -> dict[str, Measured]:
    """Measurements of one model, by all that they depend on."""
    found: dict[str, Measured] = {}
    for one in measured:
        row = one.rows[0]
        if (row.task, row.protocol, os.path.normpath(row.model)) == (task, protocol, model):
            key = json.dumps([row.dataset_revision, row.seed, row.settings], sort_keys=True, default=str)
            if key in found and found[key].rows[0].revision != row.revision:
                raise UsageError(
                    f"{task} of {model}: results of two states of its weights ({found[key].rows[0].revision} and "
                    f"{row.revision}). Move those of the older one out of the folder."
                )
            found[key] = one
    return found


def _split(ratios: Mapping[int, Estimate], boundary: int) -> tuple[dict[int, Estimate], dict[int, Estimate]]:
    """Those at contexts beyond a length, and those up to it."""
    return (
        {context: one for context, one in ratios.items() if context > boundary},
        {context: one for context, one in ratios.items() if context <= boundary},
    )


def _all_below(ratios: Mapping[int, Estimate]) -> bool:
    return all(one.high is not None and one.high < 1 for one in ratios.values())


def _absolute(measured: Measured) -> dict[int, float]:
    return {
        row.context: row.value
        for row in measured.rows
        if row.metric == "pseudo_perplexity" and row.subset and row.context and row.value is not None
    }


def _accuracy(measured: Measured) -> Estimate:
    import numpy as np

    right = np.array([one["rank"] == 1 for one in measured.instances if one["rank"] is not None], float)
    interval = bootstrap((right,), lambda sample, axis: sample.mean(axis=axis), 0)
    return Estimate("top-1 accuracy", float(right.mean()), len(right), *interval)


def _shown(one: Estimate) -> str:
    return f"{one.value:.3f}" + ("" if one.low is None else f" ({one.low:.3f} to {one.high:.3f})")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(f"{number:,}" for number in numbers)
