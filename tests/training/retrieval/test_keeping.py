"""The directory of a trained retrieval model: measurements, baselines, record, result rows, plots and report."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
)
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import TrainingArguments

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.results import Results, Row
from llm_jp_modernbert.core.tables import REPORT
from llm_jp_modernbert.evaluation.plots import plot_all
from llm_jp_modernbert.evaluation.report.leaderboard import leaderboard
from llm_jp_modernbert.training.finetuning.finetune.base import open_base
from llm_jp_modernbert.training.finetuning.finetune.folder import MODEL, RESULTS, Folder, SeedResult
from llm_jp_modernbert.training.finetuning.record import ERRORS
from llm_jp_modernbert.training.retrieval.dataset import Example, Form, Part, RetrievalData
from llm_jp_modernbert.training.retrieval.job import Job
from llm_jp_modernbert.training.retrieval.keeping import keep
from llm_jp_modernbert.training.retrieval.measuring import Benchmark, benchmarks_of, index_facts, search_of
from llm_jp_modernbert.training.retrieval.options import (
    EmbedderOptions,
    LateInteractionOptions,
    RerankerOptions,
    RetrievalOptions,
)
from llm_jp_modernbert.training.retrieval.record import RECORD, Record, is_recorded, read_record
from llm_jp_modernbert.training.retrieval.registry import kind_of
from llm_jp_modernbert.training.retrieval.report import end_lines, start_lines

ANIMALS, FOODS, PLACES = ["猫", "犬", "鳥"], ["寿司", "うどん", "パン"], ["駅", "港", "丘"]
FURTHER = ["駅の歴史", "港の歴史"]


def part(name: str, first: int, count: int, form: Form = "pairs") -> Part:
    """Questions about who ate what, with the sentence that answers them."""
    examples = []
    for number in range(first, first + count):
        animal, food, place = ANIMALS[number % 3], FOODS[number // 3 % 3], PLACES[number // 9 % 3]
        passage = f"{number}番の{animal}は{place}で{food}を食べた。"
        scores = (number % 5 / 4,) if form == "scored" else ()
        examples.append(Example(f"{number}番の{animal}は何を食べた？", (passage,), scores))
    places = [f"{name}.jsonl: row {number}" for number in range(1, count + 1)]
    return Part(name, f"sha256:{name}", form, examples, places)


def result(seed: int, metrics: dict[str, float | None]) -> SeedResult:
    return {
        "seed": seed,
        "epoch": 2.0,
        "seconds": 1.0,
        "metrics": metrics,
        "losses": [(0.5, 2.0), (1.0, 1.5), (2.0, 1.0)],
        "scores": [(1.0, 0.1), (2.0, next(iter(metrics.values())) or 0.0)],
    }


def finish(options: RetrievalOptions, data: RetrievalData) -> Path:
    """Keeps a model that was not trained, as if it were the better one of two seeds."""
    base, kind, folder = open_base(options.base), kind_of(options), Folder(options.out)
    job = Job(options, kind, base, data, folder, TrainingArguments(str(folder.unfinished), use_cpu=True))
    assert list(start_lines(job))
    folder.open({"seeds": 2})
    folder.start()
    model = kind.build(base, 42, data.train.form)
    kind.save(model, folder.seed(42) / MODEL)
    results = [result(seed, job.measure(model).metrics) for seed in (42, 43)]
    keep(job, results, results[0])
    return options.out


def read(folder: Path) -> tuple[Record, list[Row]]:
    record = read_record(folder)
    assert record is not None
    return record, list(Results(folder / RESULTS).rows())


@pytest.fixture(scope="module")
def embedder(modernbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedder, measured on two test datasets."""
    options = EmbedderOptions(str(modernbert), matryoshka=[8], out=tmp_path_factory.mktemp("out") / "embedder")
    tests = [part("first", 20, 9), part("second", 30, 12)]
    return finish(options, RetrievalData(part("train", 0, 12), part("validation", 12, 8), tests, FURTHER))


def evaluator(part: Part, further: Sequence[str] = (), **settings: Any) -> InformationRetrievalEvaluator:
    """The evaluation of sentence-transformers."""
    passages = [*(example.passages[0] for example in part.examples), *further]
    return InformationRetrievalEvaluator(
        {str(number): example.query for number, example in enumerate(part.examples)},
        {str(number): passage for number, passage in enumerate(passages)},
        {str(number): {str(number)} for number in range(len(part.examples))},
        precision_recall_at_k=[10],
        **settings,
    )


def values(rows: Sequence[Row], **where: Any) -> dict[str, float | None]:
    """Metrics of the rows with some attributes."""
    return {row.metric: row.value for row in rows if all(getattr(row, name) == value for name, value in where.items())}


def test_scores_equal_those_of_sentence_transformers(embedder: Path) -> None:
    _, rows = read(embedder)
    model = SentenceTransformer(str(embedder), device="cpu")
    for name, data in (("first", part("first", 20, 9)), ("second", part("second", 30, 12))):
        expected = evaluator(data, FURTHER)(model)
        own = values(rows, model="embedder", dataset=name)
        for metric, theirs in (
            ("ndcg@10", "cosine_ndcg@10"),
            ("mrr@10", "cosine_mrr@10"),
            ("map@100", "cosine_map@100"),
            ("recall@10", "cosine_recall@10"),
            ("accuracy@1", "cosine_accuracy@1"),
        ):
            assert own[metric] == pytest.approx(expected[theirs], abs=1e-6)


