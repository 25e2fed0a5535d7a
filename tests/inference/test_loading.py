"""Loading of models and tokenizers from `ORG/NAME@REVISION` and from local paths."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from checkpoints import TEXTS, write_checkpoint, write_model
from safetensors.torch import load_file
from transformers import AutoTokenizer
from typer.testing import CliRunner, Result

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.cli import app
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.heads import QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION
from llm_jp_modernbert.inference.loading import checkpoint_folder, load_masked_lm, load_model, load_tokenizer
from llm_jp_modernbert.tokenization import build_tokenizer

REPOSITORY = "org/model"
# For each revision, the bias of all predictions and a token that no other revision has.
REVISIONS = {"main": (0.0, "<main>"), "step-10": (10.0, "<ten>"), "refs/pr/1": (1.0, "<one>")}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hub cache with three downloaded revisions of one repository."""
    folder = tmp_path_factory.mktemp("cache")
    repository = folder / "models--org--model"
    for number, (revision, (bias, token)) in enumerate(REVISIONS.items()):
        commit = f"{number}" * 40
        snapshot = write_checkpoint(repository / "snapshots" / commit)
        tokenizer = build_tokenizer(str(snapshot))
        tokenizer.add_tokens([token])
        tokenizer.save_pretrained(snapshot)
        model = LlmJpModernBertForMaskedLM.from_pretrained(snapshot)
        model.resize_token_embeddings(len(tokenizer))
        torch.nn.init.constant_(model.decoder.bias, bias)
        model.save_pretrained(snapshot)
        reference = repository / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)
    return folder


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes transformers and huggingface_hub use that cache offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("revision", [None, *REVISIONS])
def test_all_loaders_read_the_revision_in_the_name(revision: str | None) -> None:
    bias, token = REVISIONS[revision or "main"]
    name = REPOSITORY if revision is None else f"{REPOSITORY}@{revision}"
    assert load_masked_lm(name).decoder.bias.eq(bias).all()
    assert token in load_tokenizer(name).get_vocab()
    assert token in build_tokenizer(name).get_vocab()
    assert load_file(checkpoint_folder(name) / "model.safetensors")["decoder.bias"].eq(bias).all()


@pytest.mark.usefixtures("hub")
def test_revision_argument() -> None:
    assert load_masked_lm(REPOSITORY, "step-10").decoder.bias.eq(10.0).all()
    assert "<ten>" in load_tokenizer(REPOSITORY, "step-10").get_vocab()
    for load in (load_masked_lm, load_tokenizer):
        with pytest.raises(UsageError, match="Give one of them"):
            load(f"{REPOSITORY}@step-10", "main")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("load", [load_masked_lm, load_tokenizer, build_tokenizer, checkpoint_folder])
def test_missing_revision_is_one_line(load: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match="org/model") as raised:
        load(f"{REPOSITORY}@missing")
    assert len(str(raised.value).splitlines()) == 1


def test_directory_with_an_at_sign_has_no_revision(tmp_path: Path) -> None:
    folder = str(write_checkpoint(tmp_path / "model@home"))
    assert load_masked_lm(folder).name_or_path == folder
    for load in (load_tokenizer, build_tokenizer):
        assert load(folder)(TEXTS[0]).input_ids[0] == 5
    assert checkpoint_folder(folder) == Path(folder)
    with pytest.raises(UsageError, match="model@home is a local path and has no revision 'v1'"):
        load_masked_lm(folder, "v1")
    for load in (load_masked_lm, checkpoint_folder):
        with pytest.raises(UsageError, match="model@home@v1: no such directory"):
            load(f"{folder}@v1")


@pytest.mark.usefixtures("hub")
def test_commands_accept_revisions(tmp_path: Path) -> None:
    """`average` of biases 10 and 1 is 5.5; `tokenizer` and `fill-mask` load the tokenizer of a revision."""
    names = [f"{REPOSITORY}@step-10", f"{REPOSITORY}@refs/pr/1"]
    run(["average", *names, "--out", str(tmp_path / "mean")])
    assert load_file(tmp_path / "mean" / "model.safetensors")["decoder.bias"].eq(5.5).all()
    run(["tokenizer", "--from", f"{REPOSITORY}@step-10", "--out", str(tmp_path / "tokenizer")])
    assert "<ten>" in (tmp_path / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8")
    result = run(["fill-mask", names[0], TEXTS[0].replace("ご飯", "[MASK]"), "--tokenizer", names[1]])
    assert "candidate" in result.stdout


def run(arguments: list[str]) -> Result:
    """Runs a command that must succeed."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def test_maximum_length_that_is_no_number_is_reported(tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path / "model") / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": "many"}))
    with pytest.raises(UsageError, match="model_max_length in its"):
        load_tokenizer(str(file.parent))


def test_registration_leaves_the_tokenizers_of_other_models_alone(bert: Path, tmp_path: Path) -> None:
    model = shutil.copytree(bert, tmp_path / "bert")
    file = model / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8")
    assert AutoTokenizer.from_pretrained(model)("猫")["input_ids"] == load_tokenizer(str(bert))("猫")["input_ids"]


def test_head_of_another_type_is_reported(tmp_path: Path) -> None:
    two_labels = {"id2label": {0: "否定", 1: "肯定"}}
    write_model(tmp_path / "classifier", SEQUENCE_CLASSIFICATION, **two_labels)
    with pytest.raises(UsageError, match=r"is a .*ForSequenceClassification, not a question answering model"):
        load_model(str(tmp_path / "classifier"), QUESTION_ANSWERING)


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "modernbert"])
def test_directory_without_a_tokenizer_is_reported(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    with pytest.raises(UsageError, match="no tokenizer found"):
        load_tokenizer(str(tmp_path))
