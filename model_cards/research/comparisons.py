"""Paired comparisons of models on the same texts, and of training runs.

All intervals are 95% intervals. Those over texts are percentile bootstraps that draw the same texts for both models;
those over seeds use Student's t. They cover the variation over texts or seeds, not over corpora or model sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json
from llm_jp_modernbert.evaluation.metrics.intervals import bootstrap
from llm_jp_modernbert.evaluation.tasks.alignment_uniformity import redrawn

from ..facts import Estimate

Instances = Sequence[Mapping[str, Any]]
"""Per-example outputs of an evaluation."""

AXES = ("tokens", "seconds")
"""Budgets at which learning curves are compared."""

_RESAMPLES = 2000


def perplexity_ratios(ours: Instances, theirs: Instances, seed: int = 0) -> dict[int, Estimate]:
    """Pseudo-perplexity of one model divided by that of another, by context length in tokens.

    Args:
        ours: outputs of the pseudo-perplexity task, improved protocol.
        theirs: outputs of the other model for the same targets.
        seed: seed of the bootstrap over documents.

    Raises:
        UsageError: the targets differ.
    """
    losses = _losses(ours, theirs)
    ratios = {}
    for context in sorted({context for _, context in losses[0]}):
        documents = [document for document, at in losses[0] if at == context]
        samples = [np.array([of_model[document, context] for document in documents]) for of_model in losses]
        ratios[context] = _ratio(f"{context:,} tokens of context", samples, seed)
    return ratios


def gain_by_context(ours: Instances, theirs: Instances, shorter: int, longer: int, seed: int = 0) -> Estimate:
    """The ratio of `perplexity_ratios` at the longer context divided by that at the shorter one.

    Below 1, the first model benefits more from the additional context than the second.
    """
    losses = _losses(ours, theirs)
    documents = [document for document, context in losses[0] if context == longer]
    samples = [
        np.array([of_model[document, longer] - of_model[document, shorter] for document in documents])
        for of_model in losses
    ]
    return _ratio(f"ratio at {longer:,} tokens divided by ratio at {shorter:,}", samples, seed)


def trade_off(checkpoints: Sequence[Instances], seed: int = 0) -> tuple[list[Estimate], list[Estimate], Estimate]:
    """Alignment and uniformity of each checkpoint, and their Spearman rank correlation over checkpoints.

    Args:
        checkpoints: outputs of the alignment-uniformity task, one entry per checkpoint.
        seed: seed of the bootstrap over pairs and texts, which are the same for all checkpoints.

    Raises:
        UsageError: the checkpoints were evaluated on different numbers of texts.
    """
    from scipy.stats import spearmanr

    distances, closeness = (_values(checkpoints, name) for name in ("squared_distance", "closeness"))
    generator = np.random.default_rng(seed)
    alignments = _resampled_means(distances, generator)
    mean = closeness.mean(1)
    uniformities = np.asarray(redrawn(mean[:, None], _resampled_means(closeness, generator)))
    points = distances.mean(1), np.log(mean)
    correlations = [spearmanr(*sample).statistic for sample in zip(alignments.T, uniformities.T, strict=True)]
    by_checkpoint = [
        [
            Estimate(name, float(value), values.shape[1], *map(float, np.quantile(resamples, (0.025, 0.975))))
            for value, resamples in zip(of_metric, resampled, strict=True)
        ]
        for name, of_metric, resampled, values in (
            ("alignment", points[0], alignments, distances),
            ("uniformity", points[1], uniformities, closeness),
        )
    ]
    correlation = Estimate(
        "rank correlation of alignment and uniformity",
        float(spearmanr(*points).statistic),
        len(checkpoints),
        *map(float, np.quantile(correlations, (0.025, 0.975))),
    )
    return by_checkpoint[0], by_checkpoint[1], correlation


def accuracy_differences(ours: Instances, theirs: Instances, seed: int = 0) -> tuple[list[Estimate], float]:
    """Differences in top-1 accuracy, top-5 accuracy and mean reciprocal rank on the same fill-mask prompts.

    Args:
        ours: outputs of the fill-mask task.
        theirs: outputs for the same prompts, whose metrics are subtracted.
        seed: seed of the bootstrap over prompts.

    Returns:
        The differences, and the p-value of McNemar's exact test on top-1 accuracy.

    Raises:
        UsageError: the prompts differ.
    """
    from scipy.stats import binomtest

    by_prompt = [
        {example["id"]: example["rank"] for example in side if example["rank"] is not None} for side in (ours, theirs)
    ]
    if list(by_prompt[0]) != list(by_prompt[1]) or not by_prompt[0]:
        raise UsageError("the two fill-mask results are not on the same prompts. Evaluate both on the same file.")
    ranks = [np.array(list(of_side.values())) for of_side in by_prompt]

    def difference(first: np.ndarray, second: np.ndarray, axis: int = -1) -> Any:
        return first.mean(axis=axis) - second.mean(axis=axis)

    scores: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "top-1 accuracy": lambda rank: (rank == 1).astype(float),
        "top-5 accuracy": lambda rank: (rank <= 5).astype(float),
        "mean reciprocal rank": lambda rank: 1 / rank,
    }
    estimates = []
    for name, score in scores.items():
        samples = [score(rank) for rank in ranks]
        value = float(samples[0].mean() - samples[1].mean())
        estimates.append(Estimate(name, value, len(ranks[0]), *bootstrap(samples, difference, seed)))
    correct = [rank == 1 for rank in ranks]
    gained, lost = int((correct[0] & ~correct[1]).sum()), int((correct[1] & ~correct[0]).sum())
    return estimates, float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def learning_curve(run: Path) -> dict[str, list[float]]:
    """Held-out loss of a run against the tokens and seconds spent.

    Args:
        run: directory of the run or of one of its checkpoints.

    Returns:
        `loss` in nats, `tokens` and `seconds`, as lists of equal length.

    Raises:
        UsageError: trainer_state.json is missing or has no held-out loss at a logged step.
    """
    path = run / "trainer_state.json"
    try:
        log = read_json(path)["log_history"]
    except KeyError as error:
        raise UsageError(f"{path}: has no log_history. Name the directory of a run.") from error
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


def loss_differences(
    pairs: Sequence[tuple[Mapping[str, Sequence[float]], Mapping[str, Sequence[float]]]], axis: str
) -> Estimate:
    """Mean difference in held-out loss between two learning curves, where the shorter of them ends.

    Args:
        pairs: two learning curves per seed; the loss of the second is subtracted.
        axis: one of `AXES`.
    """
    from scipy.stats import t

    differences = []
    for ours, theirs in pairs:
        end = min(ours[axis][-1], theirs[axis][-1])
        losses = [float(np.interp(end, curve[axis], curve["loss"])) for curve in (ours, theirs)]
        differences.append(losses[0] - losses[1])
    mean, count = float(np.mean(differences)), len(differences)
    name = f"at equal {'tokens' if axis == 'tokens' else 'time'}"
    if count < 2:
        return Estimate(name, mean, count)
    half = float(t.ppf(0.975, count - 1) * np.std(differences, ddof=1) / np.sqrt(count))
    return Estimate(name, mean, count, mean - half, mean + half)


def _ratio(name: str, samples: Sequence[np.ndarray], seed: int) -> Estimate:
    def ratio(ours: np.ndarray, theirs: np.ndarray, axis: int = -1) -> Any:
        return np.exp(ours.mean(axis=axis) - theirs.mean(axis=axis))

    ours, theirs = samples
    return Estimate(name, float(ratio(ours, theirs)), len(ours), *bootstrap(samples, ratio, seed))


def _losses(*sides: Instances) -> list[dict[tuple[int, int], float]]:
    """Mean cross-entropy by document and context of each model."""
    targets = [
        [(example["document"], example["context"], example["characters"]) for example in side] for side in sides
    ]
    if targets[0] != targets[1]:
        raise UsageError(
            "the two pseudo-perplexity results have different targets. Evaluate both models with the same tokenizer, "
            "--texts, --limit and --seed."
        )
    return [
        {(example["document"], example["context"]): float(np.mean(example["cross_entropies"])) for example in side}
        for side in sides
    ]


def _values(checkpoints: Sequence[Instances], name: str) -> np.ndarray:
    """One value of every example, `(checkpoints, examples)`."""
    rows = [[example[name] for example in instances if name in example] for instances in checkpoints]
    if len({len(row) for row in rows}) != 1 or not rows[0]:
        raise UsageError(
            f"alignment-uniformity: the checkpoints have {', '.join(str(len(row)) for row in rows)} values of {name}. "
            "Evaluate all of them on the same data."
        )
    return np.array(rows)


def _resampled_means(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Means over resampled examples, the same for all checkpoints: `(checkpoints, resamples)`."""
    size = values.shape[1]
    counts = generator.multinomial(size, np.full(size, 1 / size), _RESAMPLES)
    return values @ counts.T / size
