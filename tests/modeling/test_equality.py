"""Outputs, losses and gradients equal those of transformers' ModernBERT with the same weights.

transformers reads one document at a time where its padded positions would differ from ours, which are zero.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from peer import (
    HEAD_NAMES,
    HIDDEN,
    LOSS_TOLERANCE,
    VOCAB,
    assert_close,
    assert_gradients_close,
    boundaries,
    difference,
    documents,
    gradients,
    padded,
    padding_mask,
    pair,
    restarting_positions,
    run,
)
from torch.nn.functional import cross_entropy
from transformers import DataCollatorWithFlattening

from llm_jp_modernbert.modeling import losses, modeling_llm_jp_modernbert

# Around the window (64 to either side), the block of local attention (128) and its halves.
LENGTHS = (1, 2, 63, 64, 65, 66, 127, 128, 129, 130, 1000)
MIXED = (66, 1, 130, 63, 300, 128)
BACKENDS = ("eager", "sdpa")

backends = pytest.mark.parametrize("backend", BACKENDS)
peer_backends = pytest.mark.parametrize("peer_backend", BACKENDS)
sides = pytest.mark.parametrize("side", ["left", "right"])


def labels_for(head: str, rows: int, length: int, num_labels: int = 2) -> dict[str, torch.Tensor]:
    """Draw labels of a batch `(rows, length)` for a head; some tokens are unlabelled."""
    generator = torch.Generator().manual_seed(1)

    def draw(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=generator)

    def sparse(high: int) -> torch.Tensor:
        labels = draw(high, rows, length)
        unlabelled = torch.rand(rows, length, generator=generator) > 0.3
        unlabelled[0, 0] = False
        return labels.masked_fill(unlabelled, -100)

    return {
        "Model": dict,
        "ForMaskedLM": lambda: {"labels": sparse(VOCAB)},
        "ForSequenceClassification": lambda: {"labels": draw(num_labels, rows)},
        "ForTokenClassification": lambda: {"labels": sparse(num_labels)},
        "ForQuestionAnswering": lambda: {"start_positions": draw(length, rows), "end_positions": draw(length, rows)},
        "ForMultipleChoice": lambda: {"labels": draw(2, rows // 2)},
    }[head]()


def backward(model: Any, outputs: Any) -> None:
    """Backpropagate the loss, or for the encoder the mean square of the hidden states."""
    model.zero_grad()
    loss = outputs.loss if "loss" in outputs else outputs.last_hidden_state.square().mean()
    loss.backward()


def assert_outputs_close(own: Any, peer: Any) -> None:
    """All outputs are equal, each within its tolerance."""
    assert own.keys() == peer.keys()
    for key in peer:
        assert_close(own[key], peer[key], LOSS_TOLERANCE) if key == "loss" else assert_close(own[key], peer[key])


def peer_hidden_states(peer: Any, rows: list[torch.Tensor]) -> torch.Tensor:
    """Compute `(total_tokens, hidden)` one document at a time."""
    return torch.cat([run(peer, input_ids=row[None]).last_hidden_state[0] for row in rows])


@backends
@peer_backends
@pytest.mark.parametrize("length", LENGTHS)
def test_hidden_states_at_every_length(backend: str, peer_backend: str, length: int) -> None:
    own, peer = pair("Model", backend, peer_backend)
    input_ids = torch.stack(documents(length, length))
    assert_close(run(own, input_ids=input_ids)[0], run(peer, input_ids=input_ids)[0])


@backends
@peer_backends
@pytest.mark.parametrize("length", [1, 65, 130])
@pytest.mark.parametrize(
    ("head", "pooling"),
    [*((head, "cls") for head in HEAD_NAMES), ("ForSequenceClassification", "mean"), ("ForMultipleChoice", "mean")],
)
def test_heads_losses_and_gradients_without_padding(
    backend: str, peer_backend: str, head: str, length: int, pooling: str
) -> None:
    own, peer = pair(head, backend, peer_backend, classifier_pooling=pooling)
    rows = 4
    input_ids = torch.stack(documents(*(length,) * rows))
    mask = torch.ones_like(input_ids)
    if head == "ForMultipleChoice":
        input_ids, mask = input_ids.view(2, 2, length), mask.view(2, 2, length)
    inputs = {"input_ids": input_ids, "attention_mask": mask, **labels_for(head, rows, length)}
    own_outputs, peer_outputs = own(**inputs), peer(**inputs)
    assert_outputs_close(own_outputs, peer_outputs)
    backward(own, own_outputs)
    backward(peer, peer_outputs)
    assert_gradients_close(own, peer)


@backends
@pytest.mark.parametrize("head", [head for head in HEAD_NAMES if head not in ("Model", "ForQuestionAnswering")])
def test_losses_and_gradients_with_padding_on_the_right(backend: str, head: str) -> None:
    """In these cases transformers' padded positions affect neither loss nor gradient."""
    own, peer = pair(head, backend, classifier_pooling="mean")
    rows = documents(*MIXED)
    input_ids, mask = padded(rows), padding_mask(rows)
    labels = labels_for(head, len(rows), input_ids.shape[1])
    if head in ("ForMaskedLM", "ForTokenClassification"):
        labels["labels"] = labels["labels"].masked_fill(mask == 0, -100)
    if head == "ForMultipleChoice":
        input_ids, mask = (tensor.view(3, 2, -1) for tensor in (input_ids, mask))
    inputs = {"input_ids": input_ids, "attention_mask": mask, **labels}
    own_outputs, peer_outputs = own(**inputs), peer(**inputs)
    assert_close(own_outputs.loss, peer_outputs.loss, LOSS_TOLERANCE)
    tokens = mask.bool() if own_outputs.logits.shape[:2] == mask.shape else slice(None)
    assert_close(own_outputs.logits[tokens], peer_outputs.logits[tokens])
    backward(own, own_outputs)
    backward(peer, peer_outputs)
    assert_gradients_close(own, peer)


