"""The commands and code of the README work as printed."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from llm_jp_modernbert.quickstart.data import embedded_texts
from llm_jp_modernbert.tokenization import LlmJpTokenizer, train_stand_in

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `modernbert` checkpoint written by plain transformers, with a tokenizer."""
    path = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_stand_in(embedded_texts().train, vocab_size=800)
    tokenizer.save_pretrained(path)
    config = ModernBertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
        pad_token_id=4, bos_token_id=5, cls_token_id=5, eos_token_id=6, sep_token_id=6,
    )  # fmt: skip
    torch.manual_seed(0)
    ModernBertForMaskedLM(config).save_pretrained(path)
    return path


def test_ci_runs_the_test_command() -> None:
    command = next(block.strip() for block in blocks("bash") if "pytest" in block)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_first_snippet_prints_three_answers(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snippet = blocks("python")[0]
    assert len([line for line in snippet.splitlines() if line]) == 5
    exec(snippet.replace("quickstart-model", str(checkpoint)), {})
    shape = r"(\S+ 0\.\d+\n){3}"
    assert re.fullmatch(shape, capsys.readouterr().out)
    assert re.fullmatch(shape, blocks("text")[0])


def test_published_model_snippet_fills_a_mask(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks("python")[1].replace("llm-jp/llm-jp-modernbert-base", str(checkpoint)), {})
    assert capsys.readouterr().out.count("token_str") == 5


def test_model_snippets_run(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_jp_modernbert import unregister_for_modernbert

    monkeypatch.chdir(tmp_path)
    models, packed = blocks("python")[2:4]
    models = models.replace("path/to/a/modernbert/checkpoint", str(checkpoint))
    # The base model takes seconds to initialize and write; a tiny one shows the same.
    models = models.replace("LlmJpModernBertConfig()", "LlmJpModernBertConfig.from_pretrained('out')")
    names: dict = {}
    try:
        exec(models, names)
    finally:
        unregister_for_modernbert()
    assert ModernBertConfig.from_pretrained(tmp_path / "plain").model_type == "modernbert"
    names["tokenizer"] = LlmJpTokenizer.from_pretrained(checkpoint)
    exec(packed, names)
    assert names["hidden_states"].shape == (1, names["cu_seqlens"][-1], 32)


def test_commands_exist() -> None:
    from typer.main import get_command

    from llm_jp_modernbert.cli import app

    commands = get_command(app).commands
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    lines += re.findall(r"\| `(llm-jp-modernbert [^`]*)` \|", README)
    used = {shlex.split(line)[1] for line in lines if line.startswith("llm-jp-modernbert ")}
    assert len(used) > 8
    assert used - {"--help"} <= set(commands)
