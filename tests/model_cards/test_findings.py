"""Findings follow from results by their rules, with the statistics that scipy or a hand gives."""

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
from llm_jp_modernbert.evaluation.report.plots import Measured
from llm_jp_modernbert.evaluation.report.results import Measurement, Results, Run
from llm_jp_modernbert.model_cards import commands
from llm_jp_modernbert.model_cards.about import Finding
from llm_jp_modernbert.model_cards.research import comparisons
from llm_jp_modernbert.model_cards.research.findings import Roles, findings
from llm_jp_modernbert.model_cards.research.measured import main

CONTEXTS = (512, 1024, 2048, 4096)
SEEDS = 4


def contexts(gains: dict[int, float], seed: int = 0) -> list[dict[str, Any]]:
    """Instances of pseudo-perplexity of 30 documents, whose losses are less by some nats at some contexts."""
    drawn = np.random.default_rng(seed)
    documents = np.random.default_rng(1).normal(3, 0.5, (30, 8))
    return [
        {
            "document": number,
            "context": context,
            "cross_entropies": (losses + drawn.normal(0, 0.02, 8) - gains.get(context, 0.0)).tolist(),
            "characters": [2] * 8,
        }
        for number, losses in enumerate(documents)
        for context in CONTEXTS
    ]


def means(instances: Sequence[dict[str, Any]], context: int) -> np.ndarray:
    return np.array([np.mean(one["cross_entropies"]) for one in instances if one["context"] == context])


def geometry(apart: float, spread: float, seed: int = 0) -> list[dict[str, Any]]:
    """Instances of alignment-uniformity: how far apart partners are, and how far all texts."""
    drawn = np.random.default_rng(seed)
    pairs = [{"pair": n, "squared_distance": apart * value} for n, value in enumerate(drawn.uniform(0.5, 1.5, 200))]
    return pairs + [{"text": n, "closeness": math.exp(-spread * v)} for n, v in enumerate(drawn.uniform(1, 3, 400))]


def prompts(ranks: Sequence[int]) -> list[dict[str, Any]]:
    return [{"id": f"p{number}", "rank": rank} for number, rank in enumerate(ranks)]


def course(losses: Sequence[float], tokens: int = 1000, seconds: float = 10.0) -> dict[str, list[float]]:
    steps = range(len(losses))
    return {"tokens": [tokens * n for n in steps], "seconds": [seconds * n for n in steps], "loss": list(losses)}


def measured(model: str, task: str, instances: list[dict[str, Any]], **changes: Any) -> Measured:
    run = Run(
        **{
            **{"task": task, "model": model, "revision": f"sha256:{model}", "protocol": "improved", "settings": {}},
            **{"seed": 0, "dataset": "texts.jsonl", "dataset_revision": "sha256:1", "split": "all", "examples": 30},
            "text_files": ("texts.jsonl",) if task == "pseudo-perplexity" else (),
            **changes,
        }
    )
    found = [Measurement("accuracy", 0.5)]
    if task == "pseudo-perplexity":
        found = [
            Measurement(
                "pseudo_perplexity", float(np.exp(means(instances, one).mean())), False, f"context-{one}", context=one
            )
            for one in CONTEXTS
        ]
    with TemporaryDirectory() as folder:
        return Measured(Results(folder).write(run, found), instances)


ROLES = Roles(
    states={"s0": "stage1 step 0", "s1": "stage1 step 9", "s2": "stage2 step 5"},
    stage1="s1",
    stage2="s2",
    other_theta="other",
    boundary=1024,
    thetas=(160_000.0, 10_000.0),
    packed=[course([8, 4, 3 + 0.01 * seed]) for seed in range(SEEDS)],
    padded=[course([8, 5, 4 + 0.01 * seed], seconds=20.0) for seed in range(SEEDS)],
)


