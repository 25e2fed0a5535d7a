"""Recorded outputs, unusual inputs, context length, settings, precision and compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peer import (
    BACKENDS,
    EXACT,
    HEAD_NAMES,
    HIDDEN,
    LAYERS,
    LENGTHS,
    VOCAB,
    assert_close,
    batch,
    boundaries,
    documents,
    gradients,
    own_class,
    pair,
    restarting_positions,
    run,
    settings,
)

from llm_jp_modernbert import LlmJpModernBertConfig
from llm_jp_modernbert.modeling.layout import are_valid_boundaries

backends = pytest.mark.parametrize("backend", BACKENDS)


def batch_for(head: str) -> dict[str, torch.Tensor]:
    """The batch, with an axis of choices for multiple choice."""
    inputs = batch()
    return {key: value[None] for key, value in inputs.items()} if head == "ForMultipleChoice" else inputs


# Recorded outputs


@backends
def test_hidden_states_and_attentions_equal_transformers(backend: str) -> None:
    own, peer = pair("Model", backend, "eager")
    inputs = batch()
    outputs = run(own, **inputs, output_hidden_states=True, output_attentions=True)
    expected = run(peer, **inputs, output_hidden_states=True, output_attentions=True)
    tokens = inputs["attention_mask"].bool()
    assert len(outputs.hidden_states) == len(expected.hidden_states) == LAYERS + 1
    for own_state, peer_state in zip(outputs.hidden_states, expected.hidden_states, strict=True):
        assert_close(own_state[tokens], peer_state[tokens])
        assert own_state[~tokens].eq(0).all()
    assert len(outputs.attentions) == len(expected.attentions) == LAYERS
    between_tokens = tokens[:, None, :, None] & tokens[:, None, None, :]
    for own_weights, peer_weights in zip(outputs.attentions, expected.attentions, strict=True):
        assert_close(own_weights, peer_weights * between_tokens)
    assert_close(run(own, **inputs).last_hidden_state, outputs.last_hidden_state, EXACT)


def test_packed_hidden_states_equal_transformers_per_document() -> None:
    own, peer = pair("Model")
    rows = documents(*LENGTHS)
    outputs = run(own, input_ids=torch.cat(rows)[None], cu_seqlens=boundaries(rows), output_hidden_states=True)
    singles = [run(peer, input_ids=row[None], output_hidden_states=True).hidden_states for row in rows]
    for index, state in enumerate(outputs.hidden_states):
        assert_close(state, torch.cat([single[index] for single in singles], 1))


@pytest.mark.parametrize("head", HEAD_NAMES)
def test_return_dict_false_returns_same_values(head: str) -> None:
    own, _ = pair(head)
    inputs = batch_for(head)
    outputs, values = run(own, **inputs), run(own, **inputs, return_dict=False)
    assert isinstance(values, tuple)
    for value, expected in zip(values, outputs.to_tuple(), strict=True):
        assert torch.equal(value, expected)


# Inputs


@backends
@pytest.mark.parametrize("head", HEAD_NAMES)
def test_inputs_embeds_equal_input_ids(backend: str, head: str) -> None:
    own, _ = pair(head, backend)
    inputs = batch_for(head)
    expected = run(own, **inputs)
    embeddings = own.get_input_embeddings()(inputs.pop("input_ids")).detach().requires_grad_()
    outputs = own(inputs_embeds=embeddings, **inputs)
    for key in expected:
        assert_close(outputs[key], expected[key], EXACT)
    next(iter(outputs.values())).sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.abs().max() > 0


@pytest.mark.parametrize("head", HEAD_NAMES)
def test_exactly_one_of_ids_and_embeddings_is_required(head: str) -> None:
    own, _ = pair(head)
    shape = (1, 1, 2) if head == "ForMultipleChoice" else (1, 2)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        own()
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        own(input_ids=torch.ones(shape, dtype=torch.long), inputs_embeds=torch.ones(*shape, HIDDEN))


@backends
@pytest.mark.parametrize("head", HEAD_NAMES)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_row_without_tokens_is_finite_and_isolated(backend: str, head: str, pooling: str) -> None:
    """No NaN and no influence on other rows; the hidden states of such a row are zero."""
    own, _ = pair(head, backend, classifier_pooling=pooling)
    inputs = batch_for(head)
    expected = run(own, **inputs)
    inputs["attention_mask"][..., 1, :] = 0
    outputs = own(**inputs)
    for key, value in outputs.items():
        assert value.isfinite().all()
        others = (slice(None), [0, 2]) if head == "ForMultipleChoice" else ([0, 2],)
        assert_close(value[others], expected[key][others], EXACT)
    if head == "Model":
        assert outputs.last_hidden_state[1].eq(0).all()
    sum(value.clamp(min=-100).sum() for value in outputs.values()).backward()
    assert all(gradient.isfinite().all() for gradient in gradients(own).values())


@backends
@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForMultipleChoice"])
def test_row_without_tokens_with_position_ids(backend: str, head: str) -> None:
    """If positions restart in no row, each row gets one score, even a row without tokens."""
    own, _ = pair(head, backend)
    inputs = batch_for(head)
    inputs["attention_mask"][..., 1, :] = 0
    positions = torch.arange(max(LENGTHS)).expand_as(inputs["input_ids"])
    assert_close(run(own, **inputs, position_ids=positions).logits, run(own, **inputs).logits, EXACT)


@backends
def test_batch_without_tokens_has_zero_loss_and_gradients(backend: str) -> None:
    own, _ = pair("ForMaskedLM", backend)
    inputs = batch()
    inputs["attention_mask"].zero_()
    assert run(own, **inputs).logits.eq(0).all()
    own.train()
    loss = own(**inputs, labels=torch.full_like(inputs["input_ids"], -100)).loss
    loss.backward()
    assert loss.item() == 0
    assert all(gradient.eq(0).all() for gradient in gradients(own).values())


@backends
@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
def test_empty_batch_has_empty_outputs(backend: str, shape: tuple[int, int]) -> None:
    own, _ = pair("Model", backend)
    input_ids = torch.zeros(shape, dtype=torch.long)
    assert run(own, input_ids=input_ids).last_hidden_state.shape == (*shape, HIDDEN)
    assert run(own, input_ids=input_ids, attention_mask=input_ids).last_hidden_state.shape == (*shape, HIDDEN)
    head, _ = pair("ForMaskedLM", backend)
    assert run(head, input_ids=input_ids).logits.shape == (*shape, VOCAB)
    classifier, _ = pair("ForSequenceClassification", backend)
    assert run(classifier, input_ids=input_ids).logits.shape == (shape[0], 2)


@backends
def test_empty_documents_in_packed_row(backend: str) -> None:
    own, peer = pair("ForSequenceClassification", backend)
    rows = documents(70, 0, 3, 0)
    logits = run(own, input_ids=torch.cat(rows)[None], cu_seqlens=boundaries(rows)).logits
    assert logits.shape == (4, 2)
    assert logits.isfinite().all()
    assert_close(logits[[0, 2]], torch.cat([run(peer, input_ids=rows[index][None]).logits for index in (0, 2)]))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"cu_seqlens": torch.tensor([0, 4, 9])}, "cu_seqlens must rise from 0 to the number of tokens, 10"),
        ({"cu_seqlens": torch.tensor([1, 10])}, "cu_seqlens must rise from 0"),
        ({"cu_seqlens": torch.tensor([0, 7, 5, 10])}, "cu_seqlens must rise from 0"),
        ({"attention_mask": torch.ones(1, 9)}, r"attention_mask must have the input's shape \(1, 10\)"),
        ({"attention_mask": torch.ones(1, 1, 10, 10)}, "masks between pairs of tokens are not supported"),
        (
            {"attention_mask": torch.tensor([[0] + [1] * 9]), "cu_seqlens": torch.tensor([0, 10])},
            "either cu_seqlens or an attention_mask",
        ),
    ],
)
def test_contradictory_inputs_raise(inputs: dict[str, torch.Tensor], message: str) -> None:
    own, _ = pair("Model")
    with pytest.raises(ValueError, match=message):
        own(input_ids=torch.stack(documents(10)), **inputs)


@pytest.mark.parametrize(
    ("boundaries", "longest", "expected"),
    [
        ([0, 4, 10], None, True),
        ([0, 4, 10], 6, True),
        ([0, 4, 10], 5, False),
        ([0, 4, 9], None, False),
        ([1, 10], None, False),
        ([0, 7, 5, 10], None, False),
    ],
)
def test_boundaries_are_validated_on_device(boundaries: list[int], longest: int | None, expected: bool) -> None:
    assert bool(are_valid_boundaries(torch.tensor(boundaries), 10, longest)) == expected


# Context length


def test_document_longer_than_context_raises() -> None:
    own, _ = pair("Model", max_position_embeddings=128)
    run(own, input_ids=torch.stack(documents(128)))
    with pytest.raises(ValueError, match=r"129.*max_position_embeddings=128"):
        own(input_ids=torch.stack(documents(129)))
    rows = documents(100, 129)
    for inputs in (
        {"cu_seqlens": boundaries(rows)},
        {"position_ids": restarting_positions(rows)},
        {"cu_seq_lens_q": boundaries(rows), "max_length_q": 129},
    ):
        with pytest.raises(ValueError, match=r"129.*max_position_embeddings=128"):
            own(input_ids=torch.cat(rows)[None], **inputs)


def test_context_limits_documents_not_rows() -> None:
    own, peer = pair("Model", max_position_embeddings=128)
    rows = documents(128, 100, 30)
    expected = torch.cat([run(peer, input_ids=row[None]).last_hidden_state for row in rows], 1)
    for inputs in (
        {"cu_seqlens": boundaries(rows)},
        {"cu_seqlens": boundaries(rows), "max_seqlen": 4096},
        {"position_ids": restarting_positions(rows)},
    ):
        assert_close(run(own, input_ids=torch.cat(rows)[None], **inputs).last_hidden_state, expected)
    mask = torch.zeros(1, 300, dtype=torch.long)
    mask[:, :100] = 1
    run(own, input_ids=torch.stack(documents(300)), attention_mask=mask)


@pytest.mark.parametrize("changes", [{"max_position_embeddings": 512}, {"allow_longer_input": True}])
def test_context_limit_can_be_raised_when_loading(tmp_path: Any, changes: dict[str, Any]) -> None:
    own, peer = pair("Model", max_position_embeddings=128)
    own.save_pretrained(tmp_path)
    loaded = own_class("Model").from_pretrained(tmp_path, **changes)
    input_ids = torch.stack(documents(300))
    assert_close(run(loaded, input_ids=input_ids).last_hidden_state, run(peer, input_ids=input_ids).last_hidden_state)


# Vocabulary


@pytest.mark.parametrize("size", [VOCAB + 12, VOCAB - 100])
def test_resized_vocabulary_stays_tied(size: int) -> None:
    own, peer = pair("ForMaskedLM")
    own.resize_token_embeddings(size, mean_resizing=False)
    assert own.decoder.weight is own.model.embeddings.tok_embeddings.weight
    assert own.decoder.weight.shape == (size, HIDDEN)
    assert own.decoder.bias.shape == (size,)
    assert own.config.vocab_size == size
    input_ids = torch.stack(documents(30)) % (VOCAB - 100)
    kept = min(size, VOCAB)
    logits = own(input_ids=input_ids).logits
    assert_close(logits[..., :kept], run(peer, input_ids=input_ids).logits[..., :kept])
    logits.sum().backward()
    assert own.decoder.weight.grad.shape == (size, HIDDEN)


def test_untied_vocabulary_equals_transformers() -> None:
    own, peer = pair("ForMaskedLM", tie_word_embeddings=False)
    assert own.decoder.weight is not own.model.embeddings.tok_embeddings.weight
    input_ids = torch.stack(documents(30))
    assert_close(run(own, input_ids=input_ids).logits, run(peer, input_ids=input_ids).logits)


# Settings


@pytest.mark.parametrize("window", [0, 1, 2, 9, 127, 129, 256])
@backends
def test_window_widths_equal_transformers(backend: str, window: int) -> None:
    own, peer = pair("Model", backend, local_attention=window)
    inputs = batch()
    tokens = inputs["attention_mask"].bool()
    assert_close(run(own, **inputs)[0][tokens], run(peer, **inputs)[0][tokens])


@backends
def test_window_can_change_after_construction(backend: str) -> None:
    own, _ = pair("Model", backend)
    _, peer = pair("Model", backend, local_attention=256)
    own.config.local_attention = 256
    inputs = {"input_ids": torch.stack(documents(300))}
    assert_close(run(own, **inputs)[0], run(peer, **inputs)[0])


@backends
@pytest.mark.parametrize("lengths", [(1600,), (700, 3, 1100)])
def test_long_rows_are_chunked_without_gradients(backend: str, lengths: tuple[int, ...]) -> None:
    """Outputs are equal with and without chunks."""
    own, peer = pair("Model", backend)
    rows: list[int] = []
    own.layers[1].mlp.Wi.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    for document in documents(*lengths):
        assert_close(run(own, input_ids=document[None])[0], run(peer, input_ids=document[None])[0])
    packed = {"input_ids": torch.cat(documents(*lengths))[None], "cu_seqlens": boundaries(documents(*lengths))}
    chunked = run(own, **packed)[0]
    assert sum(rows) == 2 * sum(lengths)
    assert max(rows) <= 1024
    assert_close(chunked, own(**packed).last_hidden_state, 1e-5)
    assert rows[-1] == sum(lengths)


def test_biases_and_activations_equal_transformers() -> None:
    names = ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias")
    changes = {**dict.fromkeys(names, True), "decoder_bias": False}
    own, peer = pair("ForMaskedLM", **changes, hidden_activation="silu", classifier_activation="relu")
    input_ids = torch.stack(documents(70))
    assert_close(run(own, input_ids=input_ids).logits, run(peer, input_ids=input_ids).logits)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64},
    ],
)
def test_rope_types_equal_transformers(rope: dict[str, Any]) -> None:
    """Dynamic RoPE remembers the longest input, so short and long inputs alternate."""
    parameters = {kind: {"rope_theta": 10_000.0, **rope} for kind in ("full_attention", "sliding_attention")}
    own, peer = pair("Model", rope_parameters=parameters, max_position_embeddings=128)
    own.config.allow_longer_input = True
    for length in (50, 128, 200, 60):
        input_ids = torch.stack(documents(length))
        assert_close(run(own, input_ids=input_ids)[0], run(peer, input_ids=input_ids)[0])


def test_loading_fewer_layers_equals_transformers(tmp_path: Any) -> None:
    _, peer = pair("Model")
    peer.save_pretrained(tmp_path)
    own = own_class("Model").from_pretrained(tmp_path, num_hidden_layers=2)
    peer = type(peer).from_pretrained(tmp_path, num_hidden_layers=2)
    assert len(own.layers) == len(peer.layers) == 2
    input_ids = torch.stack(documents(70))
    assert_close(run(own, input_ids=input_ids)[0], run(peer, input_ids=input_ids)[0])


def test_model_with_fewer_layers_can_be_saved(tmp_path: Any) -> None:
    own, _ = pair("Model")
    own.save_pretrained(tmp_path / "deep")
    shallow = own_class("Model").from_pretrained(tmp_path / "deep", num_hidden_layers=2)
    shallow.save_pretrained(tmp_path / "shallow")
    loaded = own_class("Model").from_pretrained(tmp_path / "shallow")
    input_ids = torch.stack(documents(70))
    assert_close(run(loaded, input_ids=input_ids)[0], run(shallow, input_ids=input_ids)[0], EXACT)


@pytest.mark.parametrize("form", ["native", "plain"])
@pytest.mark.parametrize("head", ["Model", "ForMaskedLM", "ForSequenceClassification"])
def test_loading_more_layers_than_checkpoint_raises_like_transformers(tmp_path: Any, head: str, form: str) -> None:
    own, peer = pair(head)
    own.save_pretrained(tmp_path, format=form)
    if form == "plain":
        with pytest.raises(IndexError):
            type(peer).from_pretrained(tmp_path, num_hidden_layers=6)
    with pytest.raises(ValueError, match="num_hidden_layers=6, but layer_types names 4 layers"):
        type(own).from_pretrained(tmp_path, num_hidden_layers=6)


def test_layers_added_on_purpose_are_reported_as_missing_like_transformers(tmp_path: Any) -> None:
    own, peer = pair("ForMaskedLM")
    own.save_pretrained(tmp_path, format="plain")
    more = {"num_hidden_layers": 6, "layer_types": ["full_attention"] * 6, "output_loading_info": True}
    loaded, report = type(own).from_pretrained(tmp_path, **more)
    _, expected = type(peer).from_pretrained(tmp_path, **more)
    assert len(loaded.model.layers) == 6
    assert report == expected
    assert any(name.startswith("model.layers.5.") for name in report["missing_keys"])


@pytest.mark.parametrize("change", [{"hidden_size": 128}, {"vocab_size": 600}, {"intermediate_size": 32}])
def test_loading_other_shapes_raises_like_transformers(tmp_path: Any, change: dict[str, int]) -> None:
    own, peer = pair("ForMaskedLM")
    own.save_pretrained(tmp_path, format="plain")
    for model in (own, peer):
        with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
            type(model).from_pretrained(tmp_path, **change)
    report = [
        type(model).from_pretrained(tmp_path, **change, ignore_mismatched_sizes=True, output_loading_info=True)[1]
        for model in (own, peer)
    ]
    assert report[0] == report[1]
    assert report[0]["mismatched_keys"]


def test_unknown_backend_raises() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        own_class("Model")(LlmJpModernBertConfig(**settings(), attn_implementation="nonsense"))


# Precision


@backends
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head", HEAD_NAMES)
def test_half_precision_is_close_to_float32(backend: str, dtype: torch.dtype, head: str) -> None:
    own, _ = pair(head, backend)
    inputs = batch_for(head)
    expected = run(own, **inputs)
    outputs = run(own.to(dtype), **inputs)
    for key, value in outputs.items():
        assert value.dtype == dtype
        tokens = inputs["attention_mask"].bool() if value.shape[:2] == inputs["input_ids"].shape else ...
        scale = float(expected[key][tokens].abs().max())
        assert_close(value[tokens], expected[key][tokens], 8 * torch.finfo(dtype).eps * scale)


# Compilation


@pytest.mark.parametrize("form", ["full", "padded", "packed"])
def test_layers_compile_without_graph_breaks(form: str) -> None:
    """Only the layout, outside of the layers, reads the lengths of a batch."""
    own, _ = pair("Model", "eager")
    rows = documents(*LENGTHS)
    inputs: dict[str, torch.Tensor] = {
        "full": lambda: {"input_ids": torch.stack(documents(70, 70))},
        "padded": batch,
        "packed": lambda: {"input_ids": torch.cat(rows)[None], "cu_seqlens": boundaries(rows)},
    }[form]()
    expected = run(own, **inputs).last_hidden_state
    torch._dynamo.reset()
    graphs: list[Any] = []

    def count(graph: torch.fx.GraphModule, _example: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    for layer in own.layers:
        layer.compile(backend=count, fullgraph=True)
    assert_close(run(own, **inputs).last_hidden_state, expected, EXACT)
    assert graphs
    torch._dynamo.reset()


def test_model_compiles_without_graph_breaks_for_full_rows() -> None:
    """Without padding, nothing depends on data."""
    own, _ = pair("ForMaskedLM", "eager")
    input_ids = torch.stack(documents(70, 70))
    expected = run(own, input_ids=input_ids).logits
    torch._dynamo.reset()
    assert_close(run(torch.compile(own, backend="eager", fullgraph=True), input_ids=input_ids).logits, expected, EXACT)
    torch._dynamo.reset()
