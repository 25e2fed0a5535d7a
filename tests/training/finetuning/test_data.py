"""The user's data: what is read from each kind of file, and how examples are split."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.finetuning.data.dataset import Dataset
from llm_jp_modernbert.training.finetuning.data.loading import load_dataset
from llm_jp_modernbert.training.finetuning.options import FinetuneOptions, Kind

ROWS = [{"text": f'文{number}、"引用"\n二行目', "label": ["良い", "悪い"][number % 2]} for number in range(20)]


def load(kind: Kind, train: Path | list[Path], **options: Any) -> Dataset:
    files = [str(path) for path in (train if isinstance(train, list) else [train])]
    values = {key: [str(value)] if isinstance(value, Path) else value for key, value in options.items()}
    return load_dataset(FinetuneOptions(kind, "base", train=files, **values))


def examples(dataset: Dataset) -> list[Any]:
    """The examples of both parts in the order of the file."""
    parts = [dataset.parts[name] for name in ("train", "validation")]
    placed = [pair for part in parts for pair in zip(part.places, part.examples, strict=True)]
    return [example for _, example in sorted(placed, key=lambda pair: int(pair[0].rpartition(" ")[2]))]


def json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes rows with pandas, in the form that the name of the file asks for."""
    import pandas as pd

    table = pd.DataFrame(rows)
    if ".csv" in path.name or ".tsv" in path.name:
        table.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    elif ".jsonl" in path.name:
        table.to_json(path, orient="records", lines=True, force_ascii=False)
    else:
        table.to_json(path, orient="records", force_ascii=False)
    return path


@pytest.mark.parametrize(
    "name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "a.csv.gz", "a.jsonl.gz", "a.json.zst", "a.ndjson"]
)
def test_all_file_types_give_the_same_examples(tmp_path: Path, name: str) -> None:
    if name.endswith(".ndjson"):
        path = json_lines(tmp_path / name, ROWS)
    elif name.endswith(".zst"):
        import pyarrow

        path = tmp_path / name
        with pyarrow.output_stream(str(path), compression="zstd") as file:
            file.write(json.dumps(ROWS).encode())
    else:
        path = write(tmp_path / name, ROWS)
    loaded = examples(load("classification", path))
    assert [(example.texts, example.label) for example in loaded] == [((row["text"],), row["label"]) for row in ROWS]


def test_byte_order_mark_and_windows_line_breaks_change_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ROWS)
    wanted = load("classification", path)
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert examples(load("classification", tmp_path / "b.csv")) == examples(wanted)


def test_places_are_rows_of_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"一\n二",x\n\n三,y\n四,x\n五,y\n', encoding="utf-8")
    dataset = load("classification", path)
    placed = {
        example.texts[0]: place
        for part in dataset.parts.values()
        for example, place in zip(part.examples, part.places, strict=True)
    }
    rows = {"一\n二": 2, "三": 4, "四": 5, "五": 6}
    assert placed == {text: f"{path}, row {row}" for text, row in rows.items()}
    assert dataset.remarks == (f"--train {path.name}: 1 blank row skipped.",)


def test_files_are_concatenated_and_folders_are_split_by_file_names(tmp_path: Path) -> None:
    write(tmp_path / "train-0.csv", ROWS[:10])
    write(tmp_path / "train-1.csv", ROWS[10:])
    write(tmp_path / "valid.csv", [{"text": "検証", "label": "良い"}, {"text": "別", "label": "悪い"}])
    write(tmp_path / "test.csv", [{"text": "試験", "label": "良い"}])
    dataset = load("classification", tmp_path, validation=tmp_path, test=tmp_path)
    sizes = {part: [example.texts[0] for example in data.examples] for part, data in dataset.parts.items()}
    assert sizes == {"train": [row["text"] for row in ROWS], "validation": ["検証", "別"], "test": ["試験"]}
    assert dataset.parts["train"].name == tmp_path.name
    both = load("classification", [tmp_path / "train-0.csv", tmp_path / "train-1.csv"])
    assert both.parts["train"].name == "train-0.csv+train-1.csv"
    pattern = load("classification", tmp_path / "train-*.csv")
    assert pattern.parts == both.parts
    assert dataset.remarks == ("The test examples lack the labels '悪い', so its scores say nothing about them.",)
    assert "'test.csv', 'valid.csv' belong to other parts" in load("classification", tmp_path).remarks[0]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["10", "9", "10", "9"], ("9", "10")),
        ([1, 0, 1, 0], ("0", "1")),
        ([1.0, 0.0, 1.0, 0.0], ("0", "1")),
        ([True, False, True, False], ("false", "true")),
        (["い", "あ", " い", "あ"], ("あ", "い")),
        ([["い"], ["あ"], ["い"], ["あ"]], ("あ", "い")),
    ],
)
def test_labels_are_sorted_and_numbers_by_value(tmp_path: Path, values: list[Any], labels: tuple[str, ...]) -> None:
    rows = [{"text": str(number), "label": value} for number, value in enumerate(values)]
    dataset = load("classification", json_lines(tmp_path / "a.jsonl", rows))
    assert dataset.task.labels == labels
    assert not dataset.multi_label


