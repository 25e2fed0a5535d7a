"""What the tasks without training compute, against transformers and sentence-transformers used the plain way."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForMaskedLM, AutoTokenizer, ModernBertForMaskedLM

from llm_jp_modernbert.errors import UsageError
from llm_jp_modernbert.evaluation.embeddings import Embedder
from llm_jp_modernbert.evaluation.fill_mask import PROMPTS, FillMask, read_prompts
from llm_jp_modernbert.evaluation.loading import EvaluatedModel, ModelName
from llm_jp_modernbert.evaluation.pseudo_perplexity import PseudoPerplexity, Target, cross_entropies
from llm_jp_modernbert.evaluation.task import Options

TEXTS = ["猫が駅に行く。", "明日の朝は早く起きて、駅まで歩いて行きます。", "名前はまだ無い。" * 3, "海"]


def test_cross_entropies_equal_one_masked_row_at_a_time(modernbert: Path) -> None:
    plain = ModernBertForMaskedLM.from_pretrained(modernbert).eval()
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    targets = [Target(row, place) for row in rows for place in range(1, len(row) - 1)]
    model = EvaluatedModel(ModelName(str(modernbert), device="cpu"))
    found = cross_entropies(model.masked_lm, model.tokenizer, targets, tokens_per_batch=100)
    for target, loss in zip(targets, found, strict=True):
        row = list(target.row)
        right, row[target.position] = row[target.position], tokenizer.mask_token_id
        with torch.no_grad():
            logits = plain(torch.tensor([row])).logits[0, target.position]
        assert loss == pytest.approx(-logits.log_softmax(-1)[right].item(), abs=1e-5)


def test_only_the_context_grows(modernbert: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"text": "".join(TEXTS) * 5}, ensure_ascii=False) + "\n", encoding="utf-8")
    task = PseudoPerplexity(Options(texts=(texts,)), positions=9, documents=1, contexts=(16, 32, 64, 128))
    model = EvaluatedModel(ModelName(str(modernbert), device="cpu"))
    outcome = task.measure(model, task.load(), lambda share: None)
    # The model reads 64 tokens: a context that it cannot read is left out.
    assert [item["context"] for item in outcome.instances] == [16, 32, 64]
    assert len({tuple(item["characters"]) for item in outcome.instances}) == 1
    whole = {row.subset: row.value for row in outcome.measurements if row.metric == "pseudo_perplexity"}
    for item in outcome.instances:
        mean = sum(item["cross_entropies"]) / 9
        assert whole[f"context-{item['context']}"] == pytest.approx(math.exp(mean), rel=1e-4)
    assert whole[""] == whole["context-64"]


def test_embeddings_equal_those_of_a_plain_sentence_transformer(any_model: EvaluatedModel) -> None:
    plain = SentenceTransformer(any_model.name, device="cpu").encode(TEXTS, normalize_embeddings=True)
    assert np.abs(Embedder(any_model).encode(TEXTS) - plain).max() < 1e-6


@pytest.mark.parametrize(("pooling", "layers"), [("cls", 0), ("last-2-layers", 2)])
def test_poolings(modernbert: Path, pooling: str, layers: int) -> None:
    plain = ModernBertForMaskedLM.from_pretrained(modernbert).eval().model
    ids = AutoTokenizer.from_pretrained(modernbert)(TEXTS[1], return_tensors="pt")
    with torch.no_grad():
        states = plain(**ids, output_hidden_states=True)
    wanted = (
        torch.stack(states.hidden_states[-layers:]).mean(0)[0].mean(0) if layers else states.last_hidden_state[0, 0]
    )
    wanted = wanted / wanted.norm()
    found = Embedder(EvaluatedModel(ModelName(str(modernbert), device="cpu")), pooling).encode(TEXTS)[1]
    assert np.abs(found - wanted.numpy()).max() < 1e-5


def test_ranks_of_the_fill_mask_test(any_model: EvaluatedModel, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(any_model.name)
    surfaces = [tokenizer.decode([token]).strip() for token in range(len(tokenizer))]
    answer = next(surface for surface in surfaces if len(surface) == 1 and "ぁ" <= surface <= "龠")
    prompts = tmp_path / "prompts.jsonl"
    rows = [
        {"text": "吾輩は[MASK]である。", "answers": [answer]},
        {"text": "[MASK]の朝は早い。", "answers": ["駅", "明日"]},
    ]
    prompts.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    task = FillMask(Options(prompts=prompts))
    outcome = task.measure(any_model, task.load(), lambda share: None)
    plain = AutoModelForMaskedLM.from_pretrained(any_model.name).eval()
    ids = any_model.tokenizer(rows[0]["text"].replace("[MASK]", tokenizer.mask_token), return_tensors="pt")[
        "input_ids"
    ]
    place = ids[0].tolist().index(tokenizer.mask_token_id)
    with torch.no_grad():
        logits = plain(ids).logits[0, place]
    right = [token for token, surface in enumerate(surfaces) if surface == answer]
    assert outcome.instances[0]["rank"] == min(1 + int((logits > logits[token]).sum()) for token in right)
    reciprocal = [1 / item["rank"] for item in outcome.instances]
    mrr = next(row.value for row in outcome.measurements if row.metric == "mrr" and not row.subset)
    assert mrr == pytest.approx(sum(reciprocal) / 2)


def test_prompts_of_the_package() -> None:
    prompts = read_prompts(PROMPTS)
    sizes = Counter(prompt.category for prompt in prompts)
    assert len(prompts) >= 300
    assert min(sizes.values()) >= 15
    assert len({prompt.text for prompt in prompts}) == len(prompts)
    assert all(prompt.answers for prompt in prompts)
    far = [prompt for prompt in prompts if prompt.category == "long_context"]
    assert len(far) >= 20
    assert all(prompt.text.index("[MASK]") - prompt.text.index(prompt.answers[0]) > 1000 for prompt in far)


def test_no_mask_token(modernbert: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    AutoModelForMaskedLM.from_pretrained(modernbert).save_pretrained(tmp_path)
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config.pop("mask_token", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    model = EvaluatedModel(ModelName(str(tmp_path), device="cpu"))
    if model.tokenizer.mask_token_id is None:
        with pytest.raises(UsageError, match="no mask token"):
            _ = model.masked_lm
