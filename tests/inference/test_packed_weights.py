"""Prepared weights keep the results; unsupported uses are reported."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from checkpoints import TEXTS, write_checkpoint
from peer import pair
from torch import nn
from transformers import pipeline
from typer.testing import CliRunner

from llm_jp_modernbert.cli import app
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.encoder.encoder import Encoder, load_encoder
from llm_jp_modernbert.inference.fill_mask import FilledText, fill_masks
from llm_jp_modernbert.inference.loading import load_masked_lm, load_tokenizer
from llm_jp_modernbert.inference.packed_weights import (
    HalfPrecisionLinear,
    prepare_for_inference,
)

pytestmark = pytest.mark.skipif(
    torch.backends.quantized.engine not in ("x86", "fbgemm"), reason="torch packs float16 weights on x86 only"
)

# Every character of every text masked once, and one text with two masks.
PROMPTS = [text[:place] + "[MASK]" + text[place + 1 :] for text in TEXTS for place in range(len(text))]
PROMPTS.append("[MASK]の朝は早く[MASK]、駅まで行きます。")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"))


def load_half(folder: Path) -> Encoder:
    return load_encoder(str(folder), "torch", "float16", "cpu")


@pytest.fixture(scope="module")
def results(folder: Path) -> list[FilledText]:
    return load_half(folder).fill_mask(PROMPTS)


def test_layer_computes_in_float32_with_weights_rounded_to_float16() -> None:
    torch.manual_seed(0)
    linear, inputs = nn.Linear(300, 70), torch.randn(2, 5, 300)
    rounded = nn.functional.linear(inputs, linear.weight.half().float(), linear.bias)
    with torch.inference_mode():
        torch.testing.assert_close(HalfPrecisionLinear(linear)(inputs), rounded, atol=1e-5, rtol=1e-5)


def outputs(model: nn.Module, *rows: list[int]) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([row])).logits[0] for row in rows]


ROWS = ([5], list(range(4, 20)), [7, 9] * 60)


@pytest.mark.parametrize("settings", [{}, {"mlp_bias": True, "attention_bias": True}])
@pytest.mark.parametrize("head", ["ForMaskedLM", "ForTokenClassification"])
def test_prepared_model_equals_transformers(head: str, settings: dict[str, bool]) -> None:
    own, peer = pair(head, None, **settings)
    expected = outputs(peer, *ROWS)
    prepared = prepare_for_inference(own, torch.float32)
    assert not any(type(module) is nn.Linear for module in prepared.model.modules())
    for logits, others in zip(outputs(prepared, *ROWS), expected, strict=True):
        torch.testing.assert_close(logits, others, atol=1e-5, rtol=1e-5)


def test_prepared_model_keeps_one_copy_of_the_weights() -> None:
    own, _ = pair("ForMaskedLM")
    decoder, weight = own.decoder, own.decoder.weight
    originals = [weakref.ref(layer.mlp.Wi.weight) for layer in own.model.layers]
    prepare_for_inference(own)
    gc.collect()
    assert all(original() is None for original in originals)
    # The vocabulary matrix is needed by the embeddings too.
    assert own.decoder is decoder
    assert own.decoder.weight is weight is own.get_input_embeddings().weight


@pytest.mark.parametrize("lacking", ["instructions", "operators"])
def test_layers_stay_without_prepared_products(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    own, peer = pair("ForMaskedLM", None)
    if lacking == "operators":
        # As in a version of torch without them.
        monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    prepare_for_inference(own)
    assert type(own.model.layers[0].mlp.Wi) is nn.Linear
    for logits, others in zip(outputs(own, *ROWS), outputs(peer, *ROWS), strict=True):
        torch.testing.assert_close(logits, others, atol=1e-5, rtol=1e-5)


def test_model_is_converted_to_bfloat16() -> None:
    own, peer = pair("ForMaskedLM", None)
    expected = outputs(peer.bfloat16(), *ROWS)
    for logits, others in zip(outputs(prepare_for_inference(own, torch.bfloat16), *ROWS), expected, strict=True):
        assert logits.dtype == torch.bfloat16
        torch.testing.assert_close(logits, others, atol=2e-2, rtol=2e-2)


def test_gradients_through_prepared_layers_are_refused() -> None:
    own, _ = pair("ForMaskedLM", None)
    prepare_for_inference(own)
    # Forgotten `no_grad` is harmless.
    assert not own(input_ids=torch.tensor([[5, 6]])).logits.requires_grad
    with pytest.raises(UsageError, match="computes no gradients"):
        own(inputs_embeds=torch.zeros(1, 4, own.config.hidden_size, requires_grad=True))


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"inference in torch.float64 is not supported. Choose float32"):
        prepare_for_inference(nn.Linear(2, 2), torch.float64)


def test_first_candidates_equal_those_of_the_pipeline(folder: Path, results: list[FilledText]) -> None:
    tokenizer = load_tokenizer(str(folder))
    plain = pipeline("fill-mask", model=str(folder), tokenizer=tokenizer, device="cpu", top_k=1)
    assert len(results) > 50
    for prompt, result in zip(PROMPTS, results, strict=True):
        expected = plain(prompt.replace("[MASK]", str(tokenizer.mask_token)))
        best = [mask[0] if isinstance(mask, list) else mask for mask in expected]
        first = [candidates[0] for candidates in result.masks]
        assert [candidate.token_id for candidate in first] == [entry["token"] for entry in best]
        assert [candidate.probability for candidate in first] == pytest.approx(
            [entry["score"] for entry in best], rel=0.02
        )


def test_result_does_not_depend_on_the_batch(folder: Path, results: list[FilledText]) -> None:
    encoder = load_half(folder)
    for prompt, expected in list(zip(PROMPTS, results, strict=True))[::7]:
        (single,) = encoder.fill_mask([prompt])
        for candidates, theirs in zip(single.masks, expected.masks, strict=True):
            assert [candidate.token_id for candidate in candidates] == [candidate.token_id for candidate in theirs]
            probabilities = [candidate.probability for candidate in candidates]
            assert probabilities == pytest.approx([candidate.probability for candidate in theirs], rel=1e-4)


def test_bfloat16_checkpoint_is_computed_in_float32(folder: Path, tmp_path: Path) -> None:
    load_masked_lm(str(folder), dtype="bfloat16").save_pretrained(tmp_path)
    load_tokenizer(str(folder)).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    plain = fill_masks(load_masked_lm(str(tmp_path), dtype="float32"), tokenizer, PROMPTS)
    for result, expected in zip(load_half(tmp_path).fill_mask(PROMPTS), plain, strict=True):
        first = [candidates[0].token_id for candidates in result.masks]
        assert first == [candidates[0].token_id for candidates in expected.masks]


def test_fill_mask_command_with_float16(folder: Path) -> None:
    arguments = ["fill-mask", str(folder), "今日の[MASK]は[MASK]である。", "--top-k", "3"]
    plain, half = (CliRunner().invoke(app, [*arguments, *options]) for options in ([], ["--dtype", "float16"]))
    assert half.exit_code == plain.exit_code == 0
    assert half.output.split()[0] == plain.output.split()[0]
    assert "mask 2 of 2" in half.output


def test_weights_outside_of_float16_are_refused(folder: Path) -> None:
    model = load_masked_lm(str(folder))
    with torch.no_grad():
        model.model.layers[1].mlp.Wi.weight[0, 0] = 1e5
    with pytest.raises(UsageError, match=r"weights up to 1e\+05 do not fit float16"):
        prepare_for_inference(model, torch.float16)
    assert isinstance(model.model.layers[0].mlp.Wi, nn.Linear), "a refused model is not changed"


def test_nan_weights_are_refused(folder: Path) -> None:
    model = load_masked_lm(str(folder))
    with torch.no_grad():
        model.model.layers[1].mlp.Wi.weight[0, 0] = torch.nan
    with pytest.raises(UsageError, match="weights up to nan do not fit float16"):
        prepare_for_inference(model, torch.float16)


def test_processor_without_packed_weights_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.quantized, "engine", "onednn")
    with pytest.raises(UsageError, match="float16 weights need an x86 processor"):
        load_half(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_saving_is_refused(folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    with pytest.raises(UsageError, match="cannot be saved"):
        prepare_for_inference(load_masked_lm(str(folder)), dtype).save_pretrained(tmp_path / "copy")
    assert not list(tmp_path.rglob("*.safetensors"))
