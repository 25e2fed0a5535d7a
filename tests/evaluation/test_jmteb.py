"""JMTEB through mteb, with local data instead of the benchmark's."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from evaluation_data import PLACES, SUBJECTS
from safetensors.torch import load_file, save_file
from scipy.stats import pearsonr, spearmanr
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from llm_jp_modernbert.cli import app
from llm_jp_modernbert.core.results import Results

PAIRS = [
    (f"{one}が{place}に行く。", f"{other}が{place}に着く。")
    for one, other in zip(SUBJECTS, SUBJECTS[::-1], strict=True)
    for place in PLACES
]
GRADES = [float(number * 7 % 11) / 2 for number in range(len(PAIRS))]


def invoke(model: Path, out: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", str(model), "--device", "cpu", "--out", str(out), *arguments])


def message_of(done: Result) -> str:
    return " ".join((done.output + str(done.exception)).split())


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> type:
    """A benchmark of two tasks; the data of the second one are unavailable."""
    mteb = pytest.importorskip("mteb", reason="mteb is not installed")
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    def described(name: str) -> Any:
        return TaskMetadata(
            name=name,
            dataset={"path": f"local/{name}", "revision": "0123abc"},
            description="Pairs of sentences.",
            type="STS",
            category="t2t",
            modalities=["text"],
            eval_splits=["validation"],
            eval_langs=["jpn-Jpan"],
            main_score="cosine_spearman",
        )

    class Pairs(AbsTaskSTS):
        metadata = described("Pairs")
        min_score, max_score = 0, 5

        def load_data(self, **settings: Any) -> None:
            first, second = zip(*PAIRS, strict=True)
            columns = {"sentence1": first, "sentence2": second, "score": GRADES}
            self.dataset = DatasetDict({"validation": Dataset.from_dict(columns)})
            self.data_loaded = True

    class Away(Pairs):
        metadata = described("Away")

        def load_data(self, **settings: Any) -> None:
            raise ConnectionError("Couldn't reach 'local/Away' on the Hub\nmore")

    class Benchmark:
        tasks = (Pairs(), Away())

    monkeypatch.setattr(mteb, "get_benchmark", lambda name: Benchmark)
    monkeypatch.setattr(
        TaskMetadata, "descriptive_stats", property(lambda self: {"validation": {"num_samples": len(PAIRS)}})
    )
    return Benchmark


def test_scores_equal_sentence_transformers_and_scipy(benchmark: type, modernbert: Path, tmp_path: Path) -> None:
    done = invoke(modernbert, tmp_path, "--tasks", "jmteb:Pairs")
    assert done.exit_code == 0, message_of(done)
    rows = {row.metric: row for row in Results(tmp_path).rows()}
    plain = SentenceTransformer(str(modernbert), device="cpu")
    first, second = (plain.encode(list(texts), normalize_embeddings=True) for texts in zip(*PAIRS, strict=True))
    cosines = np.sum(first * second, axis=1)
    assert set(rows) == {"cosine_spearman", "cosine_pearson"}
    assert rows["cosine_spearman"].value == pytest.approx(spearmanr(cosines, GRADES).statistic, abs=1e-6)
    assert rows["cosine_pearson"].value == pytest.approx(pearsonr(cosines, GRADES).statistic, abs=1e-6)
    row = rows["cosine_spearman"]
    assert (row.task, row.dataset, row.dataset_revision) == ("jmteb-Pairs", "local/Pairs", "0123abc")
    assert (row.split, row.examples, row.settings["mteb"]) == (
        "validation",
        len(PAIRS),
        sys.modules["mteb"].__version__,
    )


def test_embeddings_that_are_not_finite_are_reported(benchmark: type, modernbert: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(modernbert, tmp_path / "broken"))
    tensors = load_file(broken / "model.safetensors")
    save_file(
        {name: tensor * math.nan for name, tensor in tensors.items()}, broken / "model.safetensors", {"format": "pt"}
    )
    done = invoke(broken, tmp_path / "out", "--tasks", "jmteb:Pairs")
    assert "embeddings that are not finite" in message_of(done)
    assert not list((tmp_path / "out").rglob("*.json"))


def test_unavailable_dataset_does_not_stop_other_tasks(benchmark: type, modernbert: Path, tmp_path: Path) -> None:
    done = invoke(modernbert, tmp_path, "--tasks", "jmteb")
    assert done.exit_code != 0
    assert "dataset local/Away cannot be loaded from the Hub (Couldn't reach 'local/Away' on the Hub)" in message_of(
        done
    )
    assert {row.task for row in Results(tmp_path).rows()} == {"jmteb-Pairs"}
    assert "jmteb-Pairs" in (again := message_of(invoke(modernbert, tmp_path, "--tasks", "jmteb-lite")))
    assert "already measured" in again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "jmteb:Pear"], "has no such task. Choose from Pairs, Away."),
        (["--tasks", "jmteb", "--limit", "5"], "remove --limit"),
    ],
)
def test_invalid_arguments_are_reported(
    arguments: list[str], message: str, benchmark: type, modernbert: Path, tmp_path: Path
) -> None:
    done = invoke(modernbert, tmp_path, *arguments)
    assert done.exit_code != 0
    assert message in message_of(done)


def test_missing_mteb_is_reported(modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    done = invoke(modernbert, tmp_path, "--tasks", "jmteb")
    assert done.exit_code != 0
    assert "jmteb needs mteb: pip install 'llm-jp-modernbert[mteb]'" in message_of(done)