def test_truncated_embeddings_are_measured(embedder: Path) -> None:
    record, _ = read(embedder)
    for length, value in record["by_length"].items():
        model = SentenceTransformer(str(embedder), device="cpu", truncate_dim=int(length))
        assert value == pytest.approx(evaluator(part("second", 30, 12), FURTHER)(model)["cosine_ndcg@10"], abs=1e-6)
    assert list(record["by_length"]) == ["8", "32"]
    assert record["index"] == {"bytes_per_passage": 128}


def test_rows_have_baselines_and_all_seeds(embedder: Path, modernbert: Path) -> None:
    record, rows = read(embedder)
    assert [baseline["name"] for baseline in record["baselines"]] == ["modernbert (mean pooling)", "bm25"]
    for baseline in record["baselines"]:
        for name, metrics in baseline["metrics"].items():
            data = record["parts"][name]["name"]
            assert values(rows, model=baseline["name"], dataset=data) == metrics
    seeds = {(row.split, row.seed) for row in rows if row.model == "embedder"}
    assert seeds == {("validation", 42), ("validation", 43), ("test", 42)}
    # The base is measured as sentence-transformers loads it, without the prompts that it does not know.
    expected = evaluator(part("first", 20, 9), FURTHER)(SentenceTransformer(str(modernbert), device="cpu"))
    of_base = values(rows, model="modernbert (mean pooling)", dataset="first")
    assert of_base["ndcg@10"] == pytest.approx(expected["cosine_ndcg@10"], abs=1e-6)
    assert {row.model for row in rows if is_recorded(record, row)} == {"embedder"}
    for row in rows:
        assert row.value is not None
        if row.seed == 42:
            assert row.low is not None
            assert row.high is not None
            assert row.low <= row.value + 1e-9
            assert row.value <= row.high + 1e-9


def test_tables_end_with_the_mean_and_fit_the_terminal(embedder: Path) -> None:
    record, rows = read(embedder)
    lines = [line for text in end_lines(embedder, record, rows) for line in text.splitlines()]
    assert max(cell_len(line) for line in lines if str(embedder) not in line) <= 80
    mean = statistics.fmean(values(rows, model="bm25", dataset=name)["ndcg@10"] or 0 for name in ("first", "second"))
    report = (embedder / REPORT).read_text(encoding="utf-8")
    assert '* query prompt: "検索クエリ: "\n' in report
    *_, last = [line for line in report.splitlines() if line.startswith("| mean of tests | bm25")]
    assert last.split(" | ")[2] == f"{100 * mean:.1f}"
    assert {path.stem for path in (embedder / "assets").iterdir()} == {"training", "systems", "matryoshka"}


def test_errors_are_the_queries_with_the_worst_ranks(embedder: Path) -> None:
    lines = (embedder / ERRORS).read_text(encoding="utf-8").splitlines()
    errors = [json.loads(line) for line in lines if json.loads(line)["part"] == "test:second"]
    model = SentenceTransformer(str(embedder), device="cpu")
    examples = part("second", 30, 12).examples
    passages = model.encode_document([*(example.passages[0] for example in examples), *FURTHER])
    similarities = model.similarity(model.encode_query([example.query for example in examples]), passages).numpy()
    ranks = [int((row > row[place]).sum()) + 1 for place, row in enumerate(similarities)]
    assert [error["rank"] for error in errors] == sorted((rank for rank in ranks if rank > 1), reverse=True)
    for error in errors:
        place = next(place for place, example in enumerate(examples) if example.query == error["query"])
        assert ranks[place] == error["rank"]
        assert error["relevant"] == examples[place].passages[0]
        assert error["place"] == f"second.jsonl: row {place + 1}"


def test_leaderboard_ranks_by_ndcg_and_draws_it(embedder: Path, tmp_path: Path) -> None:
    _, rows = read(embedder)
    table = leaderboard(rows)
    assert table.columns[0].metric == "ndcg@10"
    assert table.models[0] == "bm25"
    (mean,) = [column for column in table.columns if column.metric == "mean"]
    for model in table.models:
        both = [values(rows, model=model, dataset=name)["ndcg@10"] or 0 for name in ("first", "second")]
        assert table.cells[model, mean].mean == pytest.approx(statistics.fmean(both))
    assert len(plot_all(Results(embedder / RESULTS), tmp_path)) == 3