def world(gains: dict[int, float], spreads: Sequence[float] = (1.0, 0.8, 0.6)) -> list[Measured]:
    """Results in which stage 2 gains something, partners come closer, and the space after masks hurts."""
    return [
        measured("s1", "pseudo-perplexity", contexts({}, 1)),
        measured("s2", "pseudo-perplexity", contexts(gains, 2)),
        measured("other", "pseudo-perplexity", contexts({2048: 0.1}, 3)),
        *(
            measured(model, "alignment-uniformity", geometry(apart, spread))
            for model, apart, spread in zip(ROLES.states, (1.0, 0.8, 0.6), spreads, strict=True)
        ),
        measured("s2", "fill-mask", prompts([1] * 40 + [2] * 60)),
        measured("s2", "fill-mask-published-tokenizer", prompts([1] * 20 + [9] * 80)),
    ]


def answers(found: Sequence[Measured], roles: Roles = ROLES) -> dict[str, bool]:
    return {finding.key: finding.holds for finding, _ in findings(found, roles)}


def test_findings_that_are_so() -> None:
    found = world({2048: 0.5, 4096: 0.6})
    assert answers(found) == dict.fromkeys(("context", "trade-off", "packing", "theta", "mask"), True)


def test_findings_that_are_not() -> None:
    # Stage 2 gains everywhere; nothing at the longest context against the other theta; partners come closer and all
    # texts farther apart.
    found = world({512: 0.2, 1024: 0.2, 2048: 0.5, 4096: 0.0}, spreads=(0.6, 0.8, 1.0))
    roles = replace(ROLES, packed=ROLES.padded, padded=ROLES.packed)
    assert answers(found, roles) == {
        "context": False,
        "trade-off": False,
        "packing": False,
        "theta": False,
        "mask": True,
    }
    everywhere = dict.fromkeys(CONTEXTS, 0.2)
    (context, _), *_ = findings(world(everywhere), ROLES)
    assert [is_so for _, is_so in context.parts] == [True, False]
    assert not context.holds


def test_what_was_not_measured_is_not_told() -> None:
    roles = replace(ROLES, other_theta=None, packed=[], padded=[])
    kept = [one for one in world({2048: 0.5}) if one.rows[0].task == "alignment-uniformity"]
    assert list(answers(kept, roles)) == ["trade-off"]
    assert answers([], roles) == {}


def test_two_states_of_one_model_are_told() -> None:
    found = [*world({}), measured("s2", "pseudo-perplexity", contexts({}), revision="sha256:older")]
    with pytest.raises(UsageError, match="two states of its weights"):
        list(findings(found, ROLES))


def test_ratios_of_perplexity() -> None:
    ours, theirs = contexts({2048: 0.1}, 1), contexts({}, 2)
    for context, found in comparisons.perplexity_ratios(ours, theirs).items():
        differences = means(ours, context) - means(theirs, context)
        assert found.value == pytest.approx(math.exp(differences.mean()))
        # Of means that are nearly normal, the bootstrap's interval is nearly Student's.
        interval = np.log([found.low, found.high])
        students = stats.ttest_1samp(differences, 0).confidence_interval()
        assert interval == pytest.approx([students.low, students.high], abs=0.3 * (students.high - students.low))
    gain = comparisons.gain_by_context(ours, theirs, 512, 2048)
    assert gain.value == pytest.approx(math.exp(-0.1), abs=0.02)


def test_other_targets_are_told() -> None:
    other = [{**one, "characters": [1] * 8} for one in contexts({})]
    with pytest.raises(UsageError, match="not of the same targets"):
        comparisons.perplexity_ratios(contexts({}), other)


def test_alignment_against_uniformity() -> None:
    states = [geometry(spread, spread, seed) for seed, spread in enumerate((1.0, 0.7, 0.9, 0.5))]
    alignments, uniformities, correlation = comparisons.trade_off(states)
    for state, alignment, uniformity in zip(states, alignments, uniformities, strict=True):
        distances = [one["squared_distance"] for one in state if "pair" in one]
        students = stats.ttest_1samp(distances, 0).confidence_interval()
        assert alignment.value == pytest.approx(np.mean(distances))
        assert [alignment.low, alignment.high] == pytest.approx([students.low, students.high], rel=0.02)
        assert uniformity.value == pytest.approx(math.log(np.mean([v["closeness"] for v in state if "text" in v])))
    points = [[one.value for one in axis] for axis in (alignments, uniformities)]
    assert correlation.value == pytest.approx(stats.spearmanr(*points).statistic)
    with pytest.raises(UsageError, match="200, 199 values"):
        comparisons.trade_off([states[0], states[1][1:]])