@backends
@sides
def test_hidden_states_with_padding(backend: str, side: str) -> None:
    own, peer = pair("Model", backend)
    rows = documents(*MIXED)
    mask = padding_mask(rows, side)
    hidden_states = run(own, input_ids=padded(rows, side), attention_mask=mask).last_hidden_state
    assert_close(hidden_states[mask.bool()], peer_hidden_states(peer, rows))
    assert hidden_states[mask == 0].eq(0).all()


@backends
@sides
@pytest.mark.parametrize("head", [head for head in HEAD_NAMES if head.startswith("For")])
def test_heads_with_padding(backend: str, side: str, head: str) -> None:
    """Every row equals transformers' output for the document alone; left padding does not move [CLS]."""
    own, peer = pair(head, backend)
    rows = documents(*MIXED)
    input_ids, mask = padded(rows, side), padding_mask(rows, side)
    if head == "ForMultipleChoice":
        outputs = run(own, input_ids=input_ids.view(3, 2, -1), attention_mask=mask.view(3, 2, -1))
        expected = [run(peer, input_ids=row[None, None]).logits.flatten() for row in rows]
        assert_close(outputs.logits.flatten(), torch.cat(expected))
        return
    outputs = run(own, input_ids=input_ids, attention_mask=mask)
    singles = [run(peer, input_ids=row[None]) for row in rows]
    for key in singles[0]:
        expected = torch.cat([single[key].flatten(0, 1) for single in singles])
        if head == "ForSequenceClassification":
            assert_close(outputs[key].flatten(), expected)
        else:
            assert_close(outputs[key][mask.bool()], expected)


