"""Embeddings from counts equal the formula, computed here with plain loops and NumPy."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from safetensors.torch import load_file
from tiny_models import tiny_config

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.training import assembly
from llm_jp_modernbert.training.data import cooccurrence
from llm_jp_modernbert.training.data.corpus import TokenizedCorpus, from_documents
from llm_jp_modernbert.training.data.readers import find_files, read_documents

Data = tuple[Path, Path]

VOCABULARY = 40
UNSEEN = (0, 37)


@pytest.fixture
def corpus() -> TokenizedCorpus:
    """Documents of various lengths, some without neighbours; two tokens of the vocabulary do not occur."""
    draw = np.random.default_rng(0)
    seen = [token for token in range(VOCABULARY) if token not in UNSEEN]
    shares = 1.0 / np.arange(1, len(seen) + 1)
    return from_documents(draw.choice(seen, draw.integers(1, 30), p=shares / shares.sum()) for _ in range(300))


def by_hand(corpus: TokenizedCorpus, neighbours: int) -> np.ndarray:
    commonest = [token for token, _ in Counter(corpus.ids.tolist()).most_common()]
    commonest += sorted(set(range(VOCABULARY)) - set(commonest))
    values = np.zeros((VOCABULARY, 4 * neighbours))
    for number, offset in enumerate((-2, -1, 1, 2)):
        pairs: Counter[tuple[int, int]] = Counter()
        for document in (corpus.document(index).tolist() for index in range(len(corpus))):
            for place, token in enumerate(document):
                if 0 <= place + offset < len(document) and document[place + offset] in commonest[:neighbours]:
                    pairs[token, document[place + offset]] += 1
        of_token: Counter[int] = Counter()
        of_neighbour: Counter[int] = Counter()
        for (token, other), times in pairs.items():
            of_token[token] += times
            of_neighbour[other] += times
        whole = sum(times**0.75 for times in of_neighbour.values())
        for (token, other), times in pairs.items():
            information = math.log(times / (of_token[token] * of_neighbour[other] ** 0.75 / whole))
            column = number * neighbours + commonest.index(other)
            values[token, column] = max(information, 0) * times / (times + 1)
    return values


@pytest.mark.parametrize("neighbours", [VOCABULARY, 7])
def test_associations_equal_the_formula(
    corpus: TokenizedCorpus, monkeypatch: pytest.MonkeyPatch, neighbours: int
) -> None:
    monkeypatch.setattr(cooccurrence, "_NEIGHBOURS", neighbours)
    values = cooccurrence.associations(corpus, VOCABULARY).to_dense().numpy()
    expected = by_hand(corpus, neighbours)
    # Equally frequent tokens may be in any order.
    assert np.allclose(np.sort(values, axis=1), np.sort(expected, axis=1), atol=1e-5)
    assert np.allclose(values @ values.T, expected @ expected.T, atol=1e-3)


@pytest.mark.parametrize(("width", "tolerance"), [(64, 1e-4), (8, 0.15)])
def test_factors_equal_the_full_decomposition(corpus: TokenizedCorpus, width: int, tolerance: float) -> None:
    torch.manual_seed(0)
    factors = cooccurrence.association_factors(corpus, VOCABULARY, width).double().numpy()
    left, values, _ = np.linalg.svd(by_hand(corpus, VOCABULARY), full_matrices=False)
    expected = left[:, :width] * np.sqrt(values[:width])
    expected -= expected.mean(0)
    assert factors.shape == (VOCABULARY, width)
    # Equal up to rotation; with fewer columns the randomized decomposition is approximate.
    difference = np.linalg.norm(factors @ factors.T - expected @ expected.T)
    assert difference < tolerance * np.linalg.norm(expected @ expected.T)


def test_embeddings_and_bias_are_initialized(corpus: TokenizedCorpus) -> None:
    torch.manual_seed(0)
    model = LlmJpModernBertForMaskedLM(tiny_config(vocab_size=VOCABULARY))
    weight = model.get_input_embeddings().weight
    before = weight.detach().clone()
    cooccurrence.start_from_counts(model, corpus)
    unseen = torch.tensor(UNSEEN)
    seen = torch.tensor([token for token in range(VOCABULARY) if token not in UNSEEN])
    assert torch.equal(weight[unseen], before[unseen])
    assert (weight[seen] - before[seen]).abs().mean() > 0.1 * before.std()
    assert weight.detach()[seen].std() == pytest.approx(before.std().item(), rel=1e-3)
    assert model.get_output_embeddings().weight is weight
    assert weight.requires_grad
    shares = model.get_output_embeddings().bias.detach().softmax(0).numpy()
    counts = np.bincount(corpus.ids, minlength=VOCABULARY) + 0.5
    assert np.allclose(shares, counts / counts.sum(), atol=1e-6)


def test_tokens_with_equal_neighbours_have_similar_embeddings() -> None:
    # Tokens 1 and 2 have the same neighbours, and so have 3 and 4.
    draw = np.random.default_rng(1)
    documents = [
        [int(draw.integers(5, 8)), int(draw.integers(1, 3)), int(draw.integers(8, 11)), int(draw.integers(3, 5))] * 3
        for _ in range(200)
    ]
    torch.manual_seed(0)
    factors = cooccurrence.association_factors(from_documents(documents), 12, 12)
    cosine = torch.nn.functional.cosine_similarity(factors[:, None], factors[None], dim=-1)
    assert cosine[1, 2] > 0.8
    assert cosine[3, 4] > 0.8
    assert cosine[1, 3] < 0.3


@pytest.mark.parametrize("documents", [[], [[3], [5]], [[3, 3, 3]]])
def test_random_embeddings_are_kept_without_counts(documents: list[list[int]]) -> None:
    model = LlmJpModernBertForMaskedLM(tiny_config(vocab_size=12))
    before = model.get_input_embeddings().weight.detach().clone()
    cooccurrence.start_from_counts(model, from_documents(documents))
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert model.get_output_embeddings().bias.isfinite().all()


def test_read_for_counting_reads_each_document_once_up_to_a_limit(data: Data, tmp_path: Path) -> None:
    arguments = runs.load(runs.recipe(*data, tmp_path / "run"))
    tokenizer = assembly.make_tokenizer(arguments)
    texts = [document.text for file in find_files([str(data[0])]) for document in read_documents(file)]
    expected = sorted(tuple(ids) for ids in tokenizer(texts, add_special_tokens=False).input_ids)
    blocks = assembly.make_stream(arguments, tokenizer).maker
    corpus = cooccurrence.read_for_counting(blocks)
    assert sorted(tuple(corpus.document(index).tolist()) for index in range(len(corpus))) == expected
    part = cooccurrence.read_for_counting(blocks, tokens=100)
    assert 100 <= len(part.ids) < len(corpus.ids)


def test_counted_embeddings_lower_the_initial_loss(data: Data, tmp_path: Path) -> None:
    changes = {"max_steps": 1, "warmup_steps": 0, "validation_data": str(data[0])}
    changes |= {"eval_strategy": "steps", "eval_on_start": True}
    losses = {}
    for kind in ("random", "counted"):
        trainer = runs.run(runs.recipe(*data, tmp_path / kind, **changes, init_embeddings=kind))
        losses[kind] = trainer.state.log_history[0]["eval_loss"]
    assert losses["counted"] < losses["random"] - 1


def test_resumed_run_is_not_initialized_again(data: Data, tmp_path: Path) -> None:
    keys = runs.recipe(*data, tmp_path / "whole", init_embeddings="counted", max_steps=10)
    runs.run(keys)
    part = {**keys, "output_dir": str(tmp_path / "part")}
    assert runs.run_apart(part, kill=7) == [-9]
    runs.run({**part, "resume_from_checkpoint": True})
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
