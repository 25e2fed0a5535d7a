"""What two measurements of the same texts, or two courses of training, say of each other.

All intervals are of 95 %. Those over texts are percentile bootstraps that draw the same texts for both sides; those
over seeds are Student's. They tell what other texts or seeds would change, and nothing of other corpora or sizes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.evaluation.metrics.intervals import bootstrap
from llm_jp_modernbert.evaluation.tasks.alignment_uniformity import redrawn

from ..about import Estimate

Instances = Sequence[Mapping[str, Any]]

_RESAMPLES = 2000
AXES = ("tokens", "seconds")
"""What two courses of training are compared at equal amounts of."""


def perplexity_ratios(ours: Instances, theirs: Instances, seed: int = 0) -> dict[int, Estimate]:
    """Pseudo-perplexity of one model divided by another's, by tokens of context; documents are drawn anew.

    Args:
        ours: instances of the task pseudo-perplexity in the improved protocol.
        theirs: of the same targets.
        seed: of what is drawn.

    Raises:
        UsageError: the two are not of the same targets.
    """
    losses = [_losses(instances) for instances in (ours, theirs)]
    _check_same_targets(ours, theirs)
    found = {}
    for context in sorted({context for _, context in losses[0]}):
        documents = [document for document, at in losses[0] if at == context]
        samples = [np.array([of_one[document, context] for document in documents]) for of_one in losses]
        found[context] = _ratio(f"{context:,} tokens of context", samples, seed)
    return found


def gain_by_context(ours: Instances, theirs: Instances, shorter: int, longer: int, seed: int = 0) -> Estimate:
    """The ratio of `perplexity_ratios` at a longer context, divided by that at a shorter one.

    Below 1 where one model gains more by the additional context than the other does.
    """
    _check_same_targets(ours, theirs)
    losses = [_losses(instances) for instances in (ours, theirs)]
    documents = [document for document, at in losses[0] if at == longer]
    gains = [
        np.array([of_one[document, longer] - of_one[document, shorter] for document in documents]) for of_one in losses
    ]
    return _ratio(f"ratio at {longer:,} tokens, divided by that at {shorter:,}", gains, seed)


def _ratio(name: str, samples: Sequence[np.ndarray], seed: int) -> Estimate:
    def ratio(ours: np.ndarray, theirs: np.ndarray, axis: int = -1) -> Any:
        return np.exp(ours.mean(axis=axis) - theirs.mean(axis=axis))

    ours, theirs = samples
    return Estimate(name, float(ratio(ours, theirs)), len(ours), *bootstrap(samples, ratio, seed))


def _losses(instances: Instances) -> dict[tuple[int, int], float]:
    return {(one["document"], one["context"]): float(np.mean(one["cross_entropies"])) for one in instances}


def _check_same_targets(ours: Instances, theirs: Instances) -> None:
    # Other targets would stand for other characters somewhere.
    targets = [
        [(one["document"], one["context"], one["characters"]) for one in instances] for instances in (ours, theirs)
    ]
    if targets[0] != targets[1]:
        raise UsageError(
            "the two measurements of pseudo-perplexity are not of the same targets. Measure both models with one "
            "tokenizer and the same --texts, --limit and --seed."
        )


def trade_off(measured: Sequence[Instances], seed: int = 0) -> tuple[list[Estimate], list[Estimate], Estimate]:
    """Alignment and uniformity of several states of a model, and Spearman's rank correlation of the two over states.

    Pairs and texts are drawn anew, the same for all states.

    Args:
        measured: of each state the instances of the task alignment-uniformity.
        seed: of what is drawn.

    Returns:
        Alignment and uniformity of each state, and the correlation.

    Raises:
        UsageError: the states were measured on different numbers of texts.
    """
    from scipy.stats import spearmanr

    distances, closeness = (_table(measured, name) for name in ("squared_distance", "closeness"))
    drawn = np.random.default_rng(seed)
    alignments = _redrawn_means(distances, drawn)
    mean = closeness.mean(1)
    uniformities = redrawn(mean[:, None], _redrawn_means(closeness, drawn))
    points = distances.mean(1), np.log(mean)
    correlations = [spearmanr(*one).statistic for one in zip(alignments.T, np.asarray(uniformities).T, strict=True)]
    by_state = [
        [
            Estimate(name, float(value), table.shape[1], *map(float, np.quantile(of_state, (0.025, 0.975))))
            for value, of_state in zip(values, np.asarray(redraws), strict=True)
        ]
        for name, values, redraws, table in (
            ("alignment", points[0], alignments, distances),
            ("uniformity", points[1], uniformities, closeness),
        )
    ]
    correlation = Estimate(
        "rank correlation of alignment and uniformity",
        float(spearmanr(*points).statistic),
        len(measured),
        *map(float, np.quantile(correlations, (0.025, 0.975))),
    )
    return by_state[0], by_state[1], correlation


def _table(measured: Sequence[Instances], name: str) -> np.ndarray:
    """`(states, examples)`."""
    rows = [[one[name] for one in instances if name in one] for instances in measured]
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise UsageError(
            f"alignment-uniformity: the checkpoints have {', '.join(str(len(row)) for row in rows)} values of {name}. "
            "Measure all of them anew, on the same data."
        )
    return np.array(rows)


def _redrawn_means(table: np.ndarray, drawn: np.random.Generator) -> np.ndarray:
    """Means of each row over examples that are drawn anew, the same for all rows: `(states, resamples)`."""
    size = table.shape[1]
    counts = drawn.multinomial(size, np.full(size, 1 / size), _RESAMPLES)
    return table @ counts.T / size


def accuracy_differences(ours: Instances, theirs: Instances, seed: int = 0) -> tuple[list[Estimate], float]:
    """Top-1 and top-5 accuracy and mean reciprocal rank of one way to read the fill-mask prompts, less another's.

    Prompts are drawn anew.

    Args:
        ours: instances of the task fill-mask.
        theirs: of the same prompts.
        seed: of what is drawn.

    Returns:
        The differences, and the p-value of McNemar's exact test of the first.

    Raises:
        UsageError: the two are not of the same prompts.
    """
    from scipy.stats import binomtest

    ranks = [{one["id"]: one["rank"] for one in side if one["rank"] is not None} for side in (ours, theirs)]
    if list(ranks[0]) != list(ranks[1]) or not ranks[0]:
        raise UsageError("the two measurements of fill-mask are not of the same prompts. Measure both with the same.")
    places = [np.array(list(of_one.values())) for of_one in ranks]

    def difference(one: np.ndarray, other: np.ndarray, axis: int = -1) -> Any:
        return one.mean(axis=axis) - other.mean(axis=axis)

    estimates = []
    for name, score in (
        ("top-1 accuracy", lambda rank: (rank == 1).astype(float)),
        ("top-5 accuracy", lambda rank: (rank <= 5).astype(float)),
        ("mean reciprocal rank", lambda rank: 1 / rank),
    ):
        samples = tuple(score(rank) for rank in places)
        interval = bootstrap(samples, difference, seed)
        estimates.append(Estimate(name, float(difference(*samples)), len(places[0]), *interval))
    right = [rank == 1 for rank in places]
    won, lost = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    return estimates, float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def course(run: Path) -> dict[str, list[float]]:
    """Held-out loss in the course of a run, with what had been spent by then.

    Args:
        run: its directory, or that of one of its checkpoints.

    Returns:
        `loss` in nats, `tokens` and `seconds`, lists of equal length.

    Raises:
        UsageError: there is no trainer_state.json, or no held-out loss beside a training loss in it.
    """
    path = run / "trainer_state.json"
    try:
        log = json.loads(path.read_text(encoding="utf-8"))["log_history"]
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path}: no course of a training ({error}). Name the directory of a run.") from error
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
            f"{path}: no held-out loss at a step that is logged. Give validation_data, eval_strategy=steps, and "
            "eval_steps that are a multiple of logging_steps."
        )
    return {name: list(values) for name, values in zip((*AXES, "loss"), zip(*points, strict=True), strict=True)}


def loss_differences(
    pairs: Sequence[tuple[Mapping[str, Sequence[float]], Mapping[str, Sequence[float]]]], axis: str
) -> Estimate:
    """Held-out loss of one course less another's, where the shorter of the two has ended; the mean over pairs.

    Args:
        pairs: two courses for each seed.
        axis: one of `AXES`.
    """
    from scipy.stats import t

    found = []
    for ours, theirs in pairs:
        at = min(ours[axis][-1], theirs[axis][-1])
        found.append(float(np.interp(at, ours[axis], ours["loss"]) - np.interp(at, theirs[axis], theirs["loss"])))
    mean = float(np.mean(found))
    name = f"at equal {'tokens' if axis == 'tokens' else 'time'}"
    if len(found) < 2:
        return Estimate(name, mean, len(found))
    half = float(t.ppf(0.975, len(found) - 1) * np.std(found, ddof=1) / np.sqrt(len(found)))
    return Estimate(name, mean, len(found), mean - half, mean + half)