@backends
@sides
def test_question_answering_loss_with_padding(backend: str, side: str) -> None:
    """Answers in the padding are impossible, so the loss is the mean over the documents alone."""
    own, peer = pair("ForQuestionAnswering", backend)
    rows = documents(*MIXED)
    mask = padding_mask(rows, side)
    starts = torch.tensor([len(row) // 3 for row in rows])
    ends = torch.tensor([len(row) - 1 for row in rows])
    singles = [
        run(peer, input_ids=row[None], start_positions=start[None], end_positions=end[None]).loss
        for row, start, end in zip(rows, starts, ends, strict=True)
    ]
    first = mask.argmax(1)
    outputs = run(
        own,
        input_ids=padded(rows, side),
        attention_mask=mask,
        start_positions=starts + first,
        end_positions=ends + first,
    )
    assert_close(outputs.loss, torch.stack(singles).mean(), LOSS_TOLERANCE)
    assert outputs.start_logits[mask == 0].eq(torch.finfo(torch.float32).min).all()


@backends
def test_masks_with_holes(backend: str) -> None:
    """A window spans columns, not tokens: tokens do not attend across a hole wider than the window."""
    own, peer = pair("Model", backend)
    length = 300
    mask = torch.ones(6, length, dtype=torch.long)
    mask[0, 100] = 0
    mask[1, 40:120] = 0
    mask[2, ::2] = 0
    mask[3, :10], mask[3, 64:68], mask[3, -20:] = 0, 0, 0
    mask[4, 1:-1] = 0
    mask[5] = torch.rand(length, generator=torch.Generator().manual_seed(2)) > 0.5
    input_ids = torch.stack(documents(*(length,) * 6))
    hidden_states = run(own, input_ids=input_ids, attention_mask=mask).last_hidden_state
    expected = run(peer, input_ids=input_ids, attention_mask=mask).last_hidden_state
    assert_close(hidden_states[mask.bool()], expected[mask.bool()])
    assert hidden_states[mask == 0].eq(0).all()


@backends
def test_masks_of_every_dtype(backend: str) -> None:
    own, _ = pair("Model", backend)
    rows = documents(70, 30)
    mask = padding_mask(rows)
    expected = run(own, input_ids=padded(rows), attention_mask=mask)[0]
    for dtype in (torch.bool, torch.int32, torch.float32):
        assert torch.equal(run(own, input_ids=padded(rows), attention_mask=mask.to(dtype))[0], expected)


@backends
@pytest.mark.parametrize("form", ["flat", "row", "positions"])
def test_packed_documents(backend: str, form: str) -> None:
    own, peer = pair("Model", backend)
    rows = documents(*MIXED)
    input_ids = torch.cat(rows)
    inputs = {"input_ids": input_ids if form == "flat" else input_ids[None]}
    inputs |= {"position_ids": restarting_positions(rows)} if form == "positions" else {"cu_seqlens": boundaries(rows)}
    hidden_states = run(own, **inputs).last_hidden_state
    assert hidden_states.shape == (*inputs["input_ids"].shape, HIDDEN)
    assert_close(hidden_states.view(-1, HIDDEN), peer_hidden_states(peer, rows))


COLLATORS: tuple[dict[str, Any], ...] = (
    {},
    {"position_ids_start": 1},
    {"position_ids_start": 2},
    {"return_flash_attn_kwargs": True},
    {"return_flash_attn_kwargs": True, "return_position_ids": False},
    {"return_seq_idx": True},
    {"return_seq_idx": True, "return_position_ids": False},
    {"return_seq_idx": True, "return_flash_attn_kwargs": True, "position_ids_start": 2},
)


@backends
@pytest.mark.parametrize("settings", COLLATORS, ids=str)
@pytest.mark.parametrize("lengths", [MIXED, (1, 1, 1, 2)])
def test_flattened_batches_equal_single_documents(
    backend: str, settings: dict[str, Any], lengths: tuple[int, ...]
) -> None:
    own, peer = pair("Model", backend)
    rows = documents(*lengths)
    collator = DataCollatorWithFlattening(**settings, return_tensors="pt")
    inputs = dict(collator([{"input_ids": row.tolist()} for row in rows]))
    inputs.pop("labels", None)
    hidden_states = run(own, **inputs).last_hidden_state
    assert_close(hidden_states.view(-1, HIDDEN), peer_hidden_states(peer, rows))


@backends
@pytest.mark.parametrize("lengths", [(1, 1, 1), (64,), (127, 1, 128), (1000, 3)])
def test_packed_document_lengths(backend: str, lengths: tuple[int, ...]) -> None:
    own, peer = pair("Model", backend)
    rows = documents(*lengths)
    hidden_states = run(own, input_ids=torch.cat(rows), cu_seqlens=boundaries(rows)).last_hidden_state
    assert_close(hidden_states, peer_hidden_states(peer, rows))


@backends
@pytest.mark.parametrize("start", [0, 2, 514])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_several_packed_rows(backend: str, start: int, dtype: torch.dtype) -> None:
    """Positions restart within the rows of a batch, and each row starts a document."""
    own, peer = pair("Model", backend)
    rows = documents(70, 130, 150, 50)
    input_ids = torch.cat(rows).view(2, 200)
    position_ids = (torch.cat([torch.arange(len(row)) for row in rows]).view(2, 200) + start).to(dtype)
    hidden_states = run(own, input_ids=input_ids, position_ids=position_ids).last_hidden_state
    assert_close(hidden_states.view(-1, HIDDEN), peer_hidden_states(peer, rows))


@backends
@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_with_padding(backend: str, start: int, side: str) -> None:
    """Packed and padded rows: the mask marks the tokens, the positions mark the document starts."""
    own, peer = pair("Model", backend)
    rows = documents(70, 60, 100)
    input_ids = padded([torch.cat(rows[:2]), rows[2]], side)
    mask = padding_mask([torch.cat(rows[:2]), rows[2]], side)
    positions = [torch.cat([torch.arange(70), torch.arange(60)]) + start, torch.arange(100) + start]
    inputs = {"input_ids": input_ids, "attention_mask": mask, "position_ids": padded(positions, side, fill=1)}
    hidden_states = run(own, **inputs).last_hidden_state
    assert_close(hidden_states[mask.bool()], peer_hidden_states(peer, rows))


@backends
def test_custom_positions(backend: str) -> None:
    """Positions that never restart only affect RoPE."""
    own, peer = pair("Model", backend)
    input_ids = torch.stack(documents(130, 130))
    position_ids = torch.arange(130)[None] * 2 + 5
    inputs = {"input_ids": input_ids, "position_ids": position_ids}
    assert_close(run(own, **inputs)[0], run(peer, **inputs)[0])


@backends
def test_packed_sequence_classification(backend: str) -> None:
    own, peer = pair("ForSequenceClassification", backend, num_labels=3)
    rows = documents(*MIXED)
    labels = torch.arange(len(rows)) % 3
    expected = torch.cat([peer(input_ids=row[None]).logits for row in rows])
    expected_loss = cross_entropy(expected, labels)
    outputs = own(input_ids=torch.cat(rows)[None], cu_seqlens=boundaries(rows), labels=labels)
    assert_close(outputs.logits, expected)
    assert_close(outputs.loss, expected_loss, LOSS_TOLERANCE)
    outputs.loss.backward()
    expected_loss.backward()
    assert_gradients_close(own, peer)


@backends
@pytest.mark.parametrize("head", ["ForMaskedLM", "ForTokenClassification"])
def test_packed_token_losses_and_gradients(backend: str, head: str) -> None:
    own, peer = pair(head, backend)
    rows = documents(*MIXED)
    labels = labels_for(head, 1, sum(MIXED))["labels"]
    expected = torch.cat([peer(input_ids=row[None]).logits for row in rows], 1)
    expected_loss = cross_entropy(expected[0], labels[0])
    outputs = own(input_ids=torch.cat(rows)[None], cu_seqlens=boundaries(rows), labels=labels)
    assert_close(outputs.logits, expected)
    assert_close(outputs.loss, expected_loss, LOSS_TOLERANCE)
    outputs.loss.backward()
    expected_loss.backward()
    assert_gradients_close(own, peer)


@pytest.mark.parametrize(
    ("num_labels", "problem_type", "labels"),
    [
        (1, "regression", torch.tensor([0.5, -1.0, 2.0])),
        (3, "regression", torch.tensor([[0.5, -1.0, 2.0]] * 3)),
        (3, "multi_label_classification", torch.tensor([[0.0, 1.0, 1.0]] * 3)),
        (1, None, torch.tensor([0.5, -1.0, 2.0])),
        (3, None, torch.tensor([2, 0, 1])),
        (3, None, torch.tensor([[0.0, 1.0, 1.0]] * 3)),
    ],
)
def test_problem_types(num_labels: int, problem_type: str | None, labels: torch.Tensor) -> None:
    own, peer = pair("ForSequenceClassification", num_labels=num_labels, problem_type=problem_type)
    inputs = {"input_ids": torch.stack(documents(20, 20, 20)), "labels": labels}
    assert_outputs_close(run(own, **inputs), run(peer, **inputs))
    assert own.config.problem_type == peer.config.problem_type


ITEMS = (
    ("ForMaskedLM", {}, lambda ids: {"labels": ids.where(ids % 3 == 0, -100)}),
    ("ForTokenClassification", {"num_labels": 3}, lambda ids: {"labels": (ids % 3).where(ids % 5 > 1, -100)}),
    ("ForSequenceClassification", {"num_labels": 3}, lambda ids: {"labels": ids[:, 0] % 3}),
    ("ForSequenceClassification", {"num_labels": 1}, lambda ids: {"labels": ids[:, 0] / VOCAB}),
    (
        "ForSequenceClassification",
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        lambda ids: {"labels": (ids[:, :3] % 2).float()},
    ),
    (
        "ForSequenceClassification",
        {"num_labels": 3, "problem_type": "regression"},
        lambda ids: {"labels": ids[:, :3] / VOCAB},
    ),
    ("ForMultipleChoice", {}, lambda ids: {"labels": ids[:, 0, 0] % 2}),
    ("ForQuestionAnswering", {}, lambda ids: {"start_positions": ids[:, 0] % 20, "end_positions": ids[:, 1] % 20}),
)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize(("head", "changes", "label"), ITEMS)
def test_losses_of_unequal_parts_add_up_to_loss_of_batch(
    head: str, changes: dict[str, Any], label: Any, as_tensor: bool
) -> None:
    """With `num_items_in_batch`, micro-batches or ranks of different sizes give the mean over all items."""
    own, peer = pair(head, **changes)
    ids = torch.stack(documents(*(20,) * 6))
    ids = torch.stack([ids, ids.flip(1)], 1) if head == "ForMultipleChoice" else ids
    labels = label(ids)
    loss = peer(input_ids=ids, **labels).loss
    items: Any = len(ids) if "labels" not in labels else int((labels["labels"] != -100).sum())
    items = torch.tensor(items) if as_tensor else items
    loss.backward()
    parts = [
        own(
            input_ids=ids[part],
            **{name: values[part] for name, values in labels.items()},
            num_items_in_batch=items,
        ).loss
        for part in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    for part in parts:
        part.backward()
    assert_close(torch.stack(parts).sum(), loss, LOSS_TOLERANCE)
    assert_gradients_close(own, peer)


def test_token_loss_of_part_without_labels_is_zero() -> None:
    own, _ = pair("ForTokenClassification")
    ids = torch.stack(documents(20))
    assert float(own(input_ids=ids, labels=torch.full_like(ids, -100), num_items_in_batch=7).loss) == 0.0


# Masked-LM loss


def masked_lm_batch() -> dict[str, torch.Tensor]:
    """Two rows of 130 tokens, 30 % of them labelled."""
    return {"input_ids": torch.stack(documents(130, 130)), **labels_for("ForMaskedLM", 2, 130)}


@backends
@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_masked_lm_loss_in_chunks(backend: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        modeling_llm_jp_modernbert, "linear_cross_entropy", partial(losses.linear_cross_entropy, chunk=chunk)
    )
    own, peer = (model.train() for model in pair("ForMaskedLM", backend))
    outputs, expected = own(**masked_lm_batch()), peer(**masked_lm_batch())
    assert outputs.logits is None
    assert_close(outputs.loss, expected.loss, LOSS_TOLERANCE)
    backward(own, outputs)
    backward(peer, expected)
    assert_gradients_close(own, peer)


def test_masked_lm_logits_in_evaluation_and_on_request() -> None:
    own, peer = pair("ForMaskedLM")
    expected = run(peer, **masked_lm_batch())
    assert_outputs_close(run(own, **masked_lm_batch()), expected)
    assert_close(run(own.train(), **masked_lm_batch(), return_logits=True).logits, expected.logits)
    assert run(own.eval(), **masked_lm_batch(), return_logits=False).logits is None


@pytest.mark.parametrize("training", [True, False])
def test_masked_lm_loss_without_labelled_tokens_is_zero(training: bool) -> None:
    """transformers' loss would be NaN."""
    own, _ = pair("ForMaskedLM")
    own.train(training)
    inputs = masked_lm_batch()
    inputs["labels"].fill_(-100)
    loss = own(**inputs).loss
    loss.backward()
    assert loss.item() == 0
    assert all(gradient.eq(0).all() for gradient in gradients(own).values())


@pytest.mark.parametrize("as_tensor", [True, False])
def test_masked_lm_loss_with_num_items_in_batch(as_tensor: bool) -> None:
    own, peer = pair("ForMaskedLM")
    divisor = torch.tensor(1000) if as_tensor else 1000
    inputs = {**masked_lm_batch(), "num_items_in_batch": divisor}
    outputs, expected = own(**inputs), peer(**inputs)
    assert_close(outputs.loss, expected.loss, LOSS_TOLERANCE)
    backward(own, outputs)
    backward(peer, expected)
    assert_gradients_close(own, peer)


@sides
def test_masked_lm_logits_at_positions(side: str) -> None:
    own, peer = pair("ForMaskedLM")
    rows = documents(*MIXED)
    mask = padding_mask(rows, side).bool()
    positions = mask & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(3)) < 0.2)
    logits = run(own, input_ids=padded(rows, side), attention_mask=mask, logits_positions=positions).logits
    expected = torch.cat([run(peer, input_ids=row[None]).logits[0] for row in rows])[positions[mask]]
    assert_close(logits, expected)


def test_masked_lm_sparse_prediction() -> None:
    own, peer = pair("ForMaskedLM", sparse_prediction=True)
    assert_outputs_close(run(own, **masked_lm_batch()), run(peer, **masked_lm_batch()))


def test_masked_lm_custom_ignore_index() -> None:
    own, peer = pair("ForMaskedLM", sparse_prediction=True, sparse_pred_ignore_index=-1)
    inputs = masked_lm_batch()
    inputs["labels"] = inputs["labels"].masked_fill(inputs["labels"] == -100, -1)
    assert_outputs_close(run(own, **inputs), run(peer, **inputs))


# Lower precision


@backends
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_lower_precision_is_as_close_to_float32_as_transformers(backend: str, dtype: torch.dtype, head: str) -> None:
    own, peer = pair(head, backend)
    rows = documents(300, 300)
    input_ids = torch.stack(rows)
    reference = run(peer, input_ids=input_ids)[0]
    scale = float(reference.abs().max())
    own_error = difference(run(own.to(dtype), input_ids=input_ids)[0], reference)
    peer_error = difference(run(peer.to(dtype), input_ids=input_ids)[0], reference)
    assert own_error <= max(1.5 * peer_error, torch.finfo(dtype).eps * scale)


@backends
def test_bfloat16_autocast_gradients_are_as_close_as_transformers(backend: str) -> None:
    own, peer = pair("ForMaskedLM", backend)
    reference = peer(**masked_lm_batch())
    backward(peer, reference)
    exact = gradients(peer)
    errors = []
    for model in (own, peer):
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(**masked_lm_batch())
        backward(model, outputs)
        autocast = gradients(model)
        errors.append(sum(float((autocast[name] - exact[name]).norm() / exact[name].norm()) for name in exact))
        assert_close(outputs.loss, reference.loss, 0.02 * reference.loss.item())
    assert errors[0] <= 1.2 * errors[1]
