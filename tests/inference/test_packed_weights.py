"""Packed float16 weights change no first candidate, and what they cannot do is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import TEXTS, write_checkpoint
from torch import nn
from transformers import BertConfig, BertForMaskedLM, pipeline
from typer.testing import CliRunner

from llm_jp_modernbert.cli import app
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.fill_mask import FilledText, fill_masks
from llm_jp_modernbert.inference.loading import load_masked_lm, load_tokenizer
from llm_jp_modernbert.inference.packed_weights import HalfPrecisionLinear, load_fast_masked_lm, pack_weights

pytestmark = pytest.mark.skipif(
    torch.backends.quantized.engine not in ("x86", "fbgemm"), reason="torch packs float16 weights on x86 alone"
)

# Every place of every text once, and one text with two masks.
PROMPTS = [text[:place] + "[MASK]" + text[place + 1 :] for text in TEXTS for place in range(len(text))]
PROMPTS.append("[MASK]の朝は早く[MASK]、駅まで行きます。")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def together(folder: Path) -> list[FilledText]:
    return fill_masks(load_fast_masked_lm(str(folder)), load_tokenizer(str(folder)), PROMPTS)


def test_layer_sums_in_float32_over_weights_rounded_to_float16() -> None:
    torch.manual_seed(0)
    linear, inputs = nn.Linear(300, 70), torch.randn(2, 5, 300)
    rounded = nn.functional.linear(inputs, linear.weight.half().float(), linear.bias)
    with torch.inference_mode():
        torch.testing.assert_close(HalfPrecisionLinear(linear)(inputs), rounded, atol=1e-5, rtol=1e-5)


def test_first_candidates_are_those_of_the_plain_pipeline(folder: Path, together: list[FilledText]) -> None:
    tokenizer = load_tokenizer(str(folder))
    plain = pipeline("fill-mask", model=str(folder), tokenizer=tokenizer, device="cpu", top_k=1)
    assert len(together) > 50
    for prompt, result in zip(PROMPTS, together, strict=True):
        found = plain(prompt.replace("[MASK]", str(tokenizer.mask_token)))
        best = [mask[0] if isinstance(mask, list) else mask for mask in found]
        assert [candidates[0].token_id for candidates in result.masks] == [one["token"] for one in best]
        assert [c[0].probability for c in result.masks] == pytest.approx([one["score"] for one in best], rel=0.02)


def test_a_text_does_not_depend_on_its_neighbours(folder: Path, together: list[FilledText]) -> None:
    model, tokenizer = load_fast_masked_lm(str(folder)), load_tokenizer(str(folder))
    for prompt, expected in list(zip(PROMPTS, together, strict=True))[::7]:
        (alone,) = fill_masks(model, tokenizer, [prompt])
        for mine, theirs in zip(alone.masks, expected.masks, strict=True):
            assert [c.token_id for c in mine] == [c.token_id for c in theirs]
            assert [c.probability for c in mine] == pytest.approx([c.probability for c in theirs], rel=1e-4)


def test_weights_saved_in_another_precision(folder: Path, tmp_path: Path) -> None:
    """Computing is in float32 whatever the file has."""
    load_masked_lm(str(folder), dtype="bfloat16").save_pretrained(tmp_path)
    load_tokenizer(str(folder)).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    plain = fill_masks(load_masked_lm(str(tmp_path), dtype="float32"), tokenizer, PROMPTS)
    fast = fill_masks(load_fast_masked_lm(str(tmp_path)), tokenizer, PROMPTS)
    for mine, theirs in zip(fast, plain, strict=True):
        assert [m[0].token_id for m in mine.masks] == [m[0].token_id for m in theirs.masks]


def test_command(folder: Path) -> None:
    arguments = ["fill-mask", str(folder), "今日の[MASK]は[MASK]である。", "--top-k", "3"]
    plain, fast = (CliRunner().invoke(app, [*arguments, *more]) for more in ([], ["--fast"]))
    assert fast.exit_code == plain.exit_code == 0
    assert fast.output.split()[0] == plain.output.split()[0]
    assert "mask 2 of 2" in fast.output


@pytest.mark.parametrize("option", [["--device", "cuda"], ["--dtype", "float32"]])
def test_options_that_contradict(folder: Path, option: list[str]) -> None:
    result = CliRunner().invoke(app, ["fill-mask", str(folder), "[MASK]", "--fast", *option])
    assert isinstance(result.exception, UsageError)
    assert "Leave out --device and --dtype, or --fast." in str(result.exception)


def test_other_architectures_are_refused() -> None:
    tiny = BertForMaskedLM(
        BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )
    with pytest.raises(UsageError, match="--fast is for ModernBERT, and this is bert"):
        pack_weights(tiny)


def test_weights_beyond_float16_are_refused(folder: Path) -> None:
    model = load_masked_lm(str(folder))
    with torch.no_grad():
        model.model.layers[1].mlp.Wi.weight[0, 0] = 1e5
    with pytest.raises(UsageError, match=r"weights up to 1e\+05 do not fit float16"):
        pack_weights(model)
    assert isinstance(model.model.layers[0].mlp.Wi, nn.Linear), "a model that is refused stays as it is"


def test_weights_that_are_no_numbers_are_refused(folder: Path) -> None:
    model = load_masked_lm(str(folder))
    with torch.no_grad():
        model.model.layers[1].mlp.Wi.weight[0, 0] = torch.nan
    with pytest.raises(UsageError, match="weights up to nan do not fit float16"):
        pack_weights(model)


def test_processors_without_packed_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_jp_modernbert.inference.packed_weights._ENGINES", ())
    with pytest.raises(UsageError, match="--fast needs an x86 processor"):
        load_fast_masked_lm(str(folder))


def test_is_not_saved(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be saved"):
        load_fast_masked_lm(str(folder)).save_pretrained(tmp_path / "copy")
    assert not list(tmp_path.rglob("*.safetensors"))
