"""The roofline model against hand computations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.cost_report import BEGIN, END, counted_part
from benchmarks.measure import COMPILED, OURS, environment
from benchmarks.recorder import ATTENTION, OTHER, PRODUCTS
from benchmarks.report import README
from benchmarks.roofline import ASSUMPTIONS, COSTS, TOTAL, Training, estimate

NAMES = yaml.safe_load(ASSUMPTIONS.read_text(encoding="utf-8"))
# Rates that make everything but the part under test free.
FREE = dict.fromkeys(NAMES, math.inf) | dict.fromkeys(
    ("kernel_gap", "kernel_launch", "wait", "optimizer_bytes", "fused_bytes"), 0.0
)
FREE |= {"attention_tile": 128.0, "window_efficiency": 1.0, "traffic_efficiency": 1.0}


def counts(layers: int = 22, **changes: Any) -> dict[str, Any]:
    cost = {
        "kernels per micro-batch": {PRODUCTS: 10 * layers, ATTENTION: 2 * layers, OTHER: 30 * layers},
        "kernels per layer": {PRODUCTS: 10.0, ATTENTION: 2.0, OTHER: 30.0},
        "bytes per token": {PRODUCTS: 0.0, ATTENTION: 0.0, OTHER: 100.0 * layers},
        "bytes per token and layer": {PRODUCTS: 0.0, ATTENTION: 0.0, OTHER: 100.0},
        "synchronizations per micro-batch": [],
        "synchronizations per optimizer step": [],
        "host ms per micro-batch": 0.0,
        **changes,
    }
    return {"settings": {"shape": "base", "layers": layers, "tokens": 65_536}, "costs": {OURS: cost, COMPILED: cost}}


def test_products_at_the_peak_and_nothing_else_use_all_of_it() -> None:
    assumed = {**FREE, "product_efficiency": 1.0, "head_efficiency": 1.0}
    values = estimate(Training(counts(), OURS), "H100", 1024, assumed)
    # All useful work is in products except for attention between tokens, a small part in short documents.
    assert 1 < values["MFU"] < 1.1
    assert values["tokens/s"] == pytest.approx(26_624 / values[TOTAL] * 1000)


def test_traffic_takes_bytes_over_bandwidth() -> None:
    assumed = {**FREE, "bandwidth_h100": 1e12}
    values = estimate(Training(counts(), OURS), "H100", 1024, assumed)
    assert values[TOTAL] == pytest.approx(1000 * 22 * 100 * 26_624 / 1e12)
    assert values["elementwise traffic of layers"] == pytest.approx(values[TOTAL])
    fused = estimate(Training(counts(), OURS, fused=True), "H100", 1024, {**assumed, "fused_bytes": 2.0})
    assert fused[TOTAL] == pytest.approx(1000 * 22 * 2 * 768 * 26_624 / 1e12)


def test_attention_costs_whole_tiles() -> None:
    """In documents of at most one tile, global and local layers cost the same per layer."""
    assumed = {**FREE, "fa2_forward": 1e12, "fa2_backward": 1e12}
    values = estimate(Training(counts(), OURS), "H100", 128, assumed)
    # The base shape has 8 global and 14 local layers.
    assert values["attention, global layers"] / values["attention, local layers"] == pytest.approx(8 / 14)
    longer = estimate(Training(counts(), OURS), "H100", 8192, assumed)
    # A window of 64 tokens on either side of a tile meets three tiles: at most three times one tile per query.
    assert longer["attention, local layers"] < 3 * values["attention, local layers"]
    assert longer["attention, global layers"] > 10 * longer["attention, local layers"] * 8 / 14


def test_host_time_counts_as_far_as_the_gpu_waits() -> None:
    assumed = {**FREE, "bandwidth_h100": 1e12, "host_speed": 1.0, "wait": 1e-3}
    busy = estimate(Training(counts(), OURS), "H100", 1024, assumed)[TOTAL]
    for host, waits, expected in ((0.5 * busy, 0, busy), (3 * busy, 0, 3 * busy), (0.0, 2, busy + 2)):
        changes = {
            "host ms per micro-batch": host,
            "synchronizations per micro-batch": [{"reason": "nonzero", "line": "", "count": waits}],
        }
        values = estimate(Training(counts(**changes), OURS), "H100", 1024, assumed)
        assert values[TOTAL] == pytest.approx(expected)


def test_readme_has_counts_and_estimates_of_every_file(tmp_path: Path) -> None:
    for state, size in (("before", 100_000.0), ("after", 50_000.0)):
        changes = {
            "bytes per token": {PRODUCTS: 0.0, ATTENTION: 0.0, OTHER: 22 * size},
            "bytes per token and layer": {PRODUCTS: 0.0, ATTENTION: 0.0, OTHER: size},
            "activation bytes per token": 1000.0,
        }
        for shape in ("base", "small"):
            content = {**counts(**changes), **environment()}
            content["settings"] |= {"documents": 1, "longest document": 1024, "predicted": 2}
            (tmp_path / f"{state}-{shape}.json").write_text(json.dumps(content), encoding="utf-8")
    lines = counted_part(tmp_path).splitlines()
    assert lines.count("| KB per token and layer | 100.0 | 50.0 | 100.0 | 50.0 |") == 2
    assert sum(line.startswith("| FlashAttention-3 |") for line in lines) == 2


def test_readme_of_the_repository_equals_its_counts() -> None:
    text = README.read_text(encoding="utf-8")
    assert counted_part(COSTS) == text.partition(BEGIN)[2].partition(END)[0].strip()


def run(arguments: list[str]) -> Any:
    return CliRunner().invoke(app, ["roofline", *arguments])


def test_command_shows_each_change(tmp_path: Path) -> None:
    for name in ("before", "after"):
        (tmp_path / f"{name}.json").write_text(json.dumps(counts()), encoding="utf-8")
    (tmp_path / "rates.yaml").write_text("fa3_forward: 5.0e+14\n", encoding="utf-8")
    files = ["--before", str(tmp_path / "before.json"), "--after", str(tmp_path / "after.json")]
    settings = [
        "--set",
        "kernel_gap=1e-6",
        "--file",
        str(tmp_path / "rates.yaml"),
        "--out",
        str(tmp_path / "out.json"),
    ]
    result = run([*files, *settings])
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert content["assumptions"]["fa3_forward"] == 5e14
    assert content["assumptions"]["kernel_gap"] == 1e-6
    utilization = {change: columns["H100, 8,192"]["MFU"] for change, columns in content["changes"].items()}
    assert utilization["FlashAttention-3"] > utilization["after, compiled layers"]
    assert utilization["after, compiled layers"] == utilization["before, layers not compiled"]
    assert len(utilization) == 6


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--set", "speed=3"], "speed"),
        (["--set", "wait=fast"], "wait"),
        (["--set", "wait=-1"], "wait"),
        (["--file", "nowhere.yaml"], "nowhere.yaml"),
        (["--before", "nowhere.json"], "nowhere.json"),
        (["--after", "nowhere.json"], "nowhere.json"),
    ],
)
def test_invalid_input_is_named(arguments: list[str], expected: str) -> None:
    result = run(arguments)
    assert result.exit_code != 0
    assert expected in str(result.exception)


def test_each_assumption_has_a_positive_value_and_a_source() -> None:
    assert all(entry["value"] > 0 and len(entry["source"]) > 10 for entry in NAMES.values())
