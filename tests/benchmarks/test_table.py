"""The table of benchmarks: the file that a run writes, and the README and plot made from it. Speed is not tested."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks import report, table
from benchmarks.cases import training_step
from benchmarks.cases.encoder import realistic_lengths
from benchmarks.cases.training_step import SORTED, Batch, real_documents
from benchmarks.measure import OURS, Case, Measurement, extra_peak_megabytes, measure
from benchmarks.models import Models
from llm_jp_modernbert.core.errors import UsageError

TINY = replace(
    table.QUICK, turns=1, long_turns=1, rows=(1,), lengths=(96, 64), length=64, numbers=(1, 2, 3, 4, 5, 8, 9)
)


@pytest.fixture(scope="module", autouse=True)
def small_products() -> Iterator[None]:
    """Without instructions for bfloat16, large products take minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.models.VOCABULARY", 1000)
        patch.setattr(table, "matrix_rate", lambda dtype: 1e12)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run on tiny models."""
    path = tmp_path_factory.mktemp("results")
    table.run(TINY, "nano", None, None, path, "python -m benchmarks", Console(file=io.StringIO()))
    return path


def test_measuring_one_row_again_keeps_the_others(folder: Path, tmp_path: Path) -> None:
    before = json.loads((folder / table.FILE).read_text(encoding="utf-8"))
    (tmp_path / table.FILE).write_text(json.dumps(before), encoding="utf-8")
    only = replace(TINY, numbers=(9,))
    table.run(only, "nano", None, None, tmp_path, "python -m benchmarks --rows 9", Console(file=io.StringIO()))
    after = json.loads((tmp_path / table.FILE).read_text(encoding="utf-8"))
    assert after["cases"][:-1] == before["cases"][:-1]
    assert after["cases"][-1]["rates"] != before["cases"][-1]["rates"]


def test_rows_of_other_settings_are_not_overwritten(folder: Path, tmp_path: Path) -> None:
    before = (folder / table.FILE).read_bytes()
    (tmp_path / table.FILE).write_bytes(before)
    with pytest.raises(UsageError, match=r"table\.json has rows of other settings.*--out"):
        table.run(replace(TINY, turns=2), "nano", None, None, tmp_path, "", Console(file=io.StringIO()))
    assert (tmp_path / table.FILE).read_bytes() == before


def test_interrupted_run_keeps_earlier_rows(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = json.loads((folder / table.FILE).read_text(encoding="utf-8"))
    (tmp_path / table.FILE).write_text(json.dumps(before), encoding="utf-8")

    def interrupt(*arguments: object, **options: object) -> Case:
        raise KeyboardInterrupt

    monkeypatch.setattr(training_step, "full_rows", interrupt)
    with pytest.raises(KeyboardInterrupt):
        table.run(replace(TINY, numbers=(3, 4)), "nano", None, None, tmp_path, "", Console(file=io.StringIO()))
    after = json.loads((tmp_path / table.FILE).read_text(encoding="utf-8"))
    changed = [old["row"] for old, new in zip(before["cases"], after["cases"], strict=True) if old != new]
    assert changed == [3]
    assert after["left out"] == [5]


def test_memory_is_measured_after_the_timed_turns() -> None:
    turns: list[int] = []
    case = Case("work", "units", "a", {"a": lambda turn: turns.append(turn) or 1.0}, memory=True)
    measurement = measure(case, 2)
    assert turns == [0, 1, 2, 3][: 3 + len(measurement.extra_peak_megabytes)]
    assert len(measurement.rates["a"]) == 2
    assert set(measurement.extra_peak_megabytes) <= {"a"}
    turns.clear()
    assert measure(case, 2, memory=False).extra_peak_megabytes == {}
    assert turns == [0, 1, 2]


def test_run_writes_every_row_with_data(folder: Path) -> None:
    content = json.loads((folder / table.FILE).read_text(encoding="utf-8"))
    assert [case["row"] for case in content["cases"]] == [1, 1, 2, 3, 4, 8, 8, 8, 9]
    assert content["left out"] == [5]
    assert content["machine"]["cores"] >= 1
    assert content["machine"]["processor"]
    assert {"torch", "transformers"} <= set(content["versions"])
    assert content["matrix rate"]["float32"] > 0
    for case in content["cases"]:
        assert all(len(rates) == 1 and rates[0] > 0 for rates in case["rates"].values())
        for goal in case["goals"]:
            rates = case["rates"]
            expected = rates[case["ours"]][0] / rates[goal["against"]][0]
            assert case["ratios"][goal["against"]][case["ours"]] == pytest.approx(expected)
    assert [goal["ratio"] for goal in content["cases"][4]["goals"]] == [2.6, 1.45]


def test_readme_is_written_from_results_only(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(f"before\n\n{report.BEGIN}\nold\n{report.END}\n\nafter\n", encoding="utf-8")
    content = report.read(folder)
    report.rewrite(content, folder, file)
    written = file.read_text(encoding="utf-8")
    assert written.startswith("before\n")
    assert written.endswith("\nafter\n")
    assert "old" not in written
    first = report.comparisons(content)[0]
    line = next(line for line in written.splitlines() if line.startswith("| 1 |"))
    assert f"| {first.ratios[0]:.2f} × |" in line
    assert "Not measured, for lack of data: rows 5." in written
    report.rewrite(content, folder, file)
    assert file.read_text(encoding="utf-8") == written


def test_readme_of_the_repository_equals_its_results(tmp_path: Path) -> None:
    folder = report.README.parent / "results"
    if not (folder / table.FILE).is_file():
        pytest.skip("no results in the repository")
    text = report.README.read_text(encoding="utf-8")
    part = text.partition(report.BEGIN)[2].partition(report.END)[0].strip()
    assert part == report.measured_part(report.read(folder), f"results/{report.PLOT}")


def test_readme_without_marks_is_not_changed(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("text\n", encoding="utf-8")
    with pytest.raises(UsageError, match="lacks the marks"):
        report.rewrite(report.read(folder), folder, file)
    assert file.read_text(encoding="utf-8") == "text\n"


def test_plot_is_a_png_file(folder: Path, tmp_path: Path) -> None:
    image = report.plot(report.read(folder), tmp_path)
    assert image is not None
    assert image.read_bytes().startswith(b"\x89PNG")


def test_ratio_is_the_median_of_ratios_of_turns() -> None:
    measurement = Measurement("work", "units", "peer", {}, {}, {"peer": [1.0, 2.0, 4.0], "ours": [3.0, 4.0, 20.0]}, {})
    assert measurement.ratio("ours") == 3.0
    assert measurement.median("ours") == 4.0


def test_turns_are_interleaved_and_the_first_is_not_counted() -> None:
    order: list[tuple[str, int]] = []

    def candidate(name: str) -> Any:
        return lambda turn: order.append((name, turn)) or 1.0

    measurement = measure(Case("work", "units", "a", {"a": candidate("a"), "b": candidate("b")}), 2)
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert [len(rates) for rates in measurement.rates.values()] == [2, 2]


def test_fastest_of_several_runs_in_a_row_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"a": iter([1.0, 4.0, 2.0]), "b": iter([1.0, 5.0, 8.0])}
    order: list[str] = []
    now = 0.0

    def candidate(name: str) -> Any:
        def run(turn: int) -> float:
            nonlocal now
            order.append(name)
            now += next(seconds[name])
            return 20.0

        return run

    monkeypatch.setattr("benchmarks.measure.time.perf_counter", lambda: now)
    candidates = {name: candidate(name) for name in seconds}
    measurement = measure(Case("work", "units", "a", candidates, in_a_row=2), 1)
    assert order == ["a", "b", "a", "a", "b", "b"]
    assert measurement.rates == {"a": [10.0], "b": [4.0]}


def test_sorting_is_measured_only_if_it_changes_batches() -> None:
    models = Models("nano", vocabulary=256, device="cpu")
    for count in (4, 5):
        ids = [torch.arange(8, 8 + length) for length in range(3, 3 + count)]
        case = real_documents(models, Batch(ids, ids), 1, 64, compiled=False)
        assert (SORTED in case.candidates) == (count == 5)


def test_extra_peak_memory_includes_freed_tensors() -> None:
    megabytes = extra_peak_megabytes(lambda: torch.ones(50_000_000 // 4).sum())
    if megabytes is None:
        pytest.skip("this system does not report peak memory")
    assert 45 < megabytes < 120


def test_both_models_compute_the_same_logits() -> None:
    models = Models("nano", vocabulary=256)
    ids = torch.randint(8, 256, (2, 40), generator=torch.Generator().manual_seed(0)).to(models.device)
    with torch.inference_mode():
        ours, peer = (model(input_ids=ids).logits for model in (models.ours("float32"), models.peer("float32")))
    torch.testing.assert_close(ours, peer, atol=1e-4, rtol=1e-4)


def test_packed_and_padded_batches_have_the_same_tokens() -> None:
    lengths = realistic_lengths(6, 64)
    batch = Batch([torch.arange(8, 8 + n) for n in lengths], [torch.full((n,), -100) for n in lengths])
    for is_sorted in (False, True):
        parts = batch.padded(4, is_sorted, 4)
        real = sum(int(part["attention_mask"].sum()) for part in parts)
        assert real == batch.packed()["input_ids"].numel() == sum(lengths)
        assert sum(part["input_ids"].numel() for part in parts) == batch.padded_size(4, is_sorted)
    assert batch.padded_size(4, True) <= batch.padded_size(4, False)


def test_floor_follows_from_operations_and_matrix_rate(folder: Path) -> None:
    content = report.read(folder)
    first = report.comparisons(content)[0]
    rate = content["matrix rate"]["bfloat16"]
    needed = content["cases"][0]["operations"][OURS] / rate
    assert first.floor == pytest.approx(1 / content["cases"][0]["rates"][first.goal.against][0] / needed)


def test_readme_of_the_repository_has_the_marks() -> None:
    text = report.README.read_text(encoding="utf-8")
    assert re.search(f"{re.escape(report.BEGIN)}.*{re.escape(report.END)}", text, re.DOTALL)