def test_scored_pairs_equal_sentence_transformers(modernbert: Path, tmp_path: Path) -> None:
    data = RetrievalData(part("train", 0, 12, "scored"), part("validation", 12, 20, "scored"))
    folder = finish(EmbedderOptions(str(modernbert), out=tmp_path / "similarity"), data)
    record, rows = read(folder)
    first, second = ([texts[side] for texts in pairs_of(data.validation)] for side in (0, 1))
    gold = [example.scores[0] for example in data.validation.examples]
    expected = EmbeddingSimilarityEvaluator(first, second, gold)(SentenceTransformer(str(folder), device="cpu"))
    own = values(rows, model="similarity", seed=42)
    assert own["spearman"] == pytest.approx(expected["spearman_cosine"], abs=1e-5)
    assert own["pearson"] == pytest.approx(expected["pearson_cosine"], abs=1e-5)
    assert record["metric"] == "spearman"
    assert [baseline["name"] for baseline in record["baselines"]] == ["modernbert (mean pooling)"]


def pairs_of(data: Part) -> list[tuple[str, str]]:
    return [(example.query, example.passages[0]) for example in data.examples]


def test_index_of_a_sparse_model(modernbert: Path) -> None:
    transformer = Transformer(str(modernbert), transformer_task="fill-mask")
    model = SparseEncoder(modules=[transformer, SpladePooling("max")], device="cpu")
    data = part("test", 0, 12)
    facts = index_facts("sparse", model, Benchmark(data), 64)
    queries, passages = zip(*pairs_of(data), strict=True)
    counts = [
        (model.encode(list(texts), convert_to_sparse_tensor=False) != 0).float().mean(0)
        for texts in (queries, passages)
    ]
    assert facts["query_active_dims"] == pytest.approx(counts[0].sum().item())
    assert facts["passage_active_dims"] == pytest.approx(counts[1].sum().item())
    assert facts["flops"] == pytest.approx(counts[0].dot(counts[1]).item(), rel=1e-5)


def test_equal_texts_are_one_query_or_passage() -> None:
    examples = [Example("猫は？", ("家", "庭")), Example("猫は？", ("庭", "駅")), Example("犬は？", ("家", "港"))]
    search = search_of(Part("data", "", "triplets", examples, ["1", "2", "3"]), ["港", "丘"])
    texts = {query: {search.corpus[name] for name in search.relevant[query]} for query in search.queries}
    assert {search.queries[query]: passages for query, passages in texts.items()} == {
        "猫は？": {"家", "庭"},
        "犬は？": {"家"},
    }
    assert sorted(search.corpus.values()) == sorted(["家", "庭", "駅", "港", "丘"])


def test_datasets_of_one_name_are_measured_separately() -> None:
    tests = [part("data", 0, 3), part("data", 3, 4)]
    benchmarks = benchmarks_of(RetrievalData(part("train", 0, 3), part("validation", 7, 3), tests))
    assert [benchmark.size for benchmark in benchmarks.values()] == [3, 3, 4]
    assert len(benchmarks) == 3


def test_reranker_is_compared_with_its_candidates(modernbert: Path, tmp_path: Path) -> None:
    further = [example.passages[0] for example in part("further", 30, 60).examples]
    data = RetrievalData(part("train", 0, 12), part("validation", 12, 2), [part("test", 20, 6)], further)
    folder = finish(RerankerOptions(str(modernbert), out=tmp_path / "reranker"), data)
    record, rows = read(folder)
    assert record["candidates"] == "bm25, 50"
    assert "index" not in record or not record["index"]
    candidates, reranked = (values(rows, model=name, dataset="test", seed=42) for name in ("bm25", "reranker"))
    # The reranker orders the first 50, and leaves the rest as it is.
    assert reranked["recall@100"] == candidates["recall@100"] == 1
    assert reranked["ndcg@10"] != candidates["ndcg@10"]
    table = leaderboard(row for row in rows if row.dataset == "test")
    names = {"bm25", "modernbert (mean pooling)", "reranker, top 50 of bm25"}
    assert {model for model in table.models if (model, table.columns[0]) in table.cells} == names


def test_index_of_a_late_interaction_model(modernbert: Path, tmp_path: Path) -> None:
    data = RetrievalData(part("train", 0, 12), part("validation", 12, 4))
    folder = finish(LateInteractionOptions(str(modernbert), dimensions=8, out=tmp_path / "colbert"), data)
    record, _ = read(folder)
    model = MultiVectorEncoder(str(folder), device="cpu")
    vectors = model.encode_document([example.passages[0] for example in data.validation.examples])
    assert record["index"]["bytes_per_passage"] == statistics.fmean(4 * 8 * len(vector) for vector in vectors)
    assert record["similarity"] == "maxsim"
    assert record["dimensions"] == 8


def test_scores_of_a_single_query_have_no_interval(modernbert: Path, tmp_path: Path) -> None:
    data = RetrievalData(part("train", 0, 12), part("validation", 12, 1))
    folder = finish(EmbedderOptions(str(modernbert), out=tmp_path / "embedder"), data)
    assert "| validation | embedder | 100.0 | – |" in (folder / REPORT).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("parts", {}, "parts lacks train and validation"),
        ("best_seed", 1, "seeds lacks best_seed, 1"),
        ("seeds", 1, "seeds"),
    ],
)
def test_damaged_record_is_reported(embedder: Path, tmp_path: Path, key: str, value: Any, message: str) -> None:
    record, _ = read(embedder)
    (tmp_path / RECORD).write_text(json.dumps({**record, key: value}), encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        read_record(tmp_path)
