"""Transforms of torch.func and second derivatives equal those of transformers' ModernBERT, or raise torch's error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peer import assert_close, documents, padded, padding_mask, pair
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap

Tensors = dict[str, torch.Tensor]
HEADS = ("ForMaskedLM", "ForSequenceClassification")
ROWS = documents(40, 23)
IDS, MASK = padded(ROWS), padding_mask(ROWS)


def models(head: str, implementation: str | None = "eager") -> tuple[Any, Any]:
    """Build both models with two layers and float64 weights."""
    own, peer = pair(head, implementation, "eager", num_hidden_layers=2)
    return own.double(), peer.double()


def loss(model: Any, inputs: Tensors, parameters: Tensors | None = None) -> torch.Tensor:
    is_masked_lm = "MaskedLM" in type(model).__name__
    labels = IDS.where(MASK.bool() & (IDS % 3 == 0), -100) if is_masked_lm else torch.tensor([0, 1])
    return functional_call(model, parameters or {}, (), {**inputs, "attention_mask": MASK, "labels": labels}).loss


def some_parameters(model: Any) -> Tensors:
    """Return parameters of two layers; the others keep their own gradients."""
    names = ("model.layers.0.attn.Wqkv.weight", "model.layers.1.mlp_norm.weight", "head.dense.weight")
    return {name: parameter.detach() for name, parameter in model.named_parameters() if name in names}


def grad_of_parameters(model: Any, parameters: Tensors) -> Any:
    return grad(lambda values: loss(model, {"input_ids": IDS}, values))(parameters)


def grad_of_embeddings(model: Any, parameters: Tensors) -> Any:
    embeddings = model.get_input_embeddings()(IDS).detach()
    return grad(lambda values: loss(model, {"inputs_embeds": values}))(embeddings)


def jvp_of_loss(model: Any, parameters: Tensors) -> Any:
    return jvp(lambda values: loss(model, {"input_ids": IDS}, values), (parameters,), (parameters,))


def jvp_of_gradient(model: Any, parameters: Tensors) -> Any:
    return jvp(grad(lambda values: loss(model, {"input_ids": IDS}, values)), (parameters,), (parameters,))


def jacobian(transform: Callable[..., Any]) -> Callable[[Any, Tensors], Any]:
    def compute(model: Any, parameters: Tensors) -> Any:
        def logits(norm: torch.Tensor) -> torch.Tensor:
            changed = {"model.layers.1.mlp_norm.weight": norm}
            return functional_call(model, changed, (), {"input_ids": IDS}).logits.flatten()[:4]

        return transform(logits)(parameters["model.layers.1.mlp_norm.weight"])

    return compute


def vmap_over_parameters(model: Any, parameters: Tensors) -> Any:
    stacked = {name: torch.stack([value, 1.1 * value]) for name, value in parameters.items()}
    return vmap(lambda values: functional_call(model, values, (), {"input_ids": IDS}).logits)(stacked)


def hessian_vector_product(model: Any, parameters: Tensors) -> Any:
    trained = [parameter for name, parameter in model.named_parameters() if name in parameters]
    first = torch.autograd.grad(loss(model, {"input_ids": IDS}), trained, create_graph=True)
    return torch.autograd.grad(sum((gradient**2).sum() for gradient in first), trained)


TRANSFORMS = [
    *(grad_of_parameters, grad_of_embeddings, jvp_of_loss, jvp_of_gradient, jacobian(jacrev), jacobian(jacfwd)),
    *(vmap_over_parameters, hessian_vector_product),
]
NAMES = [*(transform.__name__ for transform in TRANSFORMS[:4]), "jacrev", "jacfwd", "vmap", "hessian_vector_product"]


def assert_trees_close(own: Any, peer: Any) -> None:
    leaves, others = (torch.utils._pytree.tree_leaves(tree) for tree in (own, peer))
    for leaf, other in zip(leaves, others, strict=True):
        # Rotations and losses are computed in float32 on either side.
        scale = other.detach().abs().max()
        assert_close(leaf / scale, other / scale, 1e-6)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=NAMES)
@pytest.mark.parametrize("head", HEADS)
def test_derivatives_of_eager_attention_equal_transformers(head: str, transform: Callable[..., Any]) -> None:
    own, peer = models(head)
    assert_trees_close(transform(own, some_parameters(own)), transform(peer, some_parameters(peer)))


def test_gradient_of_a_batched_long_row_equals_transformers() -> None:
    """Local attention in blocks, under `vmap` of `grad`."""
    own, peer = models("ForSequenceClassification", None)
    ids, label = torch.stack(documents(200)), torch.tensor([1])

    def gradients(model: Any) -> Any:
        def value(norm: torch.Tensor) -> torch.Tensor:
            changed = {"model.layers.1.mlp_norm.weight": norm}
            return functional_call(model, changed, (), {"input_ids": ids, "labels": label}).loss

        norm = model.model.layers[1].mlp_norm.weight.detach()
        return vmap(grad(value))(torch.stack([norm, 2 * norm]))

    assert_trees_close(gradients(own), gradients(peer))


def test_second_derivatives_of_all_parameters_include_tied_embeddings() -> None:
    own, peer = models("ForMaskedLM")
    products = [hessian_vector_product(model, dict(model.named_parameters())) for model in (own, peer)]
    assert_trees_close(*products)


@pytest.mark.parametrize("transform", [jvp_of_loss, jvp_of_gradient, hessian_vector_product])
def test_unsupported_derivatives_of_sdpa_name_the_operation(transform: Callable[..., Any]) -> None:
    own, _ = models("ForMaskedLM", "sdpa")
    with pytest.raises((NotImplementedError, RuntimeError), match="scaled_dot_product"):
        transform(own, some_parameters(own))
