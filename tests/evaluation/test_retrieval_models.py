"""Every type of retrieval model in one table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationDelete, HfApi
from loopback_hub import LoopbackHub
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from typer.testing import CliRunner, Result

from llm_jp_modernbert.cli import app
from llm_jp_modernbert.core.results import Results
from llm_jp_modernbert.evaluation.data.options import Options
from llm_jp_modernbert.evaluation.data.readers import questions
from llm_jp_modernbert.evaluation.report.leaderboard import leaderboard, render
from llm_jp_modernbert.inference.retrieval.bm25 import BM25
from llm_jp_modernbert.inference.retrieval.rankers import Ranker, Reranker, ranker_of
from llm_jp_modernbert.inference.retrieval.search import mean_metrics

TYPES: dict[str, Any] = {
    "embedder": SentenceTransformer,
    "sparse": SparseEncoder,
    "late": MultiVectorEncoder,
    "reranker": CrossEncoder,
}


@pytest.fixture(scope="module")
def models(modernbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a saved model of each type, all from one checkpoint."""
    folder = tmp_path_factory.mktemp("retrieval-models")
    for name, model_class in TYPES.items():
        settings = {"num_labels": 1} if name == "reranker" else {"prompts": {"query": "先生が ", "document": "海の "}}
        model_class(str(modernbert), device="cpu", **settings).save(str(folder / name))
    return folder


def evaluate(out: Path, data: Path, *arguments: str | Path, tasks: str = "retrieval:jsquad") -> Result:
    common = ["--tasks", tasks, "--data-dir", data, "--device", "cpu", "--out", out]
    return CliRunner().invoke(app, ["evaluate", *map(str, [*arguments, *common])])


