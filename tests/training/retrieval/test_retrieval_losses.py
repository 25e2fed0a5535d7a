"""Losses and gradients equal those of plain sentence-transformers with transformers' ModernBERT."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import TEXTS
from tiny_models import tiny_config

pytest.importorskip("sentence_transformers")
import sentence_transformers
from sentence_transformers.cross_encoder import losses as reranker
from sentence_transformers.multi_vector_encoder import losses as late
from sentence_transformers.sentence_transformer import losses as embedder
from sentence_transformers.sparse_encoder import losses as sparse
from sentence_transformers.util import pairwise_cos_sim
from transformers import ModernBertPreTrainedModel

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.tokenization import train_stand_in
from llm_jp_modernbert.training.finetuning.finetune.base import open_base
from llm_jp_modernbert.training.retrieval.dataset import Example, Form
from llm_jp_modernbert.training.retrieval.kinds import RetrievalKind
from llm_jp_modernbert.training.retrieval.options import (
    EmbedderOptions,
    LateInteractionOptions,
    RerankerOptions,
    SparseOptions,
)
from llm_jp_modernbert.training.retrieval.registry import kind_of

OPTIONS: dict[str, Any] = {
    "embedder": EmbedderOptions,
    "reranker": RerankerOptions,
    "sparse": SparseOptions,
    "late-interaction": LateInteractionOptions,
}
PEERS = {
    "embedder": "SentenceTransformer",
    "reranker": "CrossEncoder",
    "sparse": "SparseEncoder",
    "late-interaction": "MultiVectorEncoder",
}
TOLERANCE = 1e-5
# Everything at once, and pieces of one to three texts.
BUDGETS = (100_000, 60)


def splade(loss: Any) -> Callable[[Any], Any]:
    return lambda model: sparse.SpladeLoss(model, loss(model), 3e-5, 5e-5)


def scaled(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return 20 * pairwise_cos_sim(first, second)


# Losses of sentence-transformers, with its default settings, but cosine similarities of embedders have a scale of 20.
LOSSES: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("embedder", "cached-mnrl"): lambda model: embedder.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2),
    ("embedder", "cosent"): embedder.CoSENTLoss,
    ("embedder", "margin-mse"): lambda model: embedder.MarginMSELoss(model, scaled),
    ("embedder", "kl-divergence"): lambda model: embedder.DistillKLDivLoss(model, scaled),
    ("reranker", "binary-cross-entropy"): reranker.BinaryCrossEntropyLoss,
    ("reranker", "cached-mnrl"): reranker.CachedMultipleNegativesRankingLoss,
    ("reranker", "lambda"): reranker.LambdaLoss,
    ("reranker", "margin-mse"): reranker.MarginMSELoss,
    ("reranker", "mse"): reranker.MSELoss,
    ("sparse", "mnrl"): splade(sparse.SparseMultipleNegativesRankingLoss),
    ("sparse", "cosent"): splade(sparse.SparseCoSENTLoss),
    ("sparse", "margin-mse"): splade(sparse.SparseMarginMSELoss),
    ("sparse", "kl-divergence"): splade(sparse.SparseDistillKLDivLoss),
    ("late-interaction", "cached-mnrl"): late.CachedMultiVectorMultipleNegativesRankingLoss,
    ("late-interaction", "margin-mse"): late.MultiVectorMarginMSELoss,
    ("late-interaction", "kl-divergence"): late.MultiVectorDistillKLDivLoss,
}


def kind_for(kind: str, base: Path | str = "", **options: Any) -> RetrievalKind:
    return kind_of(OPTIONS[kind](str(base), **options))


CASES = [
    (kind, form, loss)
    for kind in OPTIONS
    for form, losses in kind_for(kind).losses_by_form.items()
    for loss in losses
    if form != "texts"
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked language model of three layers."""
    path = tmp_path_factory.mktemp("base")
    tokenizer = train_stand_in(TEXTS * 20, vocab_size=305)
    torch.manual_seed(0)
    config = tiny_config(vocab_size=len(tokenizer), max_position_embeddings=256, initializer_range=0.15)
    model = LlmJpModernBertForMaskedLM(config)
    # Most weights of a sparse model are 0; sums of many would hide differences by their rounding.
    torch.nn.init.constant_(model.decoder.bias, -1.0)
    model.save_pretrained(path, format="plain")
    tokenizer.model_max_length = 256
    tokenizer.save_pretrained(path)
    return path


def examples(form: Form) -> list[Example]:
    """Six examples of different lengths."""
    made = []
    for number in range(6):
        texts = [TEXTS[(number + place) % 3] * (1 + (number * place) % 4) for place in range(4)]
        query, passages = texts[0][: 5 + 3 * number], tuple(f"{number}{text}" for text in texts[1:])
        passages = {"pairs": passages[:1], "scored": passages[:1], "texts": ()}.get(form, passages)
        scores = {"scored": (number / 5,), "distillation": (0.9, 0.1 * number, -0.3)}.get(form, ())
        made.append(Example(query, passages, scores))
    return made


