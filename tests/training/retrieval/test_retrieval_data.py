"""The user's data: what is read from each kind of file, and how examples are held out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.retrieval.dataset import Example, Form, RetrievalData
from llm_jp_modernbert.training.retrieval.loading import load_data
from llm_jp_modernbert.training.retrieval.options import EmbedderOptions

DATA = Path(os.environ.get("LLM_JP_MODERNBERT_TEST_DATA", "missing"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="LLM_JP_MODERNBERT_TEST_DATA is not set")
ALL: tuple[Form, ...] = ("pairs", "triplets", "scored", "distillation", "texts")
PAIRS = [{"query": f"問い{number}", "passage": f'段落{number}、"引用"\n二行目'} for number in range(20)]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Writes rows with pandas in the form that the name of the file asks for."""
    import pandas as pd

    table = pd.DataFrame(rows)
    if ".csv" in path.name or ".tsv" in path.name:
        table.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def load(*train: Path, forms: tuple[Form, ...] = ALL, **options: Any) -> RetrievalData:
    values = {key: [str(value)] if isinstance(value, Path) else value for key, value in options.items()}
    return load_data(EmbedderOptions("base", train=[str(path) for path in train], **values), forms)


def examples(data: RetrievalData) -> list[Example]:
    """The examples of training and validation in the order of the file."""
    placed = [pair for part in (data.train, data.validation) for pair in zip(part.places, part.examples, strict=True)]
    return [example for _, example in sorted(placed, key=lambda pair: int(re.sub(r"\D", "", pair[0].split(", ")[-1])))]


def message(*train: Path, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        load(*train, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz", "a.jsonl", "a.parquet"])
def test_all_file_types_give_the_same_pairs(tmp_path: Path, name: str) -> None:
    data = load(write(tmp_path / name, PAIRS) if "gz" not in name else compressed(tmp_path / name))
    assert examples(data) == [Example(row["query"], (row["passage"],)) for row in PAIRS]
    assert (data.train.form, data.columns) == ("pairs", {"query": "query", "passage": "passage"})


def compressed(path: Path) -> Path:
    import pandas as pd

    pd.DataFrame(PAIRS).to_csv(path, index=False, sep="\t")
    return path


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (("anchor", "positive"), {}),
        (("question", "answer"), {}),
        (("sentence1", "sentence2"), {}),
        (("premise", "hypothesis"), {}),
        (("title", "text"), {}),
        (("Query", "Document"), {}),
        (("a", "b"), {"query_column": "a", "passage_column": "b"}),
        (("positive", "query"), {"query_column": "positive", "passage_column": "query"}),
    ],
)
def test_columns_are_found_by_name_or_option(tmp_path: Path, names: tuple[str, str], columns: dict[str, str]) -> None:
    rows = [dict(zip(names, row.values(), strict=True)) | {"id": number} for number, row in enumerate(PAIRS)]
    data = load(write(tmp_path / "a.jsonl", rows), **columns)
    assert [(example.query, example.passages) for example in examples(data)] == [
        (row["query"], (row["passage"],)) for row in PAIRS
    ]
    assert data.columns == {"query": names[0], "passage": names[1]}


