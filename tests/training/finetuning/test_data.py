"""The user's data: what is read from each kind of file, and how examples are split."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

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
    assert "'valid.csv'" in load("classification", tmp_path).remarks[0]


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


def test_held_out_tenth_has_the_label_shares_of_the_whole(data_dir: Path) -> None:
    dataset = load("classification", data_dir / "jcola/in_domain_train-v1.0.json")
    train, validation = (Counter(e.label for e in dataset.parts[part].examples) for part in ("train", "validation"))
    whole = train + validation
    assert whole.total() == 6919
    assert abs(validation.total() - 691.9) <= 1
    for label, count in whole.items():
        assert abs(validation[label] - count / 10) <= 1
    again = load("classification", data_dir / "jcola/in_domain_train-v1.0.json")
    other = load("classification", data_dir / "jcola/in_domain_train-v1.0.json", seed=43)
    assert again.parts == dataset.parts
    assert other.parts["validation"].places != dataset.parts["validation"].places


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
        f"1 label has only one example, so the validation part lacks it: 'rare' (the first is {path}, row 32).",
    )


def test_repeated_examples_between_the_parts_are_named(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", ROWS)
    dataset = load("classification", train, test=write(tmp_path / "test.csv", ROWS[3:5]))
    assert dataset.remarks == (
        f"2 of 2 test examples are also train examples (the first is {tmp_path}/test.csv, row 2), so scores on them "
        "are too high.",
    )


def test_long_row_is_read(tmp_path: Path) -> None:
    rows = [*ROWS, {"text": "長" * 1_000_000, "label": "良い"}]
    assert len(examples(load("classification", write(tmp_path / "a.csv", rows)))[-1].texts[0]) == 1_000_000


def test_real_files_are_read_without_options(data_dir: Path) -> None:
    for kind, path, size in (
        ("regression", "jglue/jsts-v1.3/train-v1.3.json", 12_451),
        ("classification", "jcola/in_domain_train-v1.0.json", 6_919),
        ("pair-classification", "jnli-neg/jnli-neg-train-v1.1.jsonl", 5_494),
    ):
        assert len(examples(load(kind, data_dir / path))) == size  # type: ignore[arg-type]