@pytest.fixture(scope="module")
def out(models: Path, modernbert: Path, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of all types, and of the reranker over two searches."""
    out = tmp_path_factory.mktemp("results")
    named = [f"{name}={models / name}" for name in TYPES]
    done = evaluate(out, small_data, "bm25", f"base={modernbert}", *named)
    assert done.exit_code == 0, done.output
    done = evaluate(out, small_data, named[-1], "--candidates", f"first={models / 'embedder'}")
    assert done.exit_code == 0, done.output
    return out


def test_all_types_share_the_columns_of_one_table(out: Path) -> None:
    table = leaderboard(Results(out).rows())
    rerankers = {"reranker, top 50 of bm25", "reranker, top 50 of first"}
    assert set(table.models) == {"bm25", "base", "embedder", "sparse", "late", *rerankers}
    assert [column.metric for column in table.columns] == ["ndcg@10", "mrr@10", "recall@10", "recall@100"]
    assert len(table.cells) == len(table.models) * len(table.columns)
    lines = render(table, "markdown").splitlines()
    assert all(any(line.startswith(f"| {model} |") for line in lines) for model in table.models)


def test_values_equal_plain_sentence_transformers(out: Path, models: Path, small_data: Path) -> None:
    """Their own class of ModernBERT computes the same."""
    search = questions(Options(data_dir=small_data), "jsquad").search
    plain = {name: model_class(str(models / name), device="cpu") for name, model_class in TYPES.items()}
    rankers: dict[str, Ranker] = {name: ranker_of(plain[name], 4096) for name in ("embedder", "sparse", "late")}
    rankers["bm25"] = BM25()
    rankers["reranker, top 50 of bm25"] = Reranker(plain["reranker"], BM25())
    rankers["reranker, top 50 of first"] = Reranker(plain["reranker"], rankers["embedder"])
    table = leaderboard(Results(out).rows())
    for name, ranker in rankers.items():
        wanted = mean_metrics(ranker.rank(search), search)
        for column in table.columns:
            assert table.cells[name, column].mean == pytest.approx(wanted[column.metric], abs=1e-3), name


def test_settings_name_the_candidates(out: Path, models: Path) -> None:
    by_model = {row.model: row for row in Results(out).rows()}
    assert "reranked" not in by_model["embedder"].settings
    assert by_model["bm25"].revision == BM25().revision
    candidates = {row.settings["reranked"]: row.settings for row in Results(out).rows() if row.model == "reranker"}
    assert set(candidates) == {"top 50 of bm25", "top 50 of first"}
    assert candidates["top 50 of bm25"]["reranked_revision"] == BM25().revision


def test_finished_measurements_are_skipped_until_the_candidates_change(
    out: Path, models: Path, small_data: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(out, tmp_path / "out"))
    first = Path(shutil.copytree(models / "embedder", tmp_path / "first"))
    arguments = [f"reranker={models / 'reranker'}", "--candidates", f"first={first}"]
    assert "already measured" in evaluate(copied, small_data, "bm25", f"sparse={models / 'sparse'}").output
    assert "already measured" in evaluate(copied, small_data, *arguments).output
    tensors = load_file(first / "model.safetensors")
    save_file({name: -tensor for name, tensor in tensors.items()}, first / "model.safetensors", {"format": "pt"})
    assert "already measured" not in evaluate(copied, small_data, *arguments).output


def test_repositories_are_measured_as_their_type(
    default_hub: LoopbackHub, api: HfApi, out: Path, models: Path, small_data: Path, tmp_path: Path
) -> None:
    for name in ("sparse", "reranker"):
        api.create_repo(f"org/{name}")
        commit = api.upload_folder(repo_id=f"org/{name}", folder_path=models / name).oid
    api.create_commit("org/reranker", [CommitOperationDelete("config.json")], commit_message="Break main")
    names = [f"reranker=org/reranker@{commit}", "sparse=org/sparse", "--candidates", "org/sparse"]
    done = evaluate(tmp_path / "out", small_data, *names)
    assert done.exit_code == 0, done.output
    rows = {row.model: row for row in Results(tmp_path / "out").rows() if row.metric == "ndcg@10"}
    assert rows["reranker"].revision == commit
    assert rows["reranker"].settings["reranked"] == "top 50 of org/sparse"
    local = {row.model: row for row in Results(out).rows() if row.metric == "ndcg@10"}
    assert rows["sparse"].value == local["sparse"].value


def test_two_versions_of_modules_are_two_rows(models: Path, small_data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models / "embedder", tmp_path / "model"))
    for prompt in ("犬", "鳥"):
        path = folder / "config_sentence_transformers.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings["prompts"] = {"query": prompt, "document": ""}
        path.write_text(json.dumps(settings), encoding="utf-8")
        assert evaluate(tmp_path / "out", small_data, f"ours={folder}").exit_code == 0
    names = leaderboard(Results(tmp_path / "out").rows()).models
    assert len(names) == 2
    assert all(name.startswith("ours@") for name in names)


@pytest.mark.parametrize(
    ("model", "arguments", "tasks", "message"),
    [
        ("bm25", [], "fill-mask", "bm25 has no weights"),
        ("sparse", [], "similarity", "is a SparseEncoder"),
        ("reranker", ["--candidates", "reranker"], "retrieval:jsquad", "is a reranker"),
        ("reranker", ["--candidates", "nowhere/at/all"], "retrieval:jsquad", "nowhere/at/all: no such directory"),
    ],
)
def test_what_cannot_be_measured_is_reported(
    model: str, arguments: list[str], tasks: str, message: str, models: Path, small_data: Path, tmp_path: Path
) -> None:
    given = [str(models / name) if (models / name).is_dir() else name for name in (model, *arguments)]
    done = evaluate(tmp_path, small_data, *given, tasks=tasks)
    assert done.exit_code != 0
    assert message in " ".join((done.output + str(done.exception)).split())


def test_classifier_of_several_labels_is_measured_as_an_encoder(
    modernbert: Path, small_data: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(modernbert, tmp_path / "classifier"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["ModernBertForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}
    (folder / "config.json").write_text(json.dumps(config))
    assert evaluate(tmp_path / "out", small_data, f"classifier={folder}", f"base={modernbert}").exit_code == 0
    table = leaderboard(Results(tmp_path / "out").rows())
    assert len({table.text(name, table.columns[0]) for name in ("classifier", "base")}) == 1