def test_accuracies_of_the_same_prompts() -> None:
    # Eight prompts are right in the first way alone, two in the second alone.
    ours, theirs = prompts([1] * 18 + [3] * 12), prompts([1] * 10 + [7] * 8 + [1] * 2 + [3] * 10)
    (top1, top5, mrr), p_value = comparisons.accuracy_differences(ours, theirs)
    assert top1.value == pytest.approx((18 - 12) / 30)
    assert top5.value == pytest.approx((30 - 22) / 30)
    assert mrr.value == pytest.approx((18 + 12 / 3 - 10 - 8 / 7 - 2 - 10 / 3) / 30)
    assert p_value == pytest.approx(2 * sum(math.comb(10, wrong) for wrong in range(3)) / 2**10)
    differences = [1] * 8 + [-1] * 2 + [0] * 20
    half = 1.96 * np.std(differences) / math.sqrt(30)
    assert [top1.low, top1.high] == pytest.approx([0.2 - half, 0.2 + half], abs=0.05)
    with pytest.raises(UsageError, match="not of the same prompts"):
        comparisons.accuracy_differences(ours, theirs[1:])


def test_courses_at_equal_tokens_and_time(tmp_path: Path) -> None:
    log = [
        {"step": 0, "eval_loss": 8.0},
        {"step": 10, "loss": 7.0, "tokens": 1000, "tokens_per_second": 100.0},
        {"step": 10, "eval_loss": 6.0},
        {"step": 20, "loss": 5.0, "tokens": 3000, "tokens_per_second": 200.0},
        {"step": 20, "eval_loss": 4.0},
        {"step": 25, "eval_loss": 3.0},
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    found = comparisons.course(tmp_path)
    assert found == {"tokens": [0, 1000, 3000], "seconds": [0, 10, 20], "loss": [8, 6, 4]}
    # The other ends at 1,500 tokens, after 15 seconds.
    pairs = [(found, {"tokens": [0, 1500], "seconds": [0, 15], "loss": [8, last]}) for last in (5.0, 5.2, 5.6)]
    by_tokens, by_time = (comparisons.loss_differences(pairs, axis) for axis in comparisons.AXES)
    assert by_tokens.value == pytest.approx(5.5 - (5.0 + 5.2 + 5.6) / 3)
    assert by_time.value == pytest.approx(5.0 - (5.0 + 5.2 + 5.6) / 3)
    students = stats.ttest_1samp([0.5, 0.3, -0.1], 0).confidence_interval()
    assert (by_tokens.low, by_tokens.high) == pytest.approx((students.low, students.high))
    assert comparisons.loss_differences(pairs[:1], "tokens").low is None
    with pytest.raises(UsageError, match="no course of a training"):
        comparisons.course(tmp_path / "nowhere")


def _curve(losses: Sequence[float]) -> dict[str, list[float | None]]:
    steps = [10 * number for number in range(len(losses))]
    tokens = [None, *(100 * step for step in steps[1:])]
    return {"step": steps, "tokens": tokens, "loss": losses, "eval_loss": losses, "eval_masked_accuracy": losses}


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A staged release of two stages, and results of its checkpoints, below the working directory."""
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "staged")
    stages = [
        {"stage": stage, "steps": 20, "tokens": 2000, "recipe": {"sequence_length": 1024}, "curve": _curve(losses)}
        for stage, losses in (("stage1", [8.0, 7.0, 6.0]), ("stage2", [6.0, 5.5, 5.0]))
    ]
    (tmp_path / "staged" / "training.json").write_text(json.dumps({"schema": 1, "stages": stages}))
    (tmp_path / "staged" / "recipe.yaml").write_text("stage: stage2\n")
    names = {"s0": "runs/small/checkpoint-0", "s1": "runs/small", "s2": "runs/small-8k"}
    for one in world({2048: 0.5, 4096: 0.6}):
        model = names.get(one.rows[0].model)
        if model is not None:
            row = one.rows[0]
            run = Run(row.task, model, row.revision, "improved", {"dtype": "float32"}, 0, *_data(row))
            found = [replace(Measurement(row.metric, row.value), subset=row.subset) for row in one.rows]
            Results("results").write(run, found, one.instances)
    (tmp_path / "card").mkdir()
    told = {"name": "small-aozora", "license": "apache-2.0", "languages": ["ja"], "commands": ["train it"]}
    (tmp_path / "card" / "card.json").write_text(json.dumps(told))
    return tmp_path / "card"


def _data(row: Any) -> tuple[Any, ...]:
    return row.dataset, row.dataset_revision, row.split, row.examples, (), row.text_files


ARGUMENTS = ["card", "--release", "staged", "--stage1", "runs/small", "--stage2", "runs/small-8k"]


def test_a_finished_card(trained: Path) -> None:
    main(ARGUMENTS)
    text = (trained / "README.md").read_text(encoding="utf-8")
    assert "### Stage 2 lowers pseudo-perplexity beyond 1,024 tokens and not below: yes" in text
    assert "| stage1 | 0 | 0 | 8.000 |" in text
    assert "| stage2 | 20 | 4,000 | 5.000 |" in text
    assert text.count("](assets/finding-") == 3
    everyday = text[text.index("| Text | Likeliest tokens |") :].split("\n\n")[0]
    assert len(everyday.splitlines()) == 12
    assert "train it\n" in text
    assert (
        "llm-jp-modernbert evaluate runs/small runs/small-8k \\\n"
        "    --tasks pseudo-perplexity --texts DATA/texts.jsonl --dtype float32" in text
    )
    assert "python -m llm_jp_modernbert.model_cards.research.measured card --release staged --results results" in text
    told = {one["key"]: Finding(**one) for one in json.loads((trained / "findings.json").read_text())}
    assert list(told) == ["context", "trade-off", "mask"]
    assert {path.suffix for path in trained.rglob("*") if path.is_file()} <= {".json", ".md", ".png", ".yaml"}
    shown = CliRunner().invoke(app, ["leaderboard", "--results", str(trained / "results"), "--format", "csv"]).output
    models = list(dict.fromkeys(line.split(",")[0] for line in shown.splitlines()[1:]))
    assert models == [f"small-aozora@{state}" for state in ("stage1-step-0", "stage1-step-20", "stage2-step-20")]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["--stage2", "runs/other"], "holds no results of that name"),
        (["--packed", "runs/a"], "as many runs of either kind"),
        (["--results", "nowhere"], "no such folder of results"),
        (["--release", "nowhere"], "cannot be read"),
    ],
)
def test_what_is_missing_is_told(trained: Path, changes: list[str], told: str) -> None:
    with pytest.raises(SystemExit, match=told):
        main([*ARGUMENTS, *changes])


def test_commands_of_figures() -> None:
    points = [{"learning_rate": rate, "epochs": epochs, "value": 0.8} for rate in (5e-5, 3e-5) for epochs in (3, 4)]
    (fine_tuned,) = measured("a model", "jsts", [], settings={"dtype": "bfloat16"}, seed=2).rows
    of_source = {"settings": {"source": "jaquad", "pooling": "cls"}, "selector": "retrieval:jaquad"}
    found = [
        replace(fine_tuned, grid=points),
        *measured("m", "retrieval", [], **of_source, protocol="paper").rows,
        *measured("m", "fill-mask", [], settings={"limit": 5}).rows,
        *measured("n", "fill-mask", [], settings={"limit": 5}).rows,
    ]
    assert commands.evaluations(found) == [
        "llm-jp-modernbert evaluate 'a model' \\\n    --tasks jsts --data-dir DATA --seed 2 "
        "--learning-rate 5e-05 --learning-rate 3e-05 --epochs 3 --epochs 4 --dtype bfloat16",
        "llm-jp-modernbert evaluate m \\\n    --tasks retrieval:jaquad --protocol paper --data-dir DATA --pooling cls",
        "llm-jp-modernbert evaluate m n \\\n    --tasks fill-mask --limit 5",
    ]