@needs_data
def test_squad_files_give_questions_with_their_paragraphs() -> None:
    path = DATA / "jglue/jsquad-v1.3/valid-v1.3.json"
    wanted = {
        (question["question"], paragraph["context"])
        for article in json.loads(path.read_text("utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }
    data = load(path)
    read = [(example.query, *example.passages) for part in (data.train, data.validation) for example in part.examples]
    assert set(read) == wanted
    assert len(read) == len(wanted)


def triplet_rows() -> list[dict[str, Any]]:
    return [{**row, "negative_2": f"二{number}", "negative_1": f"一{number}"} for number, row in enumerate(PAIRS)]


def test_columns_of_negatives_are_in_order_of_their_numbers(tmp_path: Path) -> None:
    data = load(write(tmp_path / "a.csv", triplet_rows()))
    assert data.train.form == "triplets"
    assert [example.passages[1:] for example in examples(data)] == [(f"一{n}", f"二{n}") for n in range(20)]
    chosen = load(tmp_path / "a.csv", negative_column=["negative_2"])
    assert [example.passages[1:] for example in examples(chosen)] == [(f"二{n}",) for n in range(20)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_lists_of_passages_give_an_example_for_each_relevant_one(tmp_path: Path, name: str) -> None:
    rows = [{"query": f"問{n}", "pos": [f"正{n}", f"真{n}"], "neg": [f"負{n}", "[1]"]} for n in range(10)]
    if name.endswith("csv"):
        rows = [{key: json.dumps(value) if key != "query" else value for key, value in row.items()} for row in rows]
    data = load(write(tmp_path / name, rows))
    wanted = {(f"問{n}", (text, f"負{n}", "[1]")) for n in range(10) for text in (f"正{n}", f"真{n}")}
    read = [(e.query, e.passages) for e in (*data.train.examples, *data.validation.examples)]
    assert {(query, passages[:2]) for query, passages in read} == {(query, passages[:2]) for query, passages in wanted}
    assert {(e.query, e.passages) for e in data.train.examples} <= wanted


def test_passages_may_be_objects_with_title_and_text(tmp_path: Path) -> None:
    rows = [
        {
            "query_id": n,
            "query": f"問{n}",
            "positive_passages": [{"docid": "1", "title": "題", "text": f"正{n}"}],
            "negative_passages": [{"docid": "2", "title": "", "text": f"負{n}"}],
        }
        for n in range(10)
    ]
    data = load(write(tmp_path / "a.jsonl", rows))
    assert examples(data) == [Example(f"問{n}", (f"題 正{n}", f"負{n}")) for n in range(10)]


def test_negatives_get_the_number_that_most_rows_have(tmp_path: Path) -> None:
    rows = [{"query": f"問{n}", "pos": [f"正{n}"], "neg": [f"負{n}{i}" for i in range(2)]} for n in range(10)]
    rows[0]["neg"], rows[1]["neg"] = ["甲", "乙", "丙"], ["丁"]
    held_out = write(tmp_path / "b.jsonl", [{"query": "別", "positive": "他"}])
    data = load(write(tmp_path / "a.jsonl", rows), validation=held_out)
    assert [example.passages[1:] for example in data.train.examples[:2]] == [("甲", "乙"), ("丁", "丁")]
    assert {len(example.passages) for example in data.train.examples} == {3}
    assert "1 examples lose their last ones, and 1 repeat theirs" in data.remarks[-1]


def test_scores_are_mapped_by_the_range_of_training(tmp_path: Path) -> None:
    rows = [{"sentence1": f"甲{n}", "sentence2": f"乙{n}", "label": n / 4} for n in range(21)]
    train, test = write(tmp_path / "a.csv", rows), write(tmp_path / "b.csv", [{**rows[1], "label": 3.0}])
    data = load(train, test=test)
    assert data.train.form == "scored"
    assert [e.scores[0] for e in examples(data)] == pytest.approx([n / 20 for n in range(21)])
    assert data.tests[0].examples[0].scores == (3 / 5,)
    assert "Scores from 0 to 5 are mapped to 0 to 1." in data.remarks
    for row in rows:
        row["label"] = int(row["label"] > 2)
    binary = load(write(tmp_path / "c.csv", rows))
    assert [e.scores[0] for e in examples(binary)] == [row["label"] for row in rows]


def test_scores_of_a_teacher_belong_to_their_passages(tmp_path: Path) -> None:
    listed = [{"query": f"問{n}", "positive": f"正{n}", "negative": f"負{n}", "scores": [n, -1.5]} for n in range(10)]
    parted = [
        {"query": f"問{n}", "pos": [f"正{n}"], "neg": [f"負{n}"], "pos_scores": [n], "neg_scores": [-1.5]}
        for n in range(10)
    ]
    ranked = [{"query": f"問{n}", "docs": [f"負{n}", f"正{n}"], "scores": [-1.5, n]} for n in range(10)]
    for name, rows in (("a", listed), ("b", parted), ("c", ranked)):
        data = load(write(tmp_path / f"{name}.jsonl", rows))
        assert data.train.form == "distillation"
        assert examples(data) == [Example(f"問{n}", (f"正{n}", f"負{n}"), (n, -1.5)) for n in range(10)]
    labelled = [{"query": row["query"], "docs": row["docs"], "labels": [0, 1]} for row in ranked]
    data = load(write(tmp_path / "d.jsonl", labelled))
    assert data.train.form == "triplets"
    assert examples(data) == [Example(f"問{n}", (f"正{n}", f"負{n}")) for n in range(10)]


def test_texts_alone_come_from_text_files_or_json_lines_without_repetition(tmp_path: Path) -> None:
    lines = [f"これは{n}番目の文書です。続きがあります。" for n in range(20)]
    (tmp_path / "a.txt").write_text("\n\n".join([*lines, lines[3]]), encoding="utf-8")
    data = load(tmp_path / "a.txt")
    json_lines = load(write(tmp_path / "b.jsonl", [{"text": line, "id": n} for n, line in enumerate(lines)]))
    assert data.train.form == "texts"
    assert [e.query for e in data.train.examples] == [e.query for e in json_lines.train.examples]
    assert data.validation.examples == json_lines.validation.examples
    trained = {e.query for e in data.train.examples}
    joined = {e.query + e.passages[0] for e in data.validation.examples}
    assert trained | joined == set(lines)
    assert not trained & joined
    assert data.validation.form == "pairs"
    assert {e.passages for e in data.validation.examples} == {("続きがあります。",)}
    assert any("20 blank rows skipped" in remark for remark in data.remarks)
    assert any("1 of 21 examples repeat earlier ones" in remark for remark in data.remarks)


def test_no_text_is_in_training_and_validation(tmp_path: Path) -> None:
    # Each query has two passages, and each passage two queries, in groups of four examples.
    rows = [{"query": f"問{n // 2}", "positive": f"正{n // 4}{n % 2}", "negative": f"負{n % 7}"} for n in range(400)]
    rows[0]["negative"], rows[99]["negative"] = rows[398]["positive"], rows[4]["positive"]
    data = load(write(tmp_path / "a.jsonl", rows))
    for texts in (lambda e: {e.query}, lambda e: set(e.passages)):
        trained, held_out = (set().union(*map(texts, part.examples)) for part in (data.train, data.validation))
        assert not trained & held_out


def test_queries_are_separate_if_all_share_their_passages(tmp_path: Path) -> None:
    rows = [{"query": f"問{n}", "passage": f"答{n % 3}"} for n in range(60)]
    data = load(write(tmp_path / "a.jsonl", rows))
    assert len(data.validation.examples) == 6
    assert not {e.query for e in data.train.examples} & {e.query for e in data.validation.examples}
    assert any("share passages" in remark for remark in data.remarks)


def test_held_out_examples_are_a_tenth_and_depend_on_the_seed(tmp_path: Path) -> None:
    rows = [{"query": f"問{n}", "passage": f"答{n // 2}"} for n in range(200)]
    path = write(tmp_path / "a.jsonl", rows)
    first, again, other = load(path), load(path), load(path, seed=1)
    assert len(first.validation.examples) == 20
    assert first == again
    assert first.validation.examples != other.validation.examples
    many = [{"query": f"問{n}", "passage": f"答{n}"} for n in range(12_000)]
    assert len(load(write(tmp_path / "b.jsonl", many)).validation.examples) == 1_000


def test_held_out_pairs_have_two_different_scores(tmp_path: Path) -> None:
    rows = [{"query": f"問{n}", "passage": f"答{n}", "label": int(n > 35)} for n in range(40)]
    path = write(tmp_path / "a.jsonl", rows)
    for seed in range(10):
        assert {e.scores for e in load(path, seed=seed).validation.examples} == {(0.0,), (1.0,)}


def test_texts_that_also_are_training_texts_are_reported(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", PAIRS)
    test = write(tmp_path / "b.jsonl", [PAIRS[3], {"query": "新しい", "passage": PAIRS[4]["passage"]}])
    data = load(train, test=test)
    assert any("queries of 1 of 2 examples are also training queries" in remark for remark in data.remarks)
    assert any("passages of 2 of 2 examples are also training passages" in remark for remark in data.remarks)


def test_repeated_and_equal_texts_and_own_positives_are_left_out(tmp_path: Path) -> None:
    rows = [{"query": f"問{n}", "pos": [f"正{n}"], "neg": [f"負{n}", "共"]} for n in range(10)]
    rows += [rows[2], {"query": "同じ", "pos": ["同じ"], "neg": ["負"]}]
    rows += [{"query": "問3", "pos": ["共"], "neg": ["別", "他"]}]
    path = write(tmp_path / "a.jsonl", rows)
    data = load(path, validation=write(tmp_path / "b.jsonl", [{"query": "別", "positive": "他"}]))
    assert len(data.train.examples) == 11
    assert data.train.examples[3].passages == ("正3", "負3", "負3")
    text = "\n".join(data.remarks)
    assert f"1 of 13 examples repeat earlier ones (the first is {path}, row 11)" in text
    assert f"1 of 13 examples have the same text as query and passage (the first is {path}, row 12)" in text
    assert f"negatives of 1 examples (the first is {path}, row 4)" in text


GOOD = {"query": "問い", "passage": "段落"}


@pytest.mark.parametrize(
    ("rows", "options", "wanted"),
    [
        ([GOOD, {"query": "", "passage": "段落"}], {}, "row 2: 'query' is empty. Remove the row"),
        ([GOOD, {"query": "問い", "passage": None}], {}, "row 2: 'passage' is empty. Remove the row"),
        ([GOOD, {"query": 3, "passage": "段落"}], {}, "row 2: 'query' is 3, not a text"),
        ([GOOD, {"query": "問い", "passage": 3}], {}, "row 2: 'passage' is 3, not a text"),
        ([GOOD, {"query": "問い", "passage": ["甲", ""]}], {}, "row 2: 'passage' has an empty text"),
        ([{"query": "問い", "other": "段落"}], {}, "Set --passage-column, or --query-column query to train"),
        ([{"a": "問い", "b": "段落"}], {}, "its columns are 'a', 'b'. Set --query-column and --passage-column"),
        ([{"a": "問い", "passage": "段落"}], {"passage_column": "passage"}, "Set --query-column"),
        ([GOOD], {"query_column": "missing"}, "no column 'missing'; its columns are 'query', 'passage'"),
        ([GOOD], {"negative_column": ["missing"]}, "no column 'missing'.* Correct --negative-column"),
        ([GOOD], {"score_column": "missing"}, "no column 'missing'.* Correct --score-column"),
        ([GOOD], {"query_column": "query", "passage_column": "query"}, "one column, 'query', for both texts"),
        ([{**GOOD, "negative": "負"}, {**GOOD, "negative": ""}], {}, "row 2: 'negative' has no negative"),
        ([{**GOOD, "negative": "段落"}], {}, "row 1: its negatives are also relevant passages"),
        ([{**GOOD, "score": 1}, {**GOOD, "score": "高"}], {}, "row 2: 'score' is '高', not a finite number"),
        ([{**GOOD, "score": 1}, {**GOOD, "score": float("nan")}], {}, "row 2: 'score' is nan, not a finite number"),
        ([{**GOOD, "score": 1}, {**GOOD, "score": "inf"}], {}, "row 2: 'score' is 'inf', not a finite number"),
        ([{**GOOD, "score": 1}, {**GOOD, "query": "別", "score": 1}], {}, "all scores in 'score' are 1"),
        (
            [{**GOOD, "negative": "負", "scores": [1, 0, 2]}],
            {},
            "row 1: 'scores' has 3 scores for 2 passages",
        ),
        (
            [{**GOOD, "negative": "負", "scores": [1, 0]}, {**GOOD, "negative": "負", "scores": 1}],
            {},
            "row 2: 'scores' is 1, not a list with a score for each passage",
        ),
        ([{"query": "同じ", "passage": "同じ"}], {}, "all examples have the same text as query and passage"),
        ([GOOD, {"query": "別", "passage": "他"}], {}, "2 different queries or texts are too few"),
        ([{"query": "", "passage": " "}], {}, "all rows are blank"),
        ([GOOD], {"mine_with": "model"}, "--mine-with names the embedder .* Set --mine-negatives"),
        ([GOOD], {"mine_negatives": 1, "mine_with": "./missing"}, "missing: no such directory"),
        ([GOOD], {"teacher": "./missing"}, "missing: no such directory"),
        ([GOOD], {"mine_negatives": 0, "teacher": "t"}, "--teacher scores .* Add --mine-negatives"),
        ([{**GOOD, "negative": "負"}], {"mine_negatives": 2}, "--mine-negatives adds negatives to pairs"),
        ([{"text": "文"}], {"mine_negatives": 2}, "--mine-negatives adds negatives to pairs"),
    ],
)
def test_bad_data_is_reported_with_its_row_and_a_way_out(
    tmp_path: Path, rows: list[dict[str, Any]], options: dict[str, Any], wanted: str
) -> None:
    path = write(tmp_path / "a.jsonl", rows)
    found = message(path, **options)
    assert re.search(wanted, found), found
    if "row " in wanted:
        assert found.startswith(f"{path}, ")


@pytest.mark.parametrize(
    ("rows", "forms", "wanted"),
    [
        ([{"text": "文"}], ("pairs", "scored"), "texts alone (columns: text 'text'), but embedder models learn from"),
        (
            [{**GOOD, "label": 1}],
            ("pairs",),
            "scored pairs (columns: query 'query', passage 'passage', score 'label')",
        ),
    ],
)
def test_form_that_a_model_cannot_learn_from_is_an_error(
    tmp_path: Path, rows: list[dict[str, Any]], forms: tuple[Form, ...], wanted: str
) -> None:
    assert wanted in message(write(tmp_path / "a.jsonl", rows), forms=forms)


def test_missing_sources_are_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", PAIRS)
    assert "no such file" in message(tmp_path / "missing.jsonl")
    assert message() == "--train is missing. Name the file of the training pairs."
    bad = write(tmp_path / "b.jsonl", [{"a": 1}])
    assert "--corpus b.jsonl has no column 'text'" in message(path, corpus=bad)


def test_corpus_is_the_distinct_passages_after_their_titles(tmp_path: Path) -> None:
    rows = [{"_id": "1", "title": "題", "text": "甲"}, {"_id": "2", "title": "", "text": "乙"}]
    corpus = write(tmp_path / "corpus.jsonl", [*rows, rows[0]])
    assert load(write(tmp_path / "a.jsonl", PAIRS), corpus=corpus).corpus == ("題 甲", "乙")


def test_folders_in_the_layout_of_beir_give_their_judged_pairs(tmp_path: Path) -> None:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    write(folder / "corpus.jsonl", [{"_id": f"p{n}", "title": "題", "text": f"段落{n}"} for n in range(30)])
    write(folder / "queries.jsonl", [{"_id": f"q{n}", "text": f"問い{n}"} for n in range(30)])
    for split, numbers in (("train", range(20)), ("dev", range(20, 25)), ("test", range(25, 28))):
        lines = [f"q{n}\tp{n}\t1\nq{n}\tp29\t0\n" for n in numbers]
        (folder / f"qrels/{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    data = load(folder, validation=folder, test=folder, corpus=folder)
    parts = (data.train, data.validation, *data.tests)
    assert [[(e.query, e.passages) for e in part.examples] for part in parts] == [
        [(f"問い{n}", (f"題 段落{n}",)) for n in numbers] for numbers in (range(20), range(20, 25), range(25, 28))
    ]
    assert len(data.corpus) == 30
    (folder / "qrels/test.tsv").unlink()
    assert "has no test.tsv. It has 'dev', 'train'" in message(folder, test=folder)


def test_train_files_of_a_folder_are_those_of_no_other_part(tmp_path: Path) -> None:
    for name, rows in (("a-dev.jsonl", PAIRS[:3]), ("b.jsonl", PAIRS[3:10]), ("c.jsonl", PAIRS[10:])):
        write(tmp_path / name, rows)
    data = load(tmp_path)
    assert len(examples(data)) == 17
    assert "'a-dev.jsonl'" in data.remarks[0]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("一つ。二つ！", "三つ？四つ。"),
        ("「そう。」", "と言った。"),
        ("Version 2.5 is new.", "It is fast."),
        ("見出し", "本文が続く"),
        ("今日は、", "晴れです"),
        ("区切り", "なし文"),
    ],
)
def test_texts_are_cut_at_the_sentence_nearest_to_their_middle(tmp_path: Path, first: str, second: str) -> None:
    joint = {"Version 2.5 is new.": " ", "見出し": "\n"}.get(first, "")
    path = write(tmp_path / "a.jsonl", [{"text": f"{first}{joint}{second}"}, {"text": "別の。文です。"}])
    data = load(write(tmp_path / "b.jsonl", [{"text": "文"}]), validation=path)
    assert data.validation.examples[0] == Example(first, (second,))
