"""Results of `encode` equal those of other libraries."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from checkpoints import TEXTS, write_model
from sentence_models import PROMPTS, write_sentence_model
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import quantize_embeddings
from transformers import AutoTokenizer, ModernBertForMaskedLM, pipeline

from llm_jp_modernbert.encoding.encode import encode
from llm_jp_modernbert.encoding.jobs import masked_places
from llm_jp_modernbert.encoding.options import EncodeOptions
from llm_jp_modernbert.inference.fill_mask import fill_masks
from llm_jp_modernbert.inference.heads import SEQUENCE_CLASSIFICATION
from llm_jp_modernbert.inference.loading import load_masked_lm, load_tokenizer

ROWS = [text * (1 + number % 3) for number, text in enumerate(TEXTS * 20)]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of sentence-transformers with CLS pooling, a dense layer and a default prompt."""
    return write_sentence_model(tmp_path_factory.mktemp("models") / "embedder", "SentenceTransformer")


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Runs `encode` on the rows and returns the columns of the result."""
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in ROWS), encoding="utf-8")
    options = EncodeOptions("", [str(source)], Path(), rows_per_shard=25, tokens_per_batch=300)

    def call(model: Path, **changes: Any) -> dict[str, list[Any]]:
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        encode(replace(options, model=str(model), out=out, **changes))
        table = pyarrow.parquet.read_table(out / "data")
        columns: dict[str, list[Any]] = table.to_pydict()
        assert columns["id"] == [f"rows.jsonl:{row}" for row in range(1, len(ROWS) + 1)]
        return columns

    return call


@pytest.mark.parametrize("prompt", [None, "query", "検索せよ。"])
def test_vectors_equal_those_of_sentence_transformers(embedder: Path, run: Any, prompt: str | None) -> None:
    peer = SentenceTransformer(str(embedder), device="cpu")
    text = PROMPTS["document"] if prompt is None else PROMPTS.get(prompt, prompt)
    expected = peer.encode(ROWS, prompt=text)
    np.testing.assert_allclose(run(embedder, prompt=prompt)["embedding"], expected, atol=2e-5)


def test_dimensions_and_length_can_be_chosen(modernbert: Path, run: Any) -> None:
    model = ModernBertForMaskedLM.from_pretrained(modernbert).eval()
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    with torch.inference_mode():
        states = [
            model.model(**tokenizer(text, truncation=True, max_length=64, return_tensors="pt")).last_hidden_state[0]
            for text in ROWS
        ]
    expected = np.stack([state.mean(0)[:8] for state in states])
    vectors = run(modernbert, dimensions=8, no_normalize=True)["embedding"]
    np.testing.assert_allclose(vectors, expected, atol=2e-5)


@pytest.mark.parametrize("precision", ["float16", "int8", "binary", "ubinary"])
def test_precisions_equal_those_of_sentence_transformers(embedder: Path, run: Any, precision: Any) -> None:
    vectors = np.array(run(embedder)["embedding"], np.float32)
    quantized = np.array(run(embedder, precision=precision)["embedding"])
    if precision == "float16":
        assert np.array_equal(quantized, vectors.astype(np.float16))
        return
    expected = np.asarray(quantize_embeddings(vectors, precision))
    assert quantized.shape == expected.shape
    # Vectors of the calibration are in other batches, so a value on the edge of a step may round to the other side.
    assert np.abs(quantized.astype(int) - expected.astype(int)).max() <= (precision == "int8")
    assert (quantized == expected).mean() > 0.99


def test_scores_are_mean_log_probabilities_of_masked_tokens(modernbert: Path, run: Any) -> None:
    model = ModernBertForMaskedLM.from_pretrained(modernbert).eval()
    tokenizer = AutoTokenizer.from_pretrained(modernbert)
    columns = run(modernbert, scores=True, seed=3)
    for row, text in enumerate(ROWS):
        ids = np.array(tokenizer(text, truncation=True, max_length=64)["input_ids"])
        words = np.flatnonzero(~np.isin(ids, tokenizer.all_special_ids))
        places = masked_places(words, columns["id"][row], seed=3)
        assert columns["masked_tokens"][row] == len(places) == max(1, round(0.15 * len(words)))
        masked = ids.copy()
        masked[places] = tokenizer.mask_token_id
        with torch.inference_mode():
            logits = model(torch.from_numpy(masked)[None]).logits[0, places]
        expected = logits.log_softmax(-1)[range(len(places)), ids[places]].mean()
        assert columns["score"][row] == pytest.approx(float(expected), abs=1e-4)


def test_masked_places_depend_on_id_and_seed_alone() -> None:
    words = np.arange(5, 105)
    drawn = [tuple(masked_places(words, identity, seed)) for identity in ("a", "b") for seed in (0, 1)]
    assert len(set(drawn)) == 4
    assert drawn[0] == tuple(masked_places(words, "a", 0))
    counts = np.bincount(np.concatenate([masked_places(words, str(number), 0) for number in range(2000)]))[5:]
    # Every place is masked as often as the others, within five standard deviations.
    assert abs(counts - 300).max() < 5 * np.sqrt(300 * 0.85)


def test_labels_equal_those_of_transformers(run: Any, tmp_path: Path) -> None:
    model = write_model(tmp_path / "classifier", SEQUENCE_CLASSIFICATION)
    expected = pipeline("text-classification", model=str(model), device="cpu")(ROWS, truncation=True)
    columns = run(model, classify=True)
    assert columns["label"] == [result["label"] for result in expected]
    assert columns["score"] == pytest.approx([result["score"] for result in expected], abs=1e-5)


def test_second_texts_are_read_from_their_column(tmp_path: Path) -> None:
    model = write_model(tmp_path / "classifier", SEQUENCE_CLASSIFICATION)
    pairs = [{"text": one, "text_pair": other} for one in TEXTS for other in TEXTS]
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    out = tmp_path / "out"
    encode(EncodeOptions(str(model), [str(source)], out, classify=True, pair_column="text_pair"))
    expected = pipeline("text-classification", model=str(model), device="cpu")(pairs)
    scores = pyarrow.parquet.read_table(out / "data")["score"].to_pylist()
    assert scores == pytest.approx([result["score"] for result in expected], abs=1e-5)


def test_candidates_equal_those_of_fill_mask(modernbert: Path, tmp_path: Path) -> None:
    texts = ["今日の[MASK]は[MASK]である。", "猫", "吾輩は[MASK]である。", "[MASK]" + "猫" * 300]
    source = tmp_path / "texts.txt"
    source.write_text("\n".join(texts), encoding="utf-8")
    counts = encode(EncodeOptions(str(modernbert), [str(source)], tmp_path / "out", fill_mask=True, top_k=3))
    assert (counts.texts, counts.skipped) == (2, 2)
    columns = pyarrow.parquet.read_table(tmp_path / "out" / "data").to_pydict()
    assert columns["id"] == ["texts.txt:1", "texts.txt:3"]
    expected = fill_masks(load_masked_lm(str(modernbert)), load_tokenizer(str(modernbert)), texts[:1] + texts[2:3], 3)
    for candidates, result in zip(columns["candidates"], expected, strict=True):
        for written, mask in zip(json.loads(candidates), result.masks, strict=True):
            assert [candidate["token"] for candidate in written] == [candidate.token for candidate in mask]
            assert [candidate["probability"] for candidate in written] == pytest.approx(
                [candidate.probability for candidate in mask], abs=1e-5
            )
