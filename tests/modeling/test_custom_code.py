"""Native checkpoints contain their code and load without this package with `trust_remote_code`; pushing models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from alone import REFUSE
from checkpoints import TEXTS
from peer import HEAD_NAMES, assert_close, documents, own_class, pair
from safetensors.torch import load_file, save_file
from transformers.dynamic_module_utils import get_imports
from transformers.utils.hub import PushToHubMixin

from llm_jp_modernbert import LlmJpModernBertForMaskedLM, LlmJpTokenizer
from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertPreTrainedModel
from llm_jp_modernbert.tokenization import train_stand_in

AUTO_CLASS = {head: "AutoModel" if head == "Model" else f"AutoModel{head}" for head in HEAD_NAMES}
IDS = torch.stack(documents(130, 130))

ALONE = (
    REFUSE
    + """
import json
import torch, transformers
from safetensors.torch import load_file, save_file

request = json.load(sys.stdin)
ids, outputs = load_file(request["inputs"])["ids"], {}
for head, (auto_class, folder) in request["models"].items():
    model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    assert type(model).__name__ == "LlmJpModernBert" + head
    with torch.no_grad():
        outputs[head] = model(input_ids=ids[None] if head == "ForMultipleChoice" else ids)[0].contiguous()
    model.save_pretrained(request["out"] + "/native/" + head, format="native")
    model.save_pretrained(request["out"] + "/plain/" + head, format="plain")
save_file(outputs, request["out"] + "/outputs.safetensors")
"""
)


def run_alone(models: dict[str, Any], out: Path) -> dict[str, torch.Tensor]:
    """Return first outputs of models loaded with `trust_remote_code` in a process that cannot import this package."""
    out.mkdir(exist_ok=True)
    inputs = out / "inputs.safetensors"
    save_file({"ids": IDS}, inputs)
    request = {"inputs": str(inputs), "models": models, "out": str(out)}
    environment = {**os.environ, "HF_HOME": str(out / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-c", ALONE]
    result = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return load_file(out / "outputs.safetensors")


def output(model: Any, head: str) -> torch.Tensor:
    """Return the first output of a head for `IDS`."""
    with torch.no_grad():
        return model.eval()(input_ids=IDS[None] if head == "ForMultipleChoice" else IDS)[0]


def config_of(folder: Path) -> dict[str, Any]:
    """Read config.json."""
    values: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return values


@pytest.fixture(scope="module")
def natives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Native checkpoints of all heads."""
    folder = tmp_path_factory.mktemp("natives")
    for head in HEAD_NAMES:
        pair(head)[0].save_pretrained(folder / head, format="native")
    return {head: folder / head for head in HEAD_NAMES}


