"""Vectors equal those of transformers and sentence-transformers, whatever the batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import TEXTS
from sentence_models import write_sentence_model
from sentence_transformers import SentenceTransformer

from llm_jp_modernbert.inference.encoder.encoder import Encoder, load_encoder

SAMPLES = [*TEXTS, "x" * 500, "", "猫", *(text[:place] for text in TEXTS for place in range(3, 12))]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentence_model(tmp_path_factory.mktemp("models") / "embedder", "SentenceTransformer")


@pytest.fixture(scope="module")
def encoder(embedder: Path) -> Encoder:
    return load_encoder(str(embedder), device="cpu")


@pytest.mark.parametrize("prompt", [None, "query", "document"])
@pytest.mark.parametrize("tokens_per_batch", [64, 8192])
def test_vectors_equal_those_of_sentence_transformers(
    embedder: Path, encoder: Encoder, prompt: str | None, tokens_per_batch: int
) -> None:
    model = SentenceTransformer(str(embedder), device="cpu")
    expected = model.encode(SAMPLES, prompt_name=prompt, normalize_embeddings=True)
    vectors = encoder.encode(SAMPLES, prompt, tokens_per_batch=tokens_per_batch)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
