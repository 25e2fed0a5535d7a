"""Hard negatives and teachers, against plain sentence-transformers."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_data import PLACES, SUBJECTS

pytest.importorskip("sentence_transformers")
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.finetuning.finetune.base import Base, open_base
from llm_jp_modernbert.training.retrieval.dataset import Example, Part, RetrievalData
from llm_jp_modernbert.training.retrieval.negatives import mine_negatives
from llm_jp_modernbert.training.retrieval.options import EmbedderOptions
from llm_jp_modernbert.training.retrieval.teacher import score_with_teacher

SENTENCES = [f"{one}が{place}に行く。" for one, place in product(SUBJECTS, PLACES)]
HELD_OUT = SENTENCES[-2]


def data_of(examples: list[Example], form: Any = "pairs", corpus: tuple[str, ...] = ()) -> RetrievalData:
    train = Part("train", "", form, examples, [""] * len(examples))
    return RetrievalData(train, Part("held-out", "", "pairs", [Example("問い", (HELD_OUT,))], [""]), (), corpus)


def pairs() -> list[Example]:
    found = [Example(f"{text[0]}はどこ", (text,)) for text in SENTENCES[:-4]]
    # A query with two relevant passages, and a query that also is a passage.
    return [*found, replace(found[0], passages=found[-1].passages), Example(SENTENCES[1], (SENTENCES[5],))]


@pytest.fixture(scope="module")
def base(modernbert: Path) -> Base:
    return open_base(str(modernbert))


@pytest.fixture(scope="module")
def embedder(modernbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedder with prompts and another pooling."""
    model = SentenceTransformer(str(modernbert), device="cpu", prompts={"query": "問い ", "document": "文書 "})
    model[1].pooling_mode = "cls"
    folder = tmp_path_factory.mktemp("embedder")
    model.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("named", [True, False])
def test_mined_negatives_are_the_nearest_passages_below_the_margin(
    base: Base, embedder: Path, tmp_path: Path, named: bool
) -> None:
    options = EmbedderOptions(str(base.reference), mine_negatives=3, mine_with=str(embedder) if named else None)
    data = data_of(pairs(), corpus=tuple(SENTENCES[-4:]))
    mined = mine_negatives(data, options, base, tmp_path, tokens_per_batch=200).train
    assert mined.form == "triplets"
    plain = SentenceTransformer(str(embedder if named else base.reference), device="cpu")
    passages = [text for text in SENTENCES if text != HELD_OUT]
    vectors = plain.encode_document(passages, normalize_embeddings=True)
    checked = 0
    for before, example in zip(data.train.examples, mined.examples, strict=True):
        assert (example.query, example.passages[:1]) == (before.query, before.passages)
        own = {e.passages[0] for e in data.train.examples if e.query == example.query}
        cosines = dict(
            zip(passages, vectors @ plain.encode_query(example.query, normalize_embeddings=True), strict=True)
        )
        lowest = min(cosines[text] for text in own)
        allowed = [text for text in passages if text not in {*own, example.query} and cosines[text] <= 0.95 * lowest]
        wanted = sorted(allowed, key=lambda text: -cosines[text])[:3]
        negatives = example.passages[1:]
        assert [cosines[text] for text in negatives[: len(wanted)]] == pytest.approx(
            [cosines[text] for text in wanted], abs=1e-5
        )
        assert len(set(negatives)) == 3
        assert not {*own, HELD_OUT, example.query} & set(negatives)
        checked += len(wanted)
    assert checked > len(mined.examples)


def test_negatives_are_not_mined_again_unless_the_data_change(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EmbedderOptions(str(base.reference), mine_negatives=2)
    data = data_of(pairs())
    first = mine_negatives(data, options, base, tmp_path, 4096)
    (other := tmp_path / "other").mkdir()
    assert mine_negatives(data, options, base, other, 4096) == first

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("mines again")

    monkeypatch.setattr("sentence_transformers.util.mine_hard_negatives", fail)
    assert mine_negatives(data, options, base, tmp_path, 4096) == first
    with pytest.raises(AssertionError, match="mines again"):
        mine_negatives(data_of(pairs()[1:]), options, base, tmp_path, 4096)


def test_too_few_passages_for_the_negatives_are_an_error(base: Base, tmp_path: Path) -> None:
    options = EmbedderOptions(str(base.reference), mine_negatives=5)
    with pytest.raises(UsageError, match="--mine-negatives 5: 3 passages are too few"):
        mine_negatives(data_of(pairs()[:3]), options, base, tmp_path, 4096)


def triplets() -> list[Example]:
    return [Example(f"{text[0]}はどこ", (text, SENTENCES[-1], SENTENCES[9])) for text in SENTENCES[:6]]


def test_scores_of_a_reranker_are_its_logits(modernbert: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = CrossEncoder(str(modernbert), num_labels=1, device="cpu")
    teacher.save_pretrained(str(tmp_path / "reranker"))
    options = EmbedderOptions(str(modernbert), teacher=str(tmp_path / "reranker"))
    scored = score_with_teacher(data_of(triplets(), "triplets"), options, tmp_path, tokens_per_batch=150).train
    assert scored.form == "distillation"
    for example in scored.examples:
        texts = [(example.query, passage) for passage in example.passages]
        wanted = teacher.predict(texts, activation_fn=torch.nn.Identity())
        assert example.scores == pytest.approx(wanted.tolist(), abs=1e-5)


def test_scores_of_an_embedder_are_scaled_cosines(modernbert: Path, embedder: Path, tmp_path: Path) -> None:
    options = EmbedderOptions(str(modernbert), teacher=str(embedder))
    data = data_of(triplets(), "triplets")
    scored = score_with_teacher(data, options, tmp_path, tokens_per_batch=150)
    plain = SentenceTransformer(str(embedder), device="cpu")
    example = scored.train.examples[2]
    wanted = plain.similarity(plain.encode_query([example.query]), plain.encode_document(list(example.passages)))[0]
    np.testing.assert_allclose(example.scores, 20 * wanted.numpy(), atol=1e-4)
    assert score_with_teacher(data, options, tmp_path, 4096) == scored


def test_teacher_that_scores_no_pairs_is_an_error(modernbert: Path, tmp_path: Path) -> None:
    data = data_of(triplets(), "triplets")
    options = EmbedderOptions(str(modernbert), teacher=str(modernbert))
    with pytest.raises(UsageError, match="neither a reranker nor an embedder"):
        score_with_teacher(data, options, tmp_path, 4096)
    CrossEncoder(str(modernbert), num_labels=3, device="cpu").save_pretrained(str(tmp_path / "labels"))
    with pytest.raises(UsageError, match="gives 3 scores for a pair"):
        score_with_teacher(data, replace(options, teacher=str(tmp_path / "labels")), tmp_path, 4096)
    with pytest.raises(UsageError, match="missing"):
        score_with_teacher(data, replace(options, teacher=str(tmp_path / "missing")), tmp_path, 4096)
