"""Mistakes in data and options of retrieval training end in one line that names them, and leave no files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers")

from llm_jp_modernbert import cli


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


PAIRS = [{"query": f"問い{number}", "passage": f"答え{number}"} for number in range(20)]
GOOD = lines(*PAIRS)
SCORED = "sentence1,sentence2,score\n" + "".join(f"文{number},章{number},{number % 4}\n" for number in range(20))
TRIPLETS = lines(*({**row, "negative": f"嘘{number}"} for number, row in enumerate(PAIRS)))

CASES: dict[str, tuple[str, dict[str, str | bytes], list[str], str]] = {
    # Name: type of model, files, further arguments, expected error.
    "no training examples": ("embedder", {}, [], r"--train is missing\. Name the file"),
    "no file": ("embedder", {}, ["--train", "pairs.jsonl"], r"--train pairs\.jsonl: no such file"),
    "unknown dataset": ("sparse", {}, ["--train", "org/none"], r"--train org/none .*HF_HUB_OFFLINE"),
    "empty file": ("embedder", {"train.jsonl": ""}, [], r"--train train\.jsonl: contains no rows"),
    "only a header": ("embedder", {"train.csv": "query,passage\n"}, [], r"--train train\.csv: contains no rows"),
    "unknown type of file": ("embedder", {"train.xlsx": "x"}, [], r"train\.xlsx: unsupported file type"),
    "broken JSON": ("embedder", {"train.jsonl": '{"query": "文"'}, [], r"train\.jsonl, row 1: not JSON"),
    "Shift_JIS": ("embedder", {"train.jsonl": GOOD.encode("cp932")}, [], r"train\.jsonl.*iconv -f CP932"),
    "no columns": (
        "embedder",
        {"train.csv": "a,b\n甲,乙\n"},
        [],
        r"train\.csv has no columns of queries.*--query-column",
    ),
    "wrong query column": (
        "embedder",
        {"train.jsonl": GOOD},
        ["--query-column", "title"],
        r"train\.jsonl has no column 'title'; its columns are 'query', 'passage'\. Correct --query-column",
    ),
    "wrong passage column": (
        "reranker",
        {"train.jsonl": GOOD},
        ["--passage-column", "body"],
        r"no column 'body'.*Correct --passage-column",
    ),
    "wrong negative column": (
        "sparse",
        {"train.jsonl": GOOD},
        ["--negative-column", "bad"],
        r"no column 'bad'.*Correct --negative-column",
    ),
    "wrong score column": (
        "embedder",
        {"train.csv": SCORED},
        ["--score-column", "points"],
        r"no column 'points'.*Correct --score-column",
    ),
    "number as a text": (
        "embedder",
        {"train.jsonl": GOOD + lines({"query": "問", "passage": 3})},
        [],
        r"train\.jsonl, row 21: 'passage' is 3",
    ),
    "no passage": ("embedder", {"train.jsonl": GOOD + lines({"query": "問"})}, [], r"train\.jsonl, row 21: 'passage'"),
    "half a surrogate pair": (
        "embedder",
        {"train.jsonl": '{"query": "\\ud83e", "passage": "章"}'},
        [],
        r"train\.jsonl, row 1: half of a surrogate pair",
    ),
    "text as a score": ("embedder", {"train.csv": f"{SCORED}文,章,高い\n"}, [], r"train\.csv, row 22: .*'高い'"),
    "NaN score": ("embedder", {"train.csv": f"{SCORED}文,章,nan\n"}, [], r"train\.csv, row 22: .*'nan'"),
    "one score only": (
        "embedder",
        {"train.csv": "sentence1,sentence2,score\n甲,乙,1\n丙,丁,1\n"},
        [],
        r"all scores .* are 1",
    ),
    "one score in validation": (
        "embedder",
        {"train.csv": SCORED, "valid.csv": "sentence1,sentence2,score\n甲,乙,1\n丙,丁,1\n"},
        ["--validation", "valid.csv"],
        r"spearman is undefined on the 2 validation examples.*Name a --validation file",
    ),
    "too few examples": ("embedder", {"train.jsonl": lines(PAIRS[0])}, [], r"--train train\.jsonl: .*too few"),
    "corpus without texts": (
        "embedder",
        {"train.jsonl": GOOD, "corpus.csv": "number\n1\n"},
        ["--corpus", "corpus.csv"],
        r"--corpus corpus\.csv has no column",
    ),
    "no validation file": (
        "embedder",
        {"train.jsonl": GOOD},
        ["--validation", "valid.jsonl"],
        r"--validation valid\.jsonl: no such file",
    ),
    "no test file": ("embedder", {"train.jsonl": GOOD}, ["--test", "test.jsonl"], r"--test test\.jsonl: no such file"),
    "loss of other data": (
        "embedder",
        {"train.jsonl": GOOD},
        ["--loss", "cosent"],
        r"--loss cosent: does not learn from pairs",
    ),
    "reranker of texts": (
        "reranker",
        {"train.jsonl": lines({"text": "文"}, {"text": "章"})},
        [],
        r"--train train\.json",
    ),
    "late interaction of scores": ("late-interaction", {"train.csv": SCORED}, [], r"--train train\.csv.*score"),
    "negatives of triplets": (
        "embedder",
        {"train.jsonl": TRIPLETS},
        ["--mine-negatives", "2"],
        r"--mine-negatives adds negatives to pairs",
    ),
    "too many negatives": (
        "embedder",
        {"train.jsonl": GOOD},
        ["--mine-negatives", "50"],
        r"--mine-negatives 50: .*too few",
    ),
    "no embedder that mines": (
        "embedder",
        {"train.jsonl": GOOD},
        ["--mine-negatives", "2", "--mine-with", "miner/"],
        r"miner/: no such directory",
    ),
    "teacher without negatives": (
        "embedder",
        {"train.jsonl": GOOD},
        ["--teacher", "teacher"],
        r"--teacher scores relevant passages and negatives.*--mine-negatives",
    ),
    "no teacher": (
        "embedder",
        {"train.jsonl": TRIPLETS},
        ["--teacher", "teacher/"],
        r"teacher/: no such directory",
    ),
    "no embedder that finds candidates": (
        "reranker",
        {"train.jsonl": TRIPLETS},
        ["--candidates", "finder/"],
        r"finder/: no such directory",
    ),
    "too many dimensions": (
        "embedder",
        {"train.jsonl": GOOD},
        ["--matryoshka", "9999"],
        r"--matryoshka 9999: embeddings of .* have \d+ dimensions",
    ),
    "too long inputs": ("embedder", {"train.jsonl": GOOD}, ["--max-length", "99999"], r"--max-length 99,999"),
    "unknown key": (
        "embedder",
        {"train.jsonl": GOOD},
        ["learning_rat=1"],
        r"learning_rat=1: unknown key 'learning_rat'; did you mean learning_rate",
    ),
    "two files of one option": (
        "embedder",
        {"train.jsonl": GOOD},
        ["more.jsonl"],
        r"more\.jsonl: give key=value\. For several files, repeat the option",
    ),
    "key of an option": ("embedder", {"train.jsonl": GOOD}, ["output_dir=x"], r"output_dir: use --out instead"),
    "prompts as a key": (
        "embedder",
        {"train.jsonl": GOOD},
        ["prompts=query"],
        r"prompts: not supported; use --query-prompt and --passage-prompt",
    ),
    "unsupported key": ("sparse", {"train.jsonl": GOOD}, ["push_to_hub=true"], r"push_to_hub: not supported; publish"),
    "unknown sampler": (
        "embedder",
        {"train.jsonl": GOOD},
        ["batch_sampler=group_by_label"],
        r"batch_sampler: unknown value 'group_by_label'; choose one of batch_sampler, no_duplicates",
    ),
    "no epochs": ("embedder", {"train.jsonl": GOOD}, ["num_train_epochs=0"], r"num_train_epochs: 0 is invalid"),
    "text as a number": ("embedder", {"train.jsonl": GOOD}, ["learning_rate=fast"], r"learning_rate: .*fast"),
    "unknown metric": (
        "embedder",
        {"train.jsonl": GOOD},
        ["metric_for_best_model=spearman"],
        r"metric_for_best_model: unknown value 'spearman'; choose .*ndcg@10",
    ),
    "no negatives in a batch": (
        "embedder",
        {"train.jsonl": GOOD},
        ["per_device_train_batch_size=1"],
        r"per_device_train_batch_size: .*nothing is learned from batches of 1\. Set it higher",
    ),
    "no full batch": (
        "embedder",
        {"train.jsonl": GOOD},
        ["dataloader_drop_last=true"],
        r"per_device_train_batch_size: \d+ training examples do not fill a batch of 128",
    ),
    "no full batch of different texts": (
        "embedder",
        {"train.jsonl": lines(*({**row, "passage": f"答え{number % 4}"} for number, row in enumerate(PAIRS)))},
        ["dataloader_drop_last=true", "per_device_train_batch_size=8", "--validation", "train.jsonl"],
        r"per_device_train_batch_size: no batch has 8 different texts",
    ),
}


def fails(capsys: pytest.CaptureFixture[str], kind: str, *arguments: str) -> str:
    """The error line of the command, which leaves nothing in the current directory."""
    before = sorted(Path.cwd().iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["llm-jp-modernbert", f"train-{kind}", *arguments, "--out", "out"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 1
    *_, line = capsys.readouterr().err.splitlines()
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


@pytest.mark.parametrize("kind", ["embedder", "reranker", "sparse", "late-interaction"])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("missing", "base/: no such directory"),
        ("no tokenizer", r"base.*tokenizer.*--tokenizer"),
        ("broken weights", r"base/?: cannot be loaded"),
    ],
)
def test_bad_base_ends_in_one_line(
    kind: str,
    change: str,
    expected: str,
    modernbert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text(GOOD, encoding="utf-8")
    if change != "missing":
        ignored = ["token*"] if change == "no tokenizer" else []
        shutil.copytree(modernbert, "base", ignore=shutil.ignore_patterns(*ignored))
    if change == "broken weights":
        Path("base/model.safetensors").write_bytes(b"x")
    line = fails(capsys, kind, "base/", "--train", "train.jsonl")
    assert re.search(f"^Error: .*{expected}", line), line
