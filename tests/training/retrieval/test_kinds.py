"""Types of retrieval model: what they learn from, what they are built from, and how much they compute at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import TEXTS, write_model
from tiny_models import tiny_config
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("sentence_transformers")

from llm_jp_modernbert import LlmJpModernBertForMaskedLM
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_config
from llm_jp_modernbert.inference.heads import ENCODER, MASKED_LM, SEQUENCE_CLASSIFICATION
from llm_jp_modernbert.inference.retrieval.splade import vocabulary_weights
from llm_jp_modernbert.training.finetuning.finetune.base import open_base
from llm_jp_modernbert.training.retrieval.dataset import Example
from llm_jp_modernbert.training.retrieval.options import (
    EmbedderOptions,
    LateInteractionOptions,
    RerankerOptions,
    SparseOptions,
)
from llm_jp_modernbert.training.retrieval.registry import kind_of


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base"), MASKED_LM)


@pytest.mark.parametrize(
    ("options", "form", "message"),
    [
        (RerankerOptions(""), "texts", "train-reranker does not learn from texts alone"),
        (LateInteractionOptions(""), "scored", "train-late-interaction does not learn from scored pairs"),
        (EmbedderOptions("", loss="cosent"), "pairs", "--loss cosent"),
        (RerankerOptions("", loss="lambda"), "pairs", "Choose cached-mnrl"),
    ],
)
def test_loss_that_cannot_learn_from_the_data_is_reported(options: Any, form: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind_of(options).loss_name(form)


def test_scores_of_one_passage_are_reported_where_passages_are_compared() -> None:
    kind = kind_of(EmbedderOptions(""))
    with pytest.raises(UsageError, match="--mine-negatives"):
        kind.columns([Example("問い", ("答え",), (0.5,))], "distillation")


def test_sparse_model_without_vocabulary_head_is_reported(tmp_path: Path) -> None:
    base = open_base(str(write_model(tmp_path, ENCODER)))
    with pytest.raises(UsageError, match="masked language model"):
        kind_of(SparseOptions(str(tmp_path))).build(base, 0, "pairs")


def test_matryoshka_length_above_the_width_is_reported(base: Path) -> None:
    kind = kind_of(EmbedderOptions(str(base), matryoshka=[64]))
    with pytest.raises(UsageError, match="--matryoshka 64"):
        kind.build(open_base(str(base)), 0, "pairs")


def test_base_of_the_same_type_keeps_its_modules(base: Path, tmp_path: Path) -> None:
    first = kind_of(LateInteractionOptions(str(base), dimensions=16))
    model = first.build(open_base(str(base)), 0, "pairs")
    first.save(model, tmp_path)
    options = LateInteractionOptions(str(tmp_path), dimensions=8, query_prompt="問: ")
    again = kind_of(options).build(open_base(str(tmp_path)), 1, "pairs")
    assert again.prompts == {"query": "問: ", "document": "検索文書: "}
    weights = again.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_classifier_of_other_labels_becomes_a_reranker(tmp_path: Path) -> None:
    base = open_base(str(write_model(tmp_path, SEQUENCE_CLASSIFICATION)))
    model = kind_of(RerankerOptions(str(tmp_path))).build(base, 0, "triplets")
    assert model.predict([("問い", "答え")]).shape == (1,)


def test_dropout_for_texts_alone_is_not_saved(base: Path, tmp_path: Path) -> None:
    kind = kind_of(EmbedderOptions(str(base)))
    model = kind.build(open_base(str(base)), 0, "texts").train()
    features = model.preprocess(TEXTS)
    first, second = (model(dict(features))["sentence_embedding"] for _ in range(2))
    assert not torch.allclose(first, second)
    kind.save(model, tmp_path)
    saved = read_config(tmp_path)
    assert {saved[name] for name in ("attention_dropout", "mlp_dropout", "embedding_dropout")} == {0.0}
    assert model.prompts == {"query": "", "document": ""}


@pytest.mark.parametrize("options", [EmbedderOptions, RerankerOptions, SparseOptions, LateInteractionOptions])
def test_no_more_tokens_than_the_budget_are_computed_at_once(options: Any, base: Path) -> None:
    kind = kind_of(options(str(base)))
    model = kind.build(open_base(str(base)), 0, "pairs")
    texts = [TEXTS[number % 3] * (1 + number % 4) for number in range(12)]
    features = model.preprocess(list(zip(texts, texts, strict=True)) if options is RerankerOptions else texts)
    lengths = features["attention_mask"].sum(1)
    without_limit = bytes_for_backward(model, features)
    budget, computed = int(lengths.max()) + 1, []
    kind.loss(model, "pairs", budget)
    layers = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    layers[0].register_forward_hook(lambda layer, inputs, output: computed.append(len(output)))
    assert bytes_for_backward(model, features) < without_limit / 10
    assert sum(computed) == int(lengths.sum())
    assert budget / 2 < max(computed) <= budget


def bytes_for_backward(model: Any, features: dict[str, Any]) -> int:
    """Bytes of the tensors that a forward pass keeps for the backward pass."""
    sizes: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(dict(features))
    return sum(sizes)


class LargestOutputs(TorchDispatchMode):
    """Records the largest number of rows of dense tensors with a given last dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.rows = width, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple) else (output,):
            is_dense = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
            if is_dense and tensor.dim() > 1 and tensor.shape[-1] == self.width:
                self.rows = max(self.rows, tensor.shape[:-1].numel())
        return output


def test_sparse_models_hold_few_logits_of_a_long_text() -> None:
    torch.manual_seed(0)
    vocabulary, length = 333, 1000
    model = LlmJpModernBertForMaskedLM(tiny_config(vocab_size=vocabulary, max_position_embeddings=length))
    ids = torch.randint(8, vocabulary, (1, length))
    mask = torch.ones_like(ids)
    with LargestOutputs(vocabulary) as largest:
        weights = vocabulary_weights(model, ids, mask)
        weights.square().sum().backward()
    assert 0 < largest.rows <= length // 2
    expected = model(ids, mask).logits.relu().log1p().amax(1)
    torch.testing.assert_close(weights, expected)
