"""Findings follow from results by their criteria; statistics equal those of scipy or a hand computation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from checkpoints import write_checkpoint
from scipy import stats
from typer.testing import CliRunner

from llm_jp_modernbert.cli import app
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.results import Measurement, Results, Run
from llm_jp_modernbert.evaluation.report.plots import Measured
from llm_jp_modernbert.model_cards import commands
from llm_jp_modernbert.model_cards.facts import Finding
from llm_jp_modernbert.model_cards.research.findings import (
    AXES,
    Models,
    accuracy_differences,
    embedding_metrics,
    findings,
    gain_by_context,
    learning_curve,
    loss_differences,
    perplexity_ratios,
)
from llm_jp_modernbert.model_cards.research.measured import main

CONTEXTS = (512, 1024, 2048, 4096)
SEEDS = 4


def perplexity_outputs(gains: dict[int, float], seed: int = 0) -> list[dict[str, Any]]:
    """Outputs of pseudo-perplexity for 30 documents; `gains` lowers the loss at some contexts, in nats."""
    noise = np.random.default_rng(seed)
    documents = np.random.default_rng(1).normal(3, 0.5, (30, 8))
    return [
        {
            "document": number,
            "context": context,
            "cross_entropies": (losses + noise.normal(0, 0.02, 8) - gains.get(context, 0.0)).tolist(),
            "characters": [2] * 8,
        }
        for number, losses in enumerate(documents)
        for context in CONTEXTS
    ]


def mean_losses(outputs: Sequence[dict[str, Any]], context: int) -> np.ndarray:
    return np.array([np.mean(output["cross_entropies"]) for output in outputs if output["context"] == context])


def embedding_outputs(distance: float, spread: float, seed: int = 0) -> list[dict[str, Any]]:
    """Outputs of alignment-uniformity with a mean distance of pairs and a spread of all texts."""
    generator = np.random.default_rng(seed)
    distances, spreads = distance * generator.uniform(0.5, 1.5, 200), spread * generator.uniform(1, 3, 400)
    pairs = [{"pair": number, "squared_distance": value} for number, value in enumerate(distances)]
    return pairs + [{"text": number, "closeness": math.exp(-value)} for number, value in enumerate(spreads)]


def prompt_outputs(ranks: Sequence[int]) -> list[dict[str, Any]]:
    return [{"id": f"p{number}", "rank": rank} for number, rank in enumerate(ranks)]


def curve(losses: Sequence[float], tokens: int = 1000, seconds: float = 10.0) -> dict[str, list[float]]:
    steps = range(len(losses))
    return {
        "tokens": [tokens * step for step in steps],
        "seconds": [seconds * step for step in steps],
        "loss": [*losses],
    }


def measured(model: str, task: str, outputs: list[dict[str, Any]], **changes: Any) -> Measured:
    """A result with its per-example outputs."""
    run = Run(
        **{
            **{"task": task, "model": model, "revision": f"sha256:{model}", "protocol": "default", "settings": {}},
            **{"seed": 0, "dataset": "texts.jsonl", "dataset_revision": "sha256:1", "split": "all", "examples": 30},
            **changes,
        }
    )
    measurements = [Measurement("accuracy", 0.5)]
    if task == "pseudo-perplexity":
        measurements = [
            Measurement(
                "pseudo_perplexity",
                float(np.exp(mean_losses(outputs, context).mean())),
                higher_is_better=False,
                subset=f"context-{context}",
                context=context,
            )
            for context in CONTEXTS
        ]
    with TemporaryDirectory() as folder:
        return Measured(Results(folder).write(run, measurements), outputs)


MODELS = Models(
    checkpoints={"s0": "stage1 step 0", "s1": "stage1 step 9", "s2": "stage2 step 5"},
    stage1="s1",
    stage2="s2",
    other_theta="other",
    boundary=1024,
    thetas=(160_000.0, 10_000.0),
    packed=[curve([8, 4, 3 + 0.01 * seed]) for seed in range(SEEDS)],
    padded=[curve([8, 5, 4 + 0.01 * seed], seconds=20.0) for seed in range(SEEDS)],
)


def results(gains: dict[int, float], spreads: Sequence[float] = (1.0, 0.8, 0.6)) -> list[Measured]:
    """Results in which stage 2 gains `gains`, pairs get closer during training, and the space after masks hurts."""
    distances = (1.0, 0.8, 0.6)
    return [
        measured("s1", "pseudo-perplexity", perplexity_outputs({}, 1)),
        measured("s2", "pseudo-perplexity", perplexity_outputs(gains, 2)),
        measured("other", "pseudo-perplexity", perplexity_outputs({2048: 0.1}, 3)),
        *(
            measured(model, "alignment-uniformity", embedding_outputs(distance, spread))
            for model, distance, spread in zip(MODELS.checkpoints, distances, spreads, strict=True)
        ),
        measured("s2", "fill-mask", prompt_outputs([1] * 40 + [2] * 60)),
        measured("s2", "fill-mask-published-tokenizer", prompt_outputs([1] * 20 + [9] * 80)),
    ]


def answers(found: Sequence[Measured], models: Models = MODELS) -> dict[str, bool]:
    return {finding.key: finding.holds for finding, _ in findings(found, models)}


def test_findings_hold_if_the_criteria_are_met() -> None:
    assert answers(results({2048: 0.5, 4096: 0.6})) == dict.fromkeys(
        ("context", "trade-off", "packing", "theta", "mask"), True
    )


def test_findings_do_not_hold_if_the_criteria_are_not_met() -> None:
    # Stage 2 gains at every context except the longest, where it does not beat the other theta either; alignment and
    # uniformity improve together; padded rows are better than packed ones.
    contradicting = results({512: 0.2, 1024: 0.2, 2048: 0.5, 4096: 0.0}, spreads=(0.6, 0.8, 1.0))
    models = replace(MODELS, packed=MODELS.padded, padded=MODELS.packed)
    assert answers(contradicting, models) == {
        "context": False,
        "trade-off": False,
        "packing": False,
        "theta": False,
        "mask": True,
    }


def test_finding_holds_only_if_all_conditions_are_met() -> None:
    (context, _), *_ = findings(results(dict.fromkeys(CONTEXTS, 0.2)), MODELS)
    assert [is_met for _, is_met in context.conditions] == [True, False]
    assert not context.holds


def test_findings_without_results_are_omitted() -> None:
    models = replace(MODELS, other_theta=None, packed=[], padded=[])
    kept = [result for result in results({2048: 0.5}) if result.rows[0].task == "alignment-uniformity"]
    assert list(answers(kept, models)) == ["trade-off"]
    assert answers([], models) == {}


def test_results_of_different_weights_raise() -> None:
    older = measured("s2", "pseudo-perplexity", perplexity_outputs({}), revision="sha256:older")
    with pytest.raises(UsageError, match="two different weights"):
        list(findings([*results({}), older], MODELS))


def test_perplexity_ratios() -> None:
    ours, theirs = perplexity_outputs({2048: 0.1}, 1), perplexity_outputs({}, 2)
    for context, ratio in perplexity_ratios(ours, theirs).items():
        differences = mean_losses(ours, context) - mean_losses(theirs, context)
        assert ratio.value == pytest.approx(math.exp(differences.mean()))
        # For means that are nearly normal, the bootstrap interval is close to Student's.
        interval = np.log([ratio.low, ratio.high])
        students = stats.ttest_1samp(differences, 0).confidence_interval()
        assert interval == pytest.approx([students.low, students.high], abs=0.3 * (students.high - students.low))
    gain = gain_by_context(ours, theirs, 512, 2048)
    assert gain.value == pytest.approx(math.exp(-0.1), abs=0.02)


def test_different_targets_raise() -> None:
    other = [{**output, "characters": [1] * 8} for output in perplexity_outputs({})]
    with pytest.raises(UsageError, match="different targets"):
        perplexity_ratios(perplexity_outputs({}), other)


def test_trade_off_of_alignment_and_uniformity() -> None:
    checkpoints = [embedding_outputs(value, value, seed) for seed, value in enumerate((1.0, 0.7, 0.9, 0.5))]
    alignments, uniformities, correlation = embedding_metrics(checkpoints)
    for outputs, alignment, uniformity in zip(checkpoints, alignments, uniformities, strict=True):
        distances = [output["squared_distance"] for output in outputs if "pair" in output]
        closeness = [output["closeness"] for output in outputs if "text" in output]
        students = stats.ttest_1samp(distances, 0).confidence_interval()
        assert alignment.value == pytest.approx(np.mean(distances))
        assert [alignment.low, alignment.high] == pytest.approx([students.low, students.high], rel=0.02)
        assert uniformity.value == pytest.approx(math.log(np.mean(closeness)))
    points = [[estimate.value for estimate in metric] for metric in (alignments, uniformities)]
    assert correlation.value == pytest.approx(stats.spearmanr(*points).statistic)
    with pytest.raises(UsageError, match="200, 199 values"):
        embedding_metrics([checkpoints[0], checkpoints[1][1:]])


def test_accuracy_differences_on_the_same_prompts() -> None:
    # Eight prompts are correct only in the first result, two only in the second.
    ours = prompt_outputs([1] * 18 + [3] * 12)
    theirs = prompt_outputs([1] * 10 + [7] * 8 + [1] * 2 + [3] * 10)
    (top1, top5, mrr), p_value = accuracy_differences(ours, theirs)
    assert top1.value == pytest.approx((18 - 12) / 30)
    assert top5.value == pytest.approx((30 - 22) / 30)
    assert mrr.value == pytest.approx((18 + 12 / 3 - 10 - 8 / 7 - 2 - 10 / 3) / 30)
    assert p_value == pytest.approx(2 * sum(math.comb(10, wrong) for wrong in range(3)) / 2**10)
    differences = [1] * 8 + [-1] * 2 + [0] * 20
    half = 1.96 * np.std(differences) / math.sqrt(30)
    assert [top1.low, top1.high] == pytest.approx([0.2 - half, 0.2 + half], abs=0.05)
    with pytest.raises(UsageError, match="not on the same prompts"):
        accuracy_differences(ours, theirs[1:])


def test_loss_differences_at_equal_tokens_and_time(tmp_path: Path) -> None:
    log = [
        {"step": 0, "eval_loss": 8.0},
        {"step": 10, "loss": 7.0, "tokens": 1000, "tokens_per_second": 100.0},
        {"step": 10, "eval_loss": 6.0},
        {"step": 20, "loss": 5.0, "tokens": 3000, "tokens_per_second": 200.0},
        {"step": 20, "eval_loss": 4.0},
        {"step": 25, "eval_loss": 3.0},
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    ours = learning_curve(tmp_path)
    assert ours == {"tokens": [0, 1000, 3000], "seconds": [0, 10, 20], "loss": [8, 6, 4]}
    # The other runs end at 1,500 tokens, after 15 seconds.
    pairs = [(ours, {"tokens": [0, 1500], "seconds": [0, 15], "loss": [8, last]}) for last in (5.0, 5.2, 5.6)]
    by_tokens, by_time = (loss_differences(pairs, axis) for axis in AXES)
    assert by_tokens.value == pytest.approx(5.5 - (5.0 + 5.2 + 5.6) / 3)
    assert by_time.value == pytest.approx(5.0 - (5.0 + 5.2 + 5.6) / 3)
    students = stats.ttest_1samp([0.5, 0.3, -0.1], 0).confidence_interval()
    assert (by_tokens.low, by_tokens.high) == pytest.approx((students.low, students.high))
    assert loss_differences(pairs[:1], "tokens").low is None
    with pytest.raises(UsageError, match="cannot be read"):
        learning_curve(tmp_path / "missing")


def logged_curve(losses: Sequence[float]) -> dict[str, list[float | None]]:
    steps = [10 * number for number in range(len(losses))]
    tokens = [None, *(100 * step for step in steps[1:])]
    return {"step": steps, "tokens": tokens, "loss": losses, "eval_loss": losses, "eval_masked_accuracy": losses}


@pytest.fixture
def card_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with card.json, next to a staged release of two stages and the results of its checkpoints."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "staged")
    stages = [
        {
            "stage": stage,
            "steps": 20,
            "tokens": 2000,
            "recipe": {"sequence_length": 1024},
            "curve": logged_curve(losses),
        }
        for stage, losses in (("stage1", [8.0, 7.0, 6.0]), ("stage2", [6.0, 5.5, 5.0]))
    ]
    (tmp_path / "staged" / "training.json").write_text(json.dumps({"schema": 1, "stages": stages}))
    (tmp_path / "staged" / "recipe.yaml").write_text("stage: stage2\n")
    names = {"s0": "runs/small/checkpoint-0", "s1": "runs/small", "s2": "runs/small-8k"}
    for result in results({2048: 0.5, 4096: 0.6}):
        row = result.rows[0]
        if row.model not in names:
            continue
        data = row.dataset, row.dataset_revision, row.split, row.examples
        texts = ("texts.jsonl",) if row.task == "pseudo-perplexity" else ()
        settings = {"dtype": "float32"}
        run = Run(row.task, names[row.model], row.revision, "default", settings, 0, *data, text_files=texts)
        measurements = [
            Measurement(row.metric, row.value, subset=row.subset, context=row.context) for row in result.rows
        ]
        Results("results").write(run, measurements, result.instances)
    (tmp_path / "card").mkdir()
    card = {"name": "small-aozora", "license": "apache-2.0", "languages": ["ja"], "commands": ["train it"]}
    (tmp_path / "card" / "card.json").write_text(json.dumps(card))
    return tmp_path / "card"


ARGUMENTS = ["card", "--release", "staged", "--stage1", "runs/small", "--stage2", "runs/small-8k"]


@pytest.mark.usefixtures("warm_checks")
def test_finished_card(card_folder: Path) -> None:
    main(ARGUMENTS)
    text = (card_folder / "README.md").read_text(encoding="utf-8")
    assert "### Stage 2 lowers pseudo-perplexity only beyond 1,024 tokens of context: yes" in text
    assert "| stage1 | 0 | 0 | 8.000 |" in text
    assert "| stage2 | 20 | 4,000 | 5.000 |" in text
    assert text.count("](assets/finding-") == 3
    predictions = text[text.index("| Text | Top predictions |") :].split("\n\n")[0]
    assert len(predictions.splitlines()) == 12
    assert "train it\n" in text
    assert (
        "llm-jp-modernbert evaluate runs/small runs/small-8k \\\n"
        "    --tasks pseudo-perplexity --texts DATA/texts.jsonl --dtype float32" in text
    )
    assert (
        "python -m llm_jp_modernbert.model_cards.research.measured card --release staged --stage1 runs/small" in text
    )
    written = [Finding(**finding) for finding in json.loads((card_folder / "findings.json").read_text())]
    assert [finding.key for finding in written] == ["context", "trade-off", "mask"]
    suffixes = {path.suffix for path in card_folder.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".md", ".png", ".yaml"}
    arguments = ["leaderboard", "--results", str(card_folder / "results"), "--format", "csv"]
    table = CliRunner().invoke(app, arguments).output.splitlines()
    models = list(dict.fromkeys(line.split(",")[0] for line in table[1:]))
    assert models == [f"small-aozora@{name}" for name in ("stage1-step-0", "stage1-step-20", "stage2-step-20")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--stage2", "runs/other"], "--stage2 runs/other: results has no results of this run"),
        (["--packed", "runs/a"], "the same number of runs"),
        (["--results", "nowhere"], "nowhere"),
        (["--release", "nowhere"], "cannot be read"),
    ],
)
def test_missing_inputs_are_reported(card_folder: Path, changes: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main([*ARGUMENTS, *changes])


def test_evaluate_commands_of_results() -> None:
    (fine_tuned,) = measured("a model", "jsts", [], settings={"dtype": "bfloat16"}, seed=2).rows
    grid = [{"learning_rate": rate, "epochs": epochs} for rate in (5e-05, 3e-05) for epochs in (3, 4)]
    retrieval = {"selector": "retrieval:jaquad", "settings": {"pooling": "cls"}, "protocol": "paper"}
    rows = [
        replace(fine_tuned, grid=grid),
        *measured("m", "retrieval", [], **retrieval).rows,
        *measured("m", "fill-mask", [], settings={"limit": 5}).rows,
        *measured("n", "fill-mask", [], settings={"limit": 5}).rows,
    ]
    assert commands.evaluations(rows) == [
        "llm-jp-modernbert evaluate 'a model' \\\n    --tasks jsts --data-dir DATA --seed 2 "
        "--learning-rate 5e-05 --learning-rate 3e-05 --epochs 3 --epochs 4 --dtype bfloat16",
        "llm-jp-modernbert evaluate m \\\n    --tasks retrieval:jaquad --protocol paper --data-dir DATA --pooling cls",
        "llm-jp-modernbert evaluate m n \\\n    --tasks fill-mask --limit 5",
    ]
