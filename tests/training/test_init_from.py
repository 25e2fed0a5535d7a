"""Training starts from another model's weights only if they fit, and only if the result can be saved."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_config
from transformers import AutoTokenizer

from llm_jp_modernbert import LlmJpModernBertForMaskedLM, LlmJpModernBertForSequenceClassification
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training import assembly
from llm_jp_modernbert.training.run.checkpoints import CheckpointError

FULL = "full_attention"


@pytest.fixture(scope="module")
def start(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three layers."""
    folder = tmp_path_factory.mktemp("start") / "model"
    config = tiny_config(vocab_size=len(AutoTokenizer.from_pretrained(data[1])))
    LlmJpModernBertForMaskedLM(config).save_pretrained(folder, format="plain")
    return folder


def keys_of(data: tuple[Path, Path], out: Path, source: Path, **changes: Any) -> dict[str, Any]:
    keys = {"model": None, "init_from": str(source), "max_steps": 2, "warmup_steps": 0, "save_steps": 1}
    return runs.recipe(*data, out, **{**keys, **changes})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_hidden_layers": 6}, r"`num_hidden_layers` \(6\) must be equal to the number of `layer_types` \(3\)"),
        ({"num_hidden_layers": 2}, r"`num_hidden_layers` \(2\) must be equal"),
        ({"layer_types": [FULL] * 6}, r"must be equal to the number of `layer_types` \(6\)"),
        ({"num_hidden_layers": 6, "layer_types": [FULL] * 6}, r"weights are missing, such as model\.layers\.3"),
        ({"num_hidden_layers": 2, "layer_types": [FULL] * 2}, r"are not part of the model, such as model\.layers\.2"),
        ({"hidden_size": 48}, r"is \(.*32.*\) in the file, but \(.*48.*\) in the model"),
        ({"intermediate_size": 64}, "in the file, but"),
        ({"num_attention_heads": 4}, "weights of .* have 2 heads"),
        ({"norm_bias": True}, r"weights are missing, such as .*norm\.bias"),
        ({"decoder_bias": False}, r"1 weights are not part of the model, such as decoder\.bias"),
    ],
)
def test_settings_that_do_not_fit_the_weights_raise_before_training(
    data: tuple[Path, Path], tmp_path: Path, start: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        runs.run(keys_of(data, tmp_path / "run", start, model=settings))
    assert list((tmp_path / "run").iterdir()) == []


def test_weights_of_another_configuration_raise(data: tuple[Path, Path], tmp_path: Path, start: Path) -> None:
    """config.json of one model, weights of another."""
    config = tiny_config(vocab_size=len(AutoTokenizer.from_pretrained(data[1])), num_hidden_layers=4)
    LlmJpModernBertForMaskedLM(config).save_pretrained(tmp_path / "mixed", format="plain")
    os.replace(tmp_path / "mixed" / "config.json", tmp_path / "config.json")
    (tmp_path / "mixed" / "config.json").write_bytes((start / "config.json").read_bytes())
    with pytest.raises(UsageError, match=r"mixed: its weights do not fit .*not part of the model.*layers\.3"):
        runs.run(keys_of(data, tmp_path / "run", tmp_path / "mixed"))


def test_settings_without_weights_may_change(data: tuple[Path, Path], tmp_path: Path, start: Path) -> None:
    settings = {"global_rope_theta": 160000.0, "max_position_embeddings": 256, "mlp_dropout": 0.1}
    trainer = runs.run(keys_of(data, tmp_path / "run", start, model={**settings, "layer_types": [FULL] * 3}))
    assert trainer.state.global_step == 2
    assert trainer.model.config.max_position_embeddings == 256


@pytest.mark.parametrize("kind", ["encoder", "classifier", "without bias"])
def test_missing_vocabulary_head_is_reported(
    data: tuple[Path, Path], tmp_path: Path, start: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = LlmJpModernBertForMaskedLM.from_pretrained(start)
    missing = "decoder.bias" if kind != "encoder" else "decoder.bias, head.dense.weight, head.norm.weight"
    if kind == "encoder":
        model.model.save_pretrained(tmp_path / "source", format="plain")
    elif kind == "classifier":
        classifier = LlmJpModernBertForSequenceClassification(model.config)
        classifier.model = model.model
        classifier.save_pretrained(tmp_path / "source", format="plain")
    else:
        model.save_pretrained(tmp_path / "source", format="plain")
        weights = load_file(tmp_path / "source" / "model.safetensors")
        del weights["decoder.bias"]
        save_file(weights, tmp_path / "source" / "model.safetensors", metadata={"format": "pt"})
    trainer = runs.run(keys_of(data, tmp_path / "run", tmp_path / "source", learning_rate=1e-12))
    (line,) = [record.getMessage() for record in caplog.records if "random values" in record.getMessage()]
    assert line == f"init_from: {tmp_path / 'source'} has no {missing}: they start with random values."
    embeddings = model.model.embeddings.tok_embeddings.weight
    assert torch.allclose(trainer.model.model.embeddings.tok_embeddings.weight, embeddings, atol=1e-6)


def test_first_checkpoint_is_tried_before_the_first_step(
    data: tuple[Path, Path], tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        raise ValueError("layer_types has the wrong length")

    monkeypatch.setattr(LlmJpModernBertForMaskedLM, "save_pretrained", fail)
    losses: list[float] = []
    keys = keys_of(data, tmp_path / "run", start, save_steps=2)
    with pytest.raises(CheckpointError, match=r"could not be written \(layer_types has the wrong length\)"):
        runs.run(keys, losses=losses)
    assert losses == []
    monkeypatch.undo()
    runs.run(keys, losses=losses)
    assert len(losses) == 2
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.parametrize(("size", "sharded"), [(0, False), (5, False), (1000, False), (-1, False), (0, True)])
def test_truncated_weights_are_named(
    data: tuple[Path, Path], tmp_path: Path, start: Path, size: int, sharded: bool
) -> None:
    shards = {"max_shard_size": "20KB"} if sharded else {}
    LlmJpModernBertForMaskedLM.from_pretrained(start).save_pretrained(tmp_path / "source", format="plain", **shards)
    files = sorted((tmp_path / "source").glob("*.safetensors"))
    assert (len(files) > 1) == sharded
    os.truncate(files[-1], size % files[-1].stat().st_size)
    with pytest.raises(UsageError, match=rf"init_from: .*{files[-1].name} is damaged or incomplete .*Copy it again"):
        runs.run(keys_of(data, tmp_path / "run", tmp_path / "source"))


@pytest.mark.parametrize("size", [0, -1])
def test_truncated_optimizer_is_named(data: tuple[Path, Path], tmp_path: Path, size: int) -> None:
    runs.run(runs.recipe(*data, tmp_path / "first", max_steps=2, warmup_steps=0, save_steps=2))
    source = tmp_path / "first" / "checkpoint-2"
    os.truncate(source / "optimizer.pt", size % (source / "optimizer.pt").stat().st_size)
    with pytest.raises(CheckpointError, match="checkpoint-2 holds no matching optimizer state"):
        runs.run(keys_of(data, tmp_path / "run", source, init_optimizer="kept"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors.index.json"])
def test_empty_weights_of_other_kinds_are_named(
    data: tuple[Path, Path], tmp_path: Path, start: Path, name: str
) -> None:
    source = Path(shutil.copytree(start, tmp_path / "source"))
    (source / "model.safetensors").unlink()
    (source / name).touch()
    with pytest.raises(UsageError, match=r"init_from: .*source cannot be loaded as a model: ") as error:
        runs.run(keys_of(data, tmp_path / "run", source))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["./absent", "absent/", "/absent"])
def test_directory_that_is_missing_is_named(data: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    keys = {**keys_of(data, tmp_path / "run", tmp_path), "init_from": name}
    with pytest.raises(UsageError, match=f"{name}: no such directory"):
        runs.run(keys)


def test_dtype_of_hidden_states_is_kept_on_resume(data: tuple[Path, Path], tmp_path: Path) -> None:
    """It is a setting of the run, which a checkpoint does not store."""
    keys = runs.recipe(*data, tmp_path / "run")
    keys["model"] = {**keys["model"], "autocast_residual": True}
    recipe = runs.load(keys)
    tokenizer = assembly.make_tokenizer(recipe)
    assert assembly.make_model(recipe, tokenizer).config.autocast_residual
    assembly.make_model(recipe, tokenizer).save_pretrained(tmp_path / "checkpoint")
    assert assembly.make_model(recipe, tokenizer, tmp_path / "checkpoint").config.autocast_residual