def loss_and_gradients(kind: RetrievalKind, model: Any, loss: Any, form: Form, folder: Path) -> Any:
    """The loss of one batch in sentence-transformers' trainer, and the gradients of all parameters."""
    arguments = kind.trainer_class.training_args_class(str(folder), report_to=[], use_cpu=True)
    rows = list(kind.columns(examples(form), form))
    trainer = kind.trainer_class(model, arguments, loss=loss)
    model.zero_grad()
    torch.manual_seed(0)
    value = trainer.compute_loss(model, trainer.data_collator(rows))
    value.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    return float(value.detach()), gradients


def assert_equal(first: Any, second: Any) -> None:
    (loss, gradients), (expected, peers) = first, second
    assert loss == pytest.approx(expected, rel=TOLERANCE)
    assert gradients.keys() == peers.keys()
    used = {name for name, gradient in gradients.items() if gradient is not None}
    assert used == {name for name, gradient in peers.items() if gradient is not None}
    largest = max(1.0, *(float(peers[name].abs().max()) for name in used))

    errors = {name: float((gradients[name] - peers[name]).abs().max()) / largest for name in used}
    assert max(errors.values()) <= TOLERANCE, max(errors.items(), key=lambda item: item[1])


@pytest.fixture(scope="module")
def models(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Any]]:
    """Returns a model of a type, and the same saved and loaded with transformers' class by sentence-transformers."""

    @functools.cache
    def of(name: str) -> tuple[Any, Any]:
        kind, folder = kind_for(name, base), tmp_path_factory.mktemp(name)
        model = kind.build(open_base(str(base)), 0, "triplets")
        kind.save(model, folder)
        peer = getattr(sentence_transformers, PEERS[name])(str(folder), device="cpu")
        assert isinstance(peer[0].model, ModernBertPreTrainedModel)
        return model, peer

    return of


@pytest.mark.parametrize(("name", "form", "loss"), CASES)
def test_losses_and_gradients_equal_those_of_sentence_transformers(
    name: str, form: Form, loss: str, base: Path, models: Callable[[str], tuple[Any, Any]], tmp_path: Path
) -> None:
    kind = kind_for(name, base, loss=loss)
    model, peer = models(name)
    expected = loss_and_gradients(kind, peer, LOSSES[name, loss](peer), form, tmp_path)
    for budget in BUDGETS:
        assert_equal(loss_and_gradients(kind, model, kind.loss(model, form, budget), form, tmp_path), expected)


def test_matryoshka_equals_that_of_sentence_transformers(
    base: Path, models: Callable[[str], tuple[Any, Any]], tmp_path: Path
) -> None:
    kind = kind_for("embedder", base, matryoshka=[8, 16])
    model, peer = models("embedder")
    cached = embedder.CachedMultipleNegativesRankingLoss(peer)
    loss = embedder.MatryoshkaLoss(peer, cached, [32, 16, 8])
    expected = loss_and_gradients(kind, peer, loss, "triplets", tmp_path)
    for budget in BUDGETS:
        ours = kind.loss(model, "triplets", budget)
        assert_equal(loss_and_gradients(kind, model, ours, "triplets", tmp_path), expected)


@pytest.mark.parametrize("name", OPTIONS)
def test_saved_models_give_the_same_outputs_in_sentence_transformers(
    name: str, models: Callable[[str], tuple[Any, Any]]
) -> None:
    model, peer = (each.eval() for each in models(name))
    queries, passages = TEXTS, [TEXTS[0] * 4, "吾輩", TEXTS[1]]
    if name == "reranker":
        pairs = list(zip(queries, passages, strict=True))
        outputs = [torch.tensor(each.predict(pairs)) for each in (model, peer)]
    else:
        outputs = [
            each.similarity(each.encode_query(queries), each.encode_document(passages)).float()
            for each in (model, peer)
        ]
    assert outputs[0].shape == outputs[1].shape
    assert torch.allclose(*outputs, rtol=TOLERANCE, atol=TOLERANCE)


def test_loss_curve_equals_that_of_sentence_transformers(base: Path, tmp_path: Path) -> None:
    kind = kind_for("embedder", base)
    curves = []
    for is_peer in (False, True):
        model = kind.build(open_base(str(base)), 0, "pairs")
        loss = kind.loss(model, "pairs", 60)
        if is_peer:
            kind.save(model, tmp_path / "model")
            model = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
            loss = embedder.CachedMultipleNegativesRankingLoss(model)
        arguments = kind.trainer_class.training_args_class(
            str(tmp_path),
            num_train_epochs=4,
            per_device_train_batch_size=3,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = kind.trainer_class(
            model, arguments, train_dataset=kind.columns(examples("pairs"), "pairs"), loss=loss
        )
        trainer.train()
        curves.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(curves[0]) == 8
    assert curves[0][-1] < curves[0][0]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


@pytest.mark.parametrize("name", ["embedder", "reranker", "late-interaction"])
def test_pieces_do_not_change_the_result_of_other_encoders(name: str, bert: Path, tmp_path: Path) -> None:
    kind = kind_for(name, bert)
    model = kind.build(open_base(str(bert)), 0, "triplets").train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    results = [
        loss_and_gradients(kind, model, kind.loss(model, "triplets", budget), "triplets", tmp_path)
        for budget in BUDGETS
    ]
    assert_equal(*results)