@pytest.mark.parametrize("form", ["lists", "JSON", "Python"])
def test_several_labels_are_detected(tmp_path: Path, form: str) -> None:
    sets = [["b", "a"], [], ["a"], ["c"], ["a", "c"], ["b"]] * 3
    convert = {"lists": lambda value: value, "JSON": json.dumps, "Python": str}[form]
    rows = [{"text": str(number), "labels": convert(value)} for number, value in enumerate(sets)]
    path = json_lines(tmp_path / "a.jsonl", rows) if form == "lists" else write(tmp_path / "a.csv", rows)
    dataset = load("classification", path)
    assert dataset.multi_label
    assert dataset.task.labels == ("a", "b", "c")
    assert [example.label for example in examples(dataset)] == [tuple(value) for value in sets]
    assert {label for example in dataset.parts["train"].examples for label in example.label} == {"a", "b", "c"}


def test_named_labels_of_a_dataset_replace_their_numbers(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["否", "可"])})
    rows = {"text": list("abcd"), "label": [0, 1, 1, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    loaded = examples(load("classification", tmp_path / "a.parquet"))
    assert [example.label for example in loaded] == ["否", "可", "可", "否"]


@pytest.mark.parametrize(
    ("kind", "columns", "options", "found"),
    [
        ("classification", ("Text", "Label"), {}, ("Text", None, "Label")),
        ("classification", ("sentence", "category"), {}, ("sentence", None, "category")),
        ("classification", ("a", "b"), {"text_column": "a", "label_column": "b"}, ("a", None, "b")),
        ("regression", ("text", "score"), {}, ("text", None, "score")),
        ("regression", ("sentence1", "sentence2", "label"), {}, ("sentence1", "sentence2", "label")),
        ("pair-classification", ("premise", "hypothesis", "label"), {}, ("premise", "hypothesis", "label")),
        (
            "pair-classification",
            ("a", "b", "label"),
            {"text_column": "b", "text_pair_column": "a"},
            ("b", "a", "label"),
        ),
    ],
)
def test_columns_are_found_by_name_or_option(
    tmp_path: Path, kind: Kind, columns: tuple[str, ...], options: dict[str, str], found: tuple[str | None, ...]
) -> None:
    rows = [
        {column: str(number % 3) if column == columns[-1] else f"{column}{number}" for column in columns}
        for number in range(12)
    ]
    dataset = load(kind, write(tmp_path / "a.csv", rows), **options)
    wanted = dict(zip(("text", "text_pair", "label"), found, strict=True))
    assert dataset.columns == {role: column for role, column in wanted.items() if column is not None}
    texts = tuple(f"{column}0" for column in found[:2] if column is not None)
    assert examples(dataset)[0].texts == texts


@pytest.mark.parametrize(
    ("kind", "path", "size"),
    [
        ("classification", "jcola/in_domain_train-v1.0.json", 6_919),
        ("pair-classification", "jnli-neg/jnli-neg-train-v1.1.jsonl", 5_494),
        ("multiple-choice", "jglue/jcommonsenseqa-v1.3/train-v1.3.json", 8_939),
    ],
)
def test_held_out_tenth_has_the_label_shares_of_the_whole(data_dir: Path, kind: Kind, path: str, size: int) -> None:
    dataset = load(kind, data_dir / path)
    train, validation = (Counter(e.label for e in dataset.parts[part].examples) for part in ("train", "validation"))
    whole = train + validation
    assert whole.total() == size
    assert abs(validation.total() - size / 10) <= 1
    for label, count in whole.items():
        assert abs(validation[label] - count / 10) <= 1


def test_held_out_examples_depend_on_the_seed_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ROWS)
    dataset = load("classification", path)
    assert load("classification", path).parts == dataset.parts
    assert load("classification", path, seed=43).parts["validation"].places != dataset.parts["validation"].places


def test_equal_texts_are_held_out_together(tmp_path: Path) -> None:
    rows = [{"text": str(number % 40), "label": str(number % 2)} for number in range(400)]
    dataset = load("classification", write(tmp_path / "a.csv", rows))
    train, validation = ({e.texts for e in dataset.parts[part].examples} for part in ("train", "validation"))
    assert (len(train), len(validation), train & validation) == (36, 4, set())


def test_only_example_of_a_label_stays_in_training_with_a_remark(tmp_path: Path) -> None:
    rows = [{"text": str(number), "label": str(number % 2)} for number in range(30)]
    path = write(tmp_path / "a.csv", [*rows, {"text": "x", "label": "rare"}])
    dataset = load("classification", path)
    assert "rare" in {example.label for example in dataset.parts["train"].examples}
    assert dataset.remarks == (
        "The validation examples lack the labels 'rare', so its scores say nothing about them.",
    )


def test_repeated_examples_between_the_parts_are_named(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", ROWS)
    test = write(tmp_path / "test.csv", [*ROWS[3:5], {"text": "新", "label": "良い"}])
    dataset = load("classification", train, test=test)
    assert dataset.remarks == (
        f"2 of 3 test examples are also train examples (the first is {test}, row 2), so scores on them are too high.",
    )


def test_long_row_is_read(tmp_path: Path) -> None:
    rows = [*ROWS, {"text": "長" * 1_000_000, "label": "良い"}]
    assert len(examples(load("classification", write(tmp_path / "a.csv", rows)))[-1].texts[0]) == 1_000_000


def test_scores_of_jsts_are_read_without_options(data_dir: Path) -> None:
    path = data_dir / "jglue/jsts-v1.3/train-v1.3.json"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    read = examples(load("regression", path))
    assert len(read) == 12_451
    assert [(*example.texts, example.label) for example in read] == [
        (row["sentence1"], row["sentence2"], row["label"]) for row in rows
    ]


TEXT = "山田 太郎は東京都の大学に通う。"
SPANS = ((0, 5, "人名"), (6, 9, "地名"))


@pytest.mark.parametrize(
    "row",
    [
        {"text": TEXT, "entities": [{"start": 0, "end": 5, "label": "人名"}, {"start": 6, "end": 9, "label": "地名"}]},
        {
            "text": TEXT,
            "entities": [{"span": [0, 5], "type": "人名", "name": "山田 太郎"}, {"span": [6, 9], "type": "地名"}],
        },
        {"text": TEXT, "entities": [[6, 9, "地名"], [0, 5, "人名"]]},
        {"id": 3, "text": TEXT, "label": [[0, 5, "人名"], [6, 9, "地名"]], "Comments": []},
        {
            "text": TEXT,
            "relations": [],
            "entities": [
                {"id": 1, "label": "人名", "start_offset": 0, "end_offset": 5},
                {"id": 2, "label": "地名", "start_offset": 6, "end_offset": 9},
            ],
        },
    ],
)
def test_all_forms_of_spans_give_the_same_entities(tmp_path: Path, row: dict[str, Any]) -> None:
    others = [{**row, "text": f"{TEXT}{number}"} for number in range(9)]
    dataset = load("ner", json_lines(tmp_path / "a.jsonl", [row, *others]))
    assert (examples(dataset)[0].text, examples(dataset)[0].entities) == (TEXT, SPANS)
    assert dataset.task.labels == ("O", "B-人名", "I-人名", "B-地名", "I-地名")


TAGS = {
    "BIO": "B-人名 I-人名 O B-地名 B-地名 I-地名 O",
    "IOB1": "I-人名 I-人名 O I-地名 B-地名 I-地名 O",
    "BIOES": "B-人名 E-人名 O S-地名 B-地名 E-地名 O",
    "BILOU": "B-人名 L-人名 O U-地名 B-地名 L-地名 O",
}
TOKENS = ["John", "Smith", "は", "東京", "New", "York", "。"]


@pytest.mark.parametrize("scheme", TAGS)
@pytest.mark.parametrize("name", ["a.conll", "a.bio", "a.txt", "a.tsv", "a.jsonl", "a.parquet"])
def test_all_tagging_schemes_give_the_same_entities(tmp_path: Path, scheme: str, name: str) -> None:
    tags = TAGS[scheme].split()
    path = tmp_path / name
    if name.endswith((".jsonl", ".parquet")):
        write(path, [{"tokens": [*TOKENS, *"x" * number], "ner_tags": tags + ["O"] * number} for number in range(8)])
    else:
        lines = [f"{token}\tN\t{tag}" for token, tag in zip(TOKENS, tags, strict=True)]
        sentences = [["-DOCSTART-\t-X-\tO"], ["# a comment", *lines]]
        sentences += [[*lines, f"{number}\tN\tO"] for number in range(8)]
        path.write_text("\r\n\r\n".join("\r\n".join(lines) for lines in sentences), encoding="utf-8")
    sentence = examples(load("ner", path))[0]
    assert sentence.text == "John Smithは東京New York。"
    found = [(sentence.text[begin:end], kind) for begin, end, kind in sentence.entities]
    assert found == [("John Smith", "人名"), ("東京", "地名"), ("New York", "地名")]


def test_wikipedia_entities_are_complete(data_dir: Path) -> None:
    with gzip.open(data_dir / "ner/ner-wikipedia.json.gz") as file:
        rows = json.load(file)
    read = examples(load("ner", data_dir / "ner/ner-wikipedia.json.gz"))
    assert [sentence.text for sentence in read] == [row["text"] for row in rows]
    names = Counter((entity["name"], entity["type"]) for row in rows for entity in row["entities"])
    assert Counter((s.text[begin:end], kind) for s in read for begin, end, kind in s.entities) == names


CONTEXT = "東京は日本の首都である。京都は昔の首都である。"


@pytest.mark.parametrize(
    ("row", "answers", "start"),
    [
        ({"answers": {"text": ["首都", "東京"], "answer_start": [17, 0]}}, ("首都", "東京"), 17),
        ({"answers": [{"text": "首都", "answer_start": 17}]}, ("首都",), 17),
        ({"answers": {"text": "首都", "answer_start": 17}}, ("首都",), 17),
        ({"answers": ["京都"]}, ("京都",), 12),
        ({"answer": "京都"}, ("京都",), 12),
        ({"answer": "首都", "answer_start": 17}, ("首都",), 17),
        ({"answer": "首都", "answer_start": "16"}, ("首都",), 17),
        ({"answer": "首都"}, ("首都",), 6),
        ({"answers": {"text": [], "answer_start": []}}, (), 0),
        ({"answers": []}, (), 0),
        ({"answer": ""}, (), 0),
        ({"answer": None}, (), 0),
        ({"answers": ["京都"], "is_impossible": True}, (), 0),
    ],
)
def test_all_forms_of_answers_are_read(
    tmp_path: Path, row: dict[str, Any], answers: tuple[str, ...], start: int
) -> None:
    blank = {key: value if key in ("is_impossible", "answer_start") else "" for key, value in row.items()}
    rows = [{"question": "どこ?", "context": CONTEXT, **row}]
    rows += [{"question": "何?", "context": f"{number}{CONTEXT}", **blank} for number in range(6)]
    answered = {**rows[0], "answers": "京都", "answer": "京都", "is_impossible": False}
    rows.append({key: answered[key] for key in rows[0]} | {"context": f"7{CONTEXT}"})
    rows[-1].pop("answer_start", None)
    question = examples(load("qa", json_lines(tmp_path / "a.jsonl", rows)))[0]
    assert (question.context, question.answers, question.start) == (CONTEXT, answers, start)


def test_wrong_starts_and_missing_answers_are_counted(tmp_path: Path) -> None:
    rows = [
        {
            "question": f"{number}?",
            "context": f"{CONTEXT}{number}",
            "answers": {"text": ["首都"], "answer_start": [begin]},
        }
        for number, begin in enumerate([6, 17, 18, 5, 6, 6, 6, 6])
    ]
    rows.append({"question": "?", "context": "無い", "answers": {"text": [], "answer_start": []}})
    dataset = load("qa", json_lines(tmp_path / "a.jsonl", rows))
    assert [question.start for question in examples(dataset)] == [6, 17, 17, 6, 6, 6, 6, 6, 0]
    assert any("2 starts of answers were wrong" in remark for remark in dataset.remarks)
    assert any("Questions without an answer in their passage: 1 of " in remark for remark in dataset.remarks)


def test_jaquad_is_read_and_its_passages_are_not_divided(data_dir: Path) -> None:
    dataset = load("qa", data_dir / "jaquad")
    train, validation = (dataset.parts[part].examples for part in ("train", "validation"))
    assert len(train) + len(validation) == 31_748
    assert not {question.context for question in train} & {question.context for question in validation}
    for question in [*train, *validation]:
        assert question.context.startswith(question.answers[0], question.start)


@pytest.mark.parametrize("form", ["position", "text", "column", "list"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_all_forms_of_choices_give_the_same_examples(tmp_path: Path, form: str, name: str) -> None:
    rows: list[dict[str, Any]] = []
    for number in range(12):
        choices = [f"{place}の{number}" for place in ("東", "西", "南")]
        label = {"text": choices[number % 3], "column": f"choice{number % 3}"}.get(form, number % 3)
        columns: dict[str, Any] = {f"choice{place}": choice for place, choice in enumerate(choices)}
        rows.append(
            {"question": f"問{number}", **({"choices": choices} if form == "list" else columns), "label": label}
        )
    dataset = load("multiple-choice", write(tmp_path / name, rows))
    assert dataset.task.labels == ("choice0", "choice1", "choice2")
    assert [(example.texts, example.label) for example in examples(dataset)] == [
        ((f"問{number}", f"東の{number}", f"西の{number}", f"南の{number}"), f"choice{number % 3}")
        for number in range(12)
    ]


def test_choices_of_jcommonsenseqa_are_found(data_dir: Path) -> None:
    path = data_dir / "jglue/jcommonsenseqa-v1.3/train-v1.3.json"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    read = examples(load("multiple-choice", path))
    assert len(read) == len(rows) == 8_939
    for example, row in zip(read, rows, strict=True):
        assert example.texts[0] == row["question"]
        assert example.texts[1 + int(example.label[-1])] == row[f"choice{row['label']}"]


@pytest.mark.usefixtures("default_hub")
def test_datasets_of_the_hub_are_read() -> None:
    tags = ["O", "B-人名", "I-人名"]
    features = datasets.Features(
        {"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(datasets.ClassLabel(names=tags))}
    )
    rows = {"tokens": [["山", "田", f"{number}"] for number in range(9)], "ner_tags": [[1, 2, 0]] * 9}
    data = datasets.Dataset.from_dict(rows, features=features)
    commit = datasets.DatasetDict(train=data, dev=data.select([0])).push_to_hub("org/data", "few").oid
    few = FinetuneOptions("ner", "base", train=["org/data"], config_name="few")
    loaded = load_dataset(replace(few, validation=["org/data@main"], validation_split="dev"))
    train, validation = loaded.parts["train"], loaded.parts["validation"]
    assert (train.name, train.revision, validation.revision) == ("org/data", commit, commit)
    assert (len(train.examples), train.examples[0].entities) == (9, ((0, 2, "人名"),))
    assert validation.places == ["org/data, dev row 1"]
    (remark,) = load_dataset(few).remarks
    assert "'dev' belong to other parts" in remark
    data.push_to_hub("org/data", "other")
    for options, message in (
        (replace(few, config_name=None), r"--train org/data .*split train\): .*'other'.* Check --config-name"),
        (replace(few, train=["org/none"], config_name=None), r"--train org/none .*split train\): no such repository"),
        (
            replace(few, train_split="x"),
            r"org/data .*split x\): .*dev.* Check --config-name and --train-split",
        ),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            load_dataset(options)
        assert "\n" not in str(caught.value)
