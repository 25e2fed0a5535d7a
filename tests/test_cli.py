"""The command line: `--help` is instant and readable, jobs work, and mistakes are reported in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_checkpoint
from click.testing import Result
from forked import run_forked
from typer.main import get_command
from typer.testing import CliRunner

from llm_jp_modernbert import __version__
from llm_jp_modernbert.cli import app

COMMANDS = [
    *(
        "quickstart",
        "pretrain",
        "finetune",
        "train-embedder",
        "train-reranker",
        "train-sparse",
        "train-late-interaction",
        "adapt",
        "prepare-corpus",
        "tokenize-corpus",
        "index-blocks",
        "average",
        "tokenizer",
        "encode",
        "fill-mask",
        "answer",
        "demo",
        "evaluate",
        "leaderboard",
        "vocabulary trim",
        "vocabulary extend",
    ),
    *("release", "serve-check", "release-dataset", "pull", "checkpoints"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"))


def commands() -> dict[str, Any]:
    """All commands; those of a group by the names of both."""
    by_name: dict[str, Any] = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        children = getattr(command, "commands", None)
        by_name |= {f"{name} {child}": part for child, part in children.items()} if children else {name: command}
    return by_name


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize("command", [[], *(name.split() for name in COMMANDS)])
def test_help_has_examples(command: list[str]) -> None:
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert "llm-jp-modernbert" in result.output.split("Examples:")[1]


@pytest.mark.parametrize("command", [[], *(name.split() for name in COMMANDS)])
def test_help_fits_80_columns_without_truncated_words(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "80"})
    lines = result.output.replace("[KEY=VALUE]…", "").splitlines()
    assert [line for line in lines if "…" in line or len(line) > 80] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_help_text(command: str) -> None:
    for parameter in commands()[command].params:
        assert parameter.help, parameter.name
        assert parameter.help.endswith("."), parameter.help


def test_version_is_that_of_the_package() -> None:
    assert invoke("--version").output == f"llm-jp-modernbert {__version__}\n"


def test_every_command_is_listed() -> None:
    assert set(COMMANDS) == set(commands())


def test_help_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from llm_jp_modernbert.cli import app\n"
        f"for command in ([], *(name.split() for name in {COMMANDS})):\n"
        "    assert CliRunner().invoke(app, [*command, '--help']).exit_code == 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'sentencepiece'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_fill_mask_prints_a_table(model: Path) -> None:
    result = invoke("fill-mask", model, "今日の[MASK]は{mask}である。", "--top-k", "3")
    assert result.exit_code == 0, result.output
    assert "今日の[MASK]は[MASK]である。" in result.output
    assert "mask 1 of 2" in result.output
    assert "mask 2 of 2" in result.output
    assert result.output.count("%") == 6


def test_fill_mask_prints_json_for_lines_of_input(model: Path) -> None:
    command = [sys.executable, "-m", "llm_jp_modernbert", "fill-mask", str(model), "-", "--json", "--top-k", "2"]
    texts = "今日は[MASK]。\n\n[MASK]は猫である。\n"
    done = subprocess.run(command, capture_output=True, text=True, input=texts)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert [len(result["masks"]) for result in results] == [1, 1]
    assert all(set(c) == {"text", "token", "token_id", "probability"} for r in results for m in r["masks"] for c in m)


def test_tokenizer_is_saved_and_checked(model: Path, tmp_path: Path) -> None:
    result = invoke("tokenizer", "--from", model, "--out", tmp_path / "tokenizer")
    assert result.exit_code == 0, result.output
    assert result.output.count("passed") >= 8
    assert "FAILED" not in result.output
    assert (tmp_path / "tokenizer" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fill-mask", "MODEL", "マスクのない文。"], "has no mask. Write [MASK]"),
        (["fill-mask", "MODEL/nothing", "[MASK]"], "nothing: no such directory"),
        (["release-dataset", "~nobody-of-this-name/data", "--repo", "org/name"], "data: no such file or directory"),
        (["tokenizer", "--from", "MODEL/model.safetensors", "--out", "MODEL/../out"], "is not a SentencePiece model"),
        (["tokenizer", "--from", "MODEL", "--out", "MODEL"], "holds other files than a tokenizer"),
        (["quickstart", "--out", "MODEL"], "is not empty"),
        (["quickstart", "--data", "MODEL/nothing.jsonl", "--out", "MODEL/out"], "nothing.jsonl: no such file"),
        (["quickstart", "a.jsonl"], "--data a.jsonl"),
    ],
)
def test_mistake_is_reported_in_one_line(model: Path, arguments: list[str], message: str) -> None:
    before = sorted(path.name for path in model.parent.rglob("*"))
    done = run_forked(*(argument.replace("MODEL", str(model)) for argument in arguments))
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert message in line
    assert "Traceback" not in done.stderr
    # No partial output is left.
    assert sorted(path.name for path in model.parent.rglob("*")) == before


def test_debug_shows_the_traceback(model: Path) -> None:
    done = run_forked("--debug", "quickstart", "--out", model)
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_unknown_option_is_named() -> None:
    done = run_forked("fill-mask", "--topk", "3")
    assert done.returncode == 2
    assert "--topk" in done.stderr
