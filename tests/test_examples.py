"""The notebooks in examples/ run, and their stored files agree with their sources.

The code runs in this process on a tiny model: cells in one namespace, and commands through the command line's own
function. A kernel and a process for each command would take minutes to import torch.
"""

import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from llm_jp_modernbert.cli import app
from llm_jp_modernbert.quickstart.data import embedded_texts
from llm_jp_modernbert.tokenization import train_stand_in

EXAMPLES = Path(__file__).parent.parent / "examples"
BUILD = runpy.run_path(str(EXAMPLES / "build.py"))
NAMES: list[str] = BUILD["NAMES"]
BADGE = "https://colab.research.google.com/github/ORG/llm-jp-modernbert/blob/main/examples/{}.ipynb"
MODEL = "quickstart-model"

RunNotebook = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of the quickstart's kind."""
    path = tmp_path_factory.mktemp("models") / MODEL
    tokenizer = train_stand_in(embedded_texts().train, vocab_size=800)
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(path)
    config = ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=512, pad_token_id=4, bos_token_id=5, cls_token_id=5, eos_token_id=6, sep_token_id=6,
    )  # fmt: skip
    torch.manual_seed(0)
    ModernBertForMaskedLM(config).save_pretrained(path)
    return path


@pytest.fixture
def run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunNotebook:
    """Runs the code of a notebook in an empty directory with the model; keyword arguments replace its parameters."""
    (tmp_path / MODEL).symlink_to(model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("PATH", BUILD["ENVIRONMENT"]["PATH"])

    def run_notebook(name: str, **parameters: Any) -> dict[str, Any]:
        source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
        source = source.replace("\\\n#", "")
        source = re.sub(r"^# !(.+)$", r"shell(f'''\1''')", source, flags=re.MULTILINE)
        for parameter, value in parameters.items():
            source, found = re.subn(rf"^{parameter} = .+$", f"{parameter} = {value!r}", source, flags=re.MULTILINE)
            assert found == 1
        names = {"shell": shell}
        exec(compile(source, f"{name}.py", "exec"), names)
        return names

    return run_notebook


def shell(command: str) -> None:
    """Runs a command of ours in this process; skips commands that install or train what exists here."""
    name, *arguments = shlex.split(command)
    if name != "llm-jp-modernbert":
        assert "||" in arguments or name == "head"
        return
    try:
        app([argument for argument in arguments if argument not in ("||", "true")], standalone_mode=False)
    except ValueError:
        if "||" not in arguments:
            raise


@pytest.mark.parametrize("name", NAMES)
def test_stored_notebooks_agree_with_sources(name: str) -> None:
    code = {}
    for file in (name, f"{name}.ja"):
        source = BUILD["read_source"](EXAMPLES / f"{file}.py")
        stored = nbformat.read(EXAMPLES / f"{file}.ipynb", as_version=4)
        nbformat.validate(stored)
        assert [(cell.cell_type, cell.source) for cell in stored.cells] == [
            (cell.cell_type, cell.source) for cell in source.cells
        ]
        assert BADGE.format(file) in stored.cells[0].source
        code[file] = [(cell.source, cell.outputs) for cell in BUILD["code_cells"](stored)]
    assert code[name] == code[f"{name}.ja"]


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_are_free_of_errors_and_noise(name: str) -> None:
    outputs = [
        output
        for cell in BUILD["code_cells"](nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4))
        for output in cell.outputs
    ]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    texts = [output.get("text") or output.data.get("text/plain", "") for output in outputs]
    noise = r"(^|[\s'\"(=])/(home|root|tmp|usr|work)/|\r|\x1b|Traceback|Warning|\bit/s"
    assert not [line for text in texts for line in text.splitlines() if re.search(noise, line, re.MULTILINE)]


def test_fill_mask_shows_inserted_space(run: RunNotebook) -> None:
    names = run("fill_mask")
    text = names["texts"][0]
    assert len(names["published"](text)["input_ids"]) == len(names["tokenizer"](text)["input_ids"]) + 1


def test_classification_answers_with_labels_of_the_data(run: RunNotebook) -> None:
    names = run("classification", REVIEWS=60, EPOCHS=1)
    assert {answer["label"] for answer in names["answers"]} <= {"良い", "悪い", "両方"}
    assert len(names["answers"]) == len(names["own"])


def test_entities_are_drawn_in_their_texts(run: RunNotebook) -> None:
    names = run("entities", SENTENCES=60, EPOCHS=1)
    for text in names["texts"]:
        drawn = re.sub(r" <small>.*?</small>|<[^>]+>", "", names["draw"](text))
        assert drawn == text


def test_search_finds_passages_of_the_corpus(run: RunNotebook) -> None:
    names = run("search", TRAINING_PAIRS=60, EPOCHS=1)
    assert not set(names["pairs"][names["in_test"]].passage) & set(names["pairs"][~names["in_test"]].passage)
    assert set(names["search"]("図書館の駐車場", best=5).passage) <= set(names["passages"])


def test_adaptation_predicts_with_both_models(run: RunNotebook) -> None:
    rows = run("adaptation", MANUALS=40, EPOCHS=1)["rows"]
    assert len(rows["before"]) == len(rows["after"]) == len(rows["text"])


def test_pretraining_is_killed_and_resumed(run: RunNotebook) -> None:
    names = run("pretraining", STEPS=4, SAVE_STEPS=2)
    assert [step for step, _ in names["points"]] == [1, 2, 3, 4]


@pytest.mark.usefixtures("warm_checks")
def test_publishing_rejects_the_broken_model(run: RunNotebook, tmp_path: Path) -> None:
    names = run("publishing")
    assert "Limitations and biases" in names["card"]
    assert (tmp_path / "staged" / "model.safetensors").exists()
    assert not (tmp_path / "staged-broken").exists()


def test_long_document_is_divided_into_its_passages(run: RunNotebook) -> None:
    names = run("long_documents", LENGTH=600, STEPS=2)
    assert len(names["vectors"]) == len(names["passages"])
    assert names["vectors"].isfinite().all()
