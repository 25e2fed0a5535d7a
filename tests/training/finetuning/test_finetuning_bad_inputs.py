"""Invalid data end in one line that names the file, the row or the option, and the remedy."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from llm_jp_modernbert import cli

GOOD = "text,label\n" + "".join(f"文{number},{number % 2}\n" for number in range(20))


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def entities(*spans: Any, text: str = "東京都") -> str:
    return lines({"text": text, "entities": list(spans)})


def choices(*texts: str, label: Any = 0) -> dict[str, Any]:
    return {"question": "問", "choices": list(texts), "label": label}


def question(**answer: Any) -> str:
    return lines({"question": "どこ?", "context": "東京は首都である。", **answer})


TSV_TAGS = "東京\tB-地名\nに\tO\n\n"

CASES: dict[str, tuple[str, dict[str, str | bytes], list[str], str]] = {
    # Name: type of task, files, further arguments, expected error.
    "no training examples": ("qa", {}, [], r"--train is missing\. Name the file"),
    "no file": (
        "classification",
        {},
        ["--train", "train.csv"],
        r"--train train\.csv: no such file, and not the name of a dataset of the Hub",
    ),
    "no name": ("classification", {}, ["--train", ""], r"--train : no such file"),
    "empty file": ("classification", {"train.csv": ""}, [], r"--train train\.csv: contains no rows"),
    "only a header": ("classification", {"train.csv": "text,label\n"}, [], r"--train train\.csv: contains no rows"),
    "only blank rows": ("classification", {"train.csv": "text,label\n,\n \n"}, [], r"--train train\.csv: .* no rows"),
    "unknown type": ("classification", {"train.xlsx": "x"}, [], r"train\.xlsx: unsupported file type .*\.csv \.tsv"),
    "wrong text column": (
        "classification",
        {"train.csv": GOOD},
        ["--text-column", "body"],
        r"train\.csv has no column 'body'; its columns are 'text', 'label'\. Correct --text-column",
    ),
    "wrong label column": (
        "classification",
        {"train.csv": GOOD},
        ["--label-column", "star"],
        r"train\.csv has no column 'star'; its columns are 'text', 'label'\. Correct --label-column",
    ),
    "no default column": (
        "classification",
        {"train.csv": GOOD.replace("label", "kind")},
        [],
        r"train\.csv has no column 'label', 'labels', .*; its columns are 'text', 'kind'\. Set --label-column",
    ),
    "no pair": (
        "pair-classification",
        {"train.csv": GOOD},
        [],
        r"train\.csv has no pair of columns sentence1/sentence2, .*Set --text-column and --text-pair-column",
    ),
    "option of another task": (
        "classification",
        {"train.csv": GOOD},
        ["--context-column", "text"],
        r"--context-column does not apply to classification",
    ),
    "one label only": (
        "classification",
        {"train.csv": "text,label\n" + "文,良い\n" * 20},
        [],
        r"--train train\.csv: all 20 examples have the label '良い'",
    ),
    "NaN label": ("classification", {"train.csv": f"{GOOD}文,NaN\n"}, [], r"train\.csv, row 22: 'label' is empty or"),
    "empty label": ("classification", {"train.csv": f"{GOOD}文,\n"}, [], r"train\.csv, row 22: 'label' is empty or"),
    "null label": (
        "classification",
        {"train.jsonl": lines({"text": "文", "label": "a"}, {"text": "章", "label": None})},
        [],
        r"train\.jsonl, row 2: 'label' is empty or NaN",
    ),
    "empty text": ("classification", {"train.csv": f"{GOOD},1\n"}, [], r"train\.csv, row 22: 'text' is empty"),
    "number as a text": (
        "classification",
        {"train.jsonl": lines({"text": 3, "label": "a"})},
        [],
        r"train\.jsonl, row 1: 'text' is 3, not a text",
    ),
    "one label and lists": (
        "classification",
        {"train.jsonl": lines({"text": "文", "label": ["a", "b"]}, {"text": "文", "label": "a"})},
        [],
        r"train\.jsonl, row 2: 'label' is 'a', but other rows have lists",
    ),
    "label that training lacks": (
        "classification",
        {"train.csv": GOOD, "valid.csv": "text,label\n甲,1\n乙,2\n丙,3\n"},
        ["--validation", "valid.csv"],
        r"valid\.csv, row 3: the training examples lack 2 of the labels of --validation: '2', '3'",
    ),
    "validation without a column": (
        "classification",
        {"train.csv": GOOD, "valid.csv": "text,kind\n甲,1\n"},
        ["--validation", "valid.csv"],
        r"--validation valid\.csv has no column 'label', unlike the training examples; .*'text', 'kind'",
    ),
    "NaN label of validation": (
        "classification",
        {"train.csv": GOOD, "valid.csv": "text,label\n甲,nan\n"},
        ["--validation", "valid.csv"],
        r"valid\.csv, row 2: 'label' is empty or NaN",
    ),
    "too few examples": (
        "classification",
        {"train.csv": "text,label\n甲,1\n乙,2\n"},
        [],
        r"--train train\.csv: 2 different texts are too few .* are needed, two of each label\. Name a --validation",
    ),
    "different columns": (
        "classification",
        {"train.csv": GOOD, "more.csv": "sentence,label\n甲,1\n"},
        ["--train", "more.csv"],
        r"--train: train\.csv has the columns 'text', 'label', but more\.csv has 'sentence', 'label'",
    ),
    "cells without quotes": (
        "classification",
        {"train.csv": f"{GOOD}甲,乙,1\n"},
        [],
        r"train\.csv, row 22: has 3 cells",
    ),
    "open quote": ("classification", {"train.csv": f'{GOOD}"甲,1\n'}, [], r"train\.csv, line 22: wrong quotes"),
    "column twice": ("classification", {"train.csv": "text,text\n甲,1\n"}, [], r"train\.csv: two columns .*'text'"),
    "Shift_JIS": (
        "classification",
        {"train.csv": GOOD.encode("cp932")},
        [],
        r"train\.csv, row 2: .*iconv -f CP932",
    ),
    "UTF-16": (
        "classification",
        {"train.csv": GOOD.encode("utf-16")},
        [],
        r"train\.csv: not UTF-8\. .*iconv -f UTF-16",
    ),
    "broken JSON": ("classification", {"train.jsonl": '{"text": "文"'}, [], r"train\.jsonl, row 1: not JSON"),
    "broken list": (
        "classification",
        {"train.json": '[{"text": "文"}'},
        [],
        r"train\.json: not a JSON list of objects: cannot be read",
    ),
    "broken gzip": (
        "classification",
        {"train.csv.gz": gzip.compress(GOOD.encode() * 999, mtime=0)[:-50]},
        [],
        r"train\.csv\.gz: the gzip file ends too early",
    ),
    "broken Parquet": ("classification", {"train.parquet": b"PAR1"}, [], r"train\.parquet: not a valid Parquet file"),
    "half a surrogate pair": (
        "classification",
        {"train.jsonl": '{"text": "\\ud83e", "label": 1}'},
        [],
        r"train\.jsonl, row 1: half of a surrogate pair",
    ),
    "text as a score": (
        "regression",
        {"train.csv": GOOD + "文,高い\n"},
        [],
        r"train\.csv, row 22: .*'高い', not a finite",
    ),
    "NaN score": (
        "regression",
        {"train.csv": f"{GOOD}文,nan\n"},
        [],
        r"train\.csv, row 22: .*'nan', not a finite number",
    ),
    "infinite score": (
        "regression",
        {"train.csv": f"{GOOD}文,inf\n"},
        [],
        r"train\.csv, row 22: .*'inf', not a finite",
    ),
    "huge score": (
        "regression",
        {"train.jsonl": lines({"text": "文", "score": 10**400})},
        [],
        r"row 1: .* not a finite",
    ),
    "one score only": (
        "regression",
        {"train.csv": "text,score\n甲,1\n乙,1.0\n"},
        [],
        r"all 2 examples have the score 1",
    ),
    "one score in validation": (
        "regression",
        {"train.csv": "text,score\n甲,1\n乙,2\n", "valid.csv": "text,score\n丙,3\n丁,3.0\n"},
        ["--validation", "valid.csv"],
        r"spearman is undefined on the 2 validation examples.* Name a --validation file",
    ),
    "unknown metric": (
        "qa",
        {"train.jsonl": question(answer="東京"), "valid.jsonl": question(answer="")},
        ["--validation", "valid.jsonl", "metric_for_best_model=accuracy"],
        r"metric_for_best_model: unknown value 'accuracy'; choose from loss, exact_match, f1, has_answer_f1",
    ),
    "undefined metric": (
        "qa",
        {"train.jsonl": question(answer="東京"), "valid.jsonl": question(answer="")},
        ["--validation", "valid.jsonl", "metric_for_best_model=has_answer_f1"],
        r"has_answer_f1 is undefined on the 1 validation examples",
    ),
    "two files of one option": (
        "classification",
        {"train.csv": GOOD},
        ["more.csv"],
        r"more\.csv: give key=value\. For several files, repeat the option: --train A --train B",
    ),
    "no epochs": ("classification", {"train.csv": GOOD}, ["num_train_epochs=0"], r"num_train_epochs: 0 is invalid"),
    "span outside": (
        "ner",
        {"train.jsonl": entities([0, 4, "地名"])},
        [],
        r"row 1: the entity .* exceeds .* 3 characters",
    ),
    "negative span": ("ner", {"train.jsonl": entities([-1, 2, "地名"])}, [], r"row 1: the entity .* exceeds the text"),
    "empty span": ("ner", {"train.jsonl": entities([1, 1, "地名"])}, [], r"row 1: the entity .* has no characters"),
    "overlapping spans": (
        "ner",
        {"train.jsonl": entities([0, 2, "地名"], [1, 3, "人名"])},
        [],
        r"train\.jsonl, row 1: the entities \[0, 2, '地名'\] and \[1, 3, '人名'\] overlap",
    ),
    "span of another text": (
        "ner",
        {"train.jsonl": entities({"span": [0, 2], "type": "地名", "name": "京都"})},
        [],
        r"train\.jsonl, row 1: the entity .* is '東京' in the text",
    ),
    "span without a type": (
        "ner",
        {"train.jsonl": entities([0, 2])},
        [],
        r"row 1: the entity \[0, 2\] is not \[start",
    ),
    "no entity": ("ner", {"train.jsonl": entities()}, [], r"--train train\.jsonl: none of the 1 texts has an entity"),
    "token without a tag": (
        "ner",
        {"train.bio": TSV_TAGS + "東京\n"},
        [],
        r"train\.bio, row 4: '東京' is not a token and",
    ),
    "wrong tag": (
        "ner",
        {"train.bio": TSV_TAGS + "東\tB-地名\n京\t地名\n"},
        [],
        r"train\.bio, row 4: the tag '地名' of token 2 \('京'\) is not O, B-… or I-…",
    ),
    "tags without names": (
        "ner",
        {"train.jsonl": lines({"tokens": ["東", "京"], "ner_tags": [1, 2]})},
        [],
        r"train\.jsonl, row 1: the tag 1 of token 1",
    ),
    "fewer tags than tokens": (
        "ner",
        {"train.jsonl": lines({"tokens": ["東", "京"], "ner_tags": ["O"]})},
        [],
        r"train\.jsonl, row 1: has 2 tokens, but 1 tags",
    ),
    "answer not in the passage": (
        "qa",
        {"train.jsonl": question(answers={"text": ["京都"], "answer_start": [0]})},
        [],
        r"train\.jsonl, row 1: answer '京都' does not occur in its passage",
    ),
    "no answers": ("qa", {"train.jsonl": question(answers=[])}, [], r"none of the 1 questions has an answer"),
    "answer that is a number": ("qa", {"train.jsonl": question(answer=3)}, [], r"row 1: the answer 3 is not a text"),
    "broken JSON of questions": ("qa", {"train.jsonl": '{"question": '}, [], r"train\.jsonl, row 1: not JSON"),
    "not SQuAD": (
        "qa",
        {"train.json": '{"data": [{"paragraphs": 1}]}'},
        [],
        r"train\.json: not in SQuAD's JSON layout",
    ),
    "different numbers of choices": (
        "multiple-choice",
        {"train.jsonl": lines(choices("東", "西"), choices("東", "西", "南"))},
        [],
        r"train\.jsonl, row 2: has 3 choices, but the first training example has 2",
    ),
    "position of no choice": (
        "multiple-choice",
        {"train.jsonl": lines(choices("東", "西", label=2))},
        [],
        r"train\.jsonl, row 1: 'label' is 2, not a position from 0 to 1",
    ),
    "NaN position": (
        "multiple-choice",
        {"train.jsonl": lines(choices("東", "西"), choices("東", "西", label=1), choices("東", "西", label=None))},
        [],
        r"train\.jsonl, row 3: 'label' is empty or NaN",
    ),
    "huge position": (
        "multiple-choice",
        {"train.jsonl": lines(choices("東", "西"), choices("東", "西", label=1), choices("東", "西", label=10**400))},
        [],
        r"train\.jsonl, row 3: 'label' is 10+….*not a position from 0 to 1",
    ),
    "text of no choice": (
        "multiple-choice",
        {"train.jsonl": lines(choices("東", "西", label="南"))},
        [],
        r"train\.jsonl, row 1: 'label' is '南', which is none of the choices",
    ),
    "one choice": (
        "multiple-choice",
        {"train.jsonl": lines(choices("東"))},
        [],
        r"--train train\.jsonl: two choices or more are needed",
    ),
    "unknown dataset": (
        "qa",
        {},
        ["--train", "org/none"],
        r"--train org/none .*the Hub, split train\): .*HF_HUB_OFFLINE",
    ),
}


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error line of the command, which leaves nothing in the current directory."""
    before = sorted(Path.cwd().iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["llm-jp-modernbert", "finetune", *arguments, "--out", "out"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert sorted(Path.cwd().iterdir()) == before
    return line


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_in_one_line(
    case: str, modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, files, arguments, expected = CASES[case]
    monkeypatch.chdir(tmp_path)
    for name, content in files.items():
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    train = ["--train", next(iter(files))] if files else []
    line = fails(capsys, kind, str(modernbert), *train, *arguments)
    assert re.search(f"^Error: .*{expected}", line), line
    assert len(line) < 500


def test_base_without_a_tokenizer_is_reported(
    modernbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.csv").write_text(GOOD, encoding="utf-8")
    shutil.copytree(modernbert, "base", ignore=shutil.ignore_patterns("token*"))
    assert re.search("base.*tokenizer.*--tokenizer", fails(capsys, "classification", "base", "--train", "train.csv"))