def test_every_head_loads_without_this_package(natives: dict[str, Path], tmp_path: Path) -> None:
    """Outputs are equal without the package, and checkpoints saved there in either format load here.

    transformers copies only imported files from a repository, and all files from a local directory.
    """
    repository = tmp_path / "home" / "hub" / "models--org--model"
    shutil.copytree(natives["ForMaskedLM"], repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    models = {head: (AUTO_CLASS[head], str(natives[head])) for head in HEAD_NAMES}
    outputs = run_alone({**models, "ForMaskedLM": ("AutoModelForMaskedLM", "org/model")}, tmp_path)
    for head in HEAD_NAMES:
        expected = output(pair(head)[0], head)
        assert_close(outputs[head], expected, 1e-6)
        native = getattr(transformers, AUTO_CLASS[head]).from_pretrained(tmp_path / "native" / head)
        assert type(native) is own_class(head)
        assert_close(output(native, head), expected, 1e-6)
        assert config_of(tmp_path / "native" / head)["auto_map"] == config_of(natives[head])["auto_map"]
        plain = config_of(tmp_path / "plain" / head)
        assert (plain["model_type"], plain["architectures"]) == ("modernbert", [f"ModernBert{head}"])
        assert "auto_map" not in plain


def test_custom_code_requires_neither_flash_attn_nor_this_package(natives: dict[str, Path]) -> None:
    for file in natives["Model"].glob("*.py"):
        assert {"flash_attn", "llm_jp_modernbert"}.isdisjoint(get_imports(file))


@pytest.mark.parametrize("trust", [None, False, True])
def test_installed_package_takes_precedence_over_custom_code(natives: dict[str, Path], trust: bool | None) -> None:
    model = transformers.AutoModelForMaskedLM.from_pretrained(natives["ForMaskedLM"], trust_remote_code=trust)
    assert type(model) is LlmJpModernBertForMaskedLM
    files = sorted(file.name for file in natives["ForMaskedLM"].glob("*.py"))
    assert "modeling_llm_jp_modernbert.py" in files
    assert "averaging.py" not in files


def test_plain_checkpoints_contain_no_code(natives: dict[str, Path], tmp_path: Path) -> None:
    model = LlmJpModernBertForMaskedLM.from_pretrained(natives["ForMaskedLM"])
    model.save_pretrained(tmp_path, format="plain")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert "auto_map" not in config_of(tmp_path)


def test_only_main_process_writes(tmp_path: Path) -> None:
    pair("Model")[0].save_pretrained(tmp_path / "model", is_main_process=False, format="native")
    assert not (tmp_path / "model").exists() or not any((tmp_path / "model").iterdir())


# Pushing


def replace_push(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    """Replace the push function; call it after creating models, because importing them sets the package's own."""
    for owner in (LlmJpModernBertPreTrainedModel, LlmJpTokenizer):
        monkeypatch.setattr(owner, "_hub_push", function)


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Records the uploads of transformers (repository, arguments, directory) instead of sending them."""
    calls = []

    def push(self: Any, repo_id: str, **arguments: Any) -> str:
        folder = arguments.pop("folder")
        self.save_pretrained(folder)
        calls.append((repo_id, arguments, folder))
        return "url"

    monkeypatch.setattr(PushToHubMixin, "push_to_hub", push)
    return calls


@pytest.mark.parametrize(("format", "model_type"), [("plain", "modernbert"), ("native", "llm-jp-modernbert")])
def test_push_writes_the_format(
    monkeypatch: pytest.MonkeyPatch, pushed: list[Any], tmp_path: Path, format: Any, model_type: str
) -> None:
    """Without a replacement, transformers' own method pushes."""
    model = pair("ForMaskedLM")[0]
    replace_push(monkeypatch, None)
    arguments = {} if format == "plain" else {"format": format}
    assert model.push_to_hub("org/model", folder=tmp_path, private=True, tags=["ja"], **arguments) == "url"
    assert pushed == [("org/model", {"private": True, "tags": ["ja"]}, tmp_path)]
    assert config_of(tmp_path)["model_type"] == model_type
    assert (tmp_path / "modeling_llm_jp_modernbert.py").exists() == (format == "native")
    assert model.config.checkpoint_format == "native"


def test_push_with_unknown_format_raises(pushed: list[Any]) -> None:
    with pytest.raises(ValueError, match="neither 'plain' nor 'native'"):
        pair("Model")[0].push_to_hub("org/model", format="onnx")
    assert not pushed


def test_save_pretrained_with_push_to_hub_pushes_same_format(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []
    model = pair("ForMaskedLM")[0]
    replace_push(monkeypatch, lambda self, repo_id, **arguments: calls.append((repo_id, arguments)))
    model.save_pretrained(tmp_path / "name", push_to_hub=True, private=True, max_shard_size="1MB")
    model.save_pretrained(tmp_path / "name", format="plain", push_to_hub=True, repo_id="org/model", token="t")
    assert calls == [
        ("name", {"format": "native", "private": True, "max_shard_size": "1MB"}),
        ("org/model", {"format": "plain", "token": "t"}),
    ]


def test_push_calls_replacement(monkeypatch: pytest.MonkeyPatch, pushed: list[Any]) -> None:
    tokenizer = train_stand_in(TEXTS * 20, vocab_size=305)
    calls = []

    def push(self: Any, repo_id: str, **arguments: Any) -> str:
        calls.append((self, repo_id, arguments))
        return "pushed"

    model = pair("ForSequenceClassification")[0]
    replace_push(monkeypatch, push)
    assert model.push_to_hub("org/model", commit_message="new") == "pushed"
    assert tokenizer.push_to_hub("org/model", revision="v1") == "pushed"
    assert calls == [
        (model, "org/model", {"format": "plain", "commit_message": "new"}),
        (tokenizer, "org/model", {"revision": "v1"}),
    ]
    assert not pushed
