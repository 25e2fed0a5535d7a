"""The data and commands in the pages of docs/ work as printed."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from llm_jp_modernbert.cli import app
from llm_jp_modernbert.training.finetuning.data.loading import load_dataset
from llm_jp_modernbert.training.finetuning.options import FinetuneOptions
from llm_jp_modernbert.training.retrieval.dataset import Form
from llm_jp_modernbert.training.retrieval.loading import load_data
from llm_jp_modernbert.training.retrieval.options import RetrievalOptions

DOCS = Path(__file__).parent.parent / "docs"
SECTIONS, RETRIEVAL_SECTIONS = (
    (DOCS / "how-to" / name).read_text(encoding="utf-8").split("\n## ")[1:]
    for name in ("finetuning.md", "retrieval.md")
)
# The command, or the module that accelerate launches in its place.
COMMAND = re.compile(
    r"^(?:\w+=\$\()?(?:llm-jp-modernbert |accelerate launch .*-m llm_jp_modernbert(?:\.\w+)*\.)(\w.*)$", re.MULTILINE
)
FORMS: dict[str, Form] = {
    "Embedder": "pairs",
    "Reranker": "triplets",
    "Sparse model": "pairs",
    "Late interaction": "pairs",
    "Similarity": "scored",
    "Texts alone": "texts",
    "A teacher, and short vectors": "distillation",
}


def commands(text: str) -> list[list[str]]:
    """Arguments of each command in the code blocks of a text, without pipes and redirections."""
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    found = [shlex.split(re.split(r" (?:\|\|?|\d?>) ?", line)[0]) for line in COMMAND.findall(lines)]
    return [[name.replace("_", "-"), *rest] if name != "retrieval" else rest for name, *rest in found]


@pytest.mark.parametrize(
    "arguments",
    [
        line
        for page in sorted(DOCS.rglob("*.md"))
        if ".ja." not in page.name
        for line in commands(page.read_text("utf-8"))
    ],
    ids=" ".join,
)
def test_commands_parse(arguments: list[str]) -> None:
    name, *rest = [argument.replace("TASK", "ner") for argument in arguments]
    command: Any = get_command(app).commands[name]  # type: ignore[attr-defined]
    while hasattr(command, "commands"):
        name, *rest = rest
        command = command.commands[name]
    command.make_context(name, rest)


@pytest.mark.parametrize("section", [text for text in SECTIONS if re.search("```(csv|json)", text)])
def test_data_are_read(section: str, tmp_path: Path) -> None:
    match = re.search(r"```(csv|json)\n(.*?)```", section, re.DOTALL)
    assert match
    lines = match[2].splitlines()
    name, kind = next((rest[rest.index("--train") + 1], rest[1]) for rest in commands(section) if "--train" in rest)
    file = tmp_path / Path(name).with_suffix(".csv" if match[1] == "csv" else ".jsonl")
    if match[1] == "csv":
        head, *rows = lines
        varied = [head, *(f"{number}{row}" for number in range(8) for row in rows)]
    else:
        row = json.loads(lines[0])
        key = next(key for key in ("sentence1", "text", "context", "question") if key in row)
        labels = ["entailment", "contradiction"] if kind == "pair-classification" else [row.get("label")]
        varied = [
            json.dumps({**row, key: f"{row[key]}{number}", "label": labels[number % len(labels)]})
            for number in range(24)
        ]
    file.write_text("\n".join(varied), encoding="utf-8")
    dataset = load_dataset(FinetuneOptions(kind, "BASE", train=[str(file)]))  # type: ignore[arg-type]
    assert len(dataset.parts["train"].examples) > len(dataset.parts["validation"].examples) > 0


def numbered(value: Any, number: int) -> Any:
    """A row with all texts and scores changed."""
    if isinstance(value, dict):
        return {key: numbered(item, number) for key, item in value.items()}
    if isinstance(value, list):
        return [numbered(item, number) for item in value]
    return f"{number}: {value}" if isinstance(value, str) else value - number / 10


@pytest.mark.parametrize("title", FORMS)
def test_retrieval_data_are_read(title: str, tmp_path: Path) -> None:
    section = next(text for text in RETRIEVAL_SECTIONS if text.startswith(f"{title}\n"))
    match = re.search(r"```json\n(.*?)```", section, re.DOTALL)
    assert match
    row, file = json.loads(match[1]), tmp_path / "data.jsonl"
    file.write_text("\n".join(json.dumps(numbered(row, number)) for number in range(24)), encoding="utf-8")
    data = load_data(RetrievalOptions("BASE", train=[str(file)]), (FORMS[title],))
    assert data.train.form == FORMS[title]
    assert len(data.train.examples) > len(data.validation.examples) > 0
