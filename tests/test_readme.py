"""The commands and code of both READMEs work as printed, and the READMEs are in step."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM
from typer.main import get_command
from typer.testing import CliRunner

from llm_jp_modernbert.cli import app
from llm_jp_modernbert.quickstart.data import embedded_texts
from llm_jp_modernbert.tokenization import train_stand_in

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
JAPANESE = (ROOT / "README.ja.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def jobs(text: str) -> list[str]:
    """The commands of the table."""
    return re.findall(r"\| `(llm-jp-modernbert [^`]*)` \|", text)


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
    command = next(block.strip() for block in blocks(README, "bash") if "pytest" in block)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_both_languages_have_the_same_code_commands_links_and_figures() -> None:
    def without_comments(text: str) -> list[str]:
        return [re.sub(r"\s+#.*", "", line) for block in blocks(text, "bash") for line in block.splitlines()]

    for language in ("python", "text"):
        assert blocks(JAPANESE, language) == blocks(README, language)
    assert without_comments(JAPANESE) == without_comments(README)
    assert jobs(JAPANESE) == jobs(README)
    english, japanese = (re.findall(r"\]\(([^)]+)\)", text) for text in (README, JAPANESE))
    assert sorted(link.replace(".ja.md", ".md") for link in japanese) == sorted(
        link.replace(".ja.md", ".md") for link in english
    )
    for figure in ("8192", "2.4"):
        assert (README.count(figure), JAPANESE.count(figure)) == (1, 1)


@pytest.mark.parametrize("text", [README, JAPANESE], ids=["en", "ja"])
def test_readme_is_short_and_its_links_exist(text: str) -> None:
    assert len(text.splitlines()) <= 120
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_first_snippet_prints_three_answers(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snippet = blocks(README, "python")[0]
    assert len([line for line in snippet.splitlines() if line]) == 5
    exec(snippet.replace("quickstart-model", str(checkpoint)), {})
    shape = r"(\S+ 0\.\d+\n){3}"
    assert re.fullmatch(shape, capsys.readouterr().out)
    assert re.fullmatch(shape, blocks(README, "text")[0])


def test_published_model_snippet_fills_a_mask(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(blocks(README, "python")[1].replace("llm-jp/llm-jp-modernbert-base", str(checkpoint)), {})
    assert capsys.readouterr().out.count("token_str") == 5


@pytest.mark.usefixtures("warm_checks")
def test_jobs_run_one_after_the_other(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a smaller model and fewer steps."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart-model").symlink_to(checkpoint)
    for folder in ("examples", "llm_jp_modernbert"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    commands = jobs(README)
    assert [shlex.split(command)[1] for command in commands] == ["finetune", "pretrain", "evaluate", "release"]
    for command in commands:
        command = command.replace("max_steps=100", "max_steps=1").replace("epochs=8", "epochs=1")
        result = CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)
        assert result.exit_code == 0, (command, result.output)
    assert (tmp_path / "runs" / "nano" / "model.safetensors").is_file()
    assert (tmp_path / "staged" / "README.md").is_file()
    capsys.readouterr()
    exec(blocks(README, "python")[2], {})
    shape = r"\[\{'label': '(良い|悪い)', 'score': 0\.\d+\}\]\n"
    assert re.fullmatch(shape, capsys.readouterr().out)
    assert re.fullmatch(shape, blocks(README, "text")[1])


def test_commands_exist() -> None:
    lines = [line for block in blocks(README, "bash") for line in block.splitlines()]
    lines += jobs(README) + re.findall(r"`(llm-jp-modernbert [^`]*)`", README)
    used = {shlex.split(line)[1] for line in lines if line.startswith("llm-jp-modernbert ")}
    assert {"quickstart", "demo"} <= used
    assert used - {"--help"} <= set(get_command(app).commands)
