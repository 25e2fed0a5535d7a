"""Programs of torch.compile, torch.export and torch.jit.trace are right for other batches than the recorded one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from peer import (
    HEAD_NAMES,
    LOSS_TOLERANCE,
    assert_close,
    assert_gradients_close,
    boundaries,
    documents,
    padded,
    padding_mask,
    pair,
    restarting_positions,
    run,
)

Inputs = dict[str, torch.Tensor]
EXAMPLE = ((50, 33), "right")
LAYER_TYPES = ("full_attention", "sliding_attention")
# Other numbers of rows, lengths around and beyond the window and its blocks, padding on the other side, and a row
# without tokens.
BATCHES = (
    *(((150, 1, 40), "right"), ((20, 90), "left"), ((130, 130), "right"), ((70, 0, 9, 3), "right")),
    *(((300, 40, 270), "left"), ((385,), "right")),
)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Reset the compiler before and after each test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Program(torch.nn.Module):
    """A model as a function of ids and mask that returns tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the model's outputs as a tuple."""
        return tuple(self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=False))


def inputs_for(head: str, lengths: tuple[int, ...], side: str, hole: bool = False) -> Inputs:
    """Build a padded batch."""
    rows = documents(*lengths)
    inputs = {"input_ids": padded(rows, side), "attention_mask": padding_mask(rows, side)}
    if hole:
        inputs["attention_mask"][0, 5:7] = 0
    return {name: torch.stack([value, value], 1) for name, value in inputs.items()} if "Choice" in head else inputs


def compiled(program: Program, head: str, example: Inputs) -> Any:
    """Compile the whole model as one graph."""
    return torch.compile(program, fullgraph=True, dynamic=True, backend="eager")


def exported(program: Program, head: str, example: Inputs) -> Any:
    """Export the model for any number of rows and any length."""
    axes = {0: torch.export.Dim("batch"), example["input_ids"].dim() - 1: torch.export.Dim("length")}
    return torch.export.export(program, (), dict(example), dynamic_shapes=dict.fromkeys(example, axes)).module()


def traced(program: Program, head: str, example: Inputs) -> Any:
    """Trace the model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(program, (example["input_ids"], example["attention_mask"]), check_trace=False)


def assert_programs_equal(program: Any, model: Any, head: str, batches: tuple[Any, ...] = BATCHES) -> None:
    """Check a recorded program against the model on other batches."""
    for lengths, side in batches:
        for hole in (False, True):
            inputs = inputs_for(head, lengths, side, hole)
            expected = run(model, **inputs, return_dict=False)
            for output, other in zip(run(program, **inputs), expected, strict=True):
                assert_close(output, other)


@pytest.mark.parametrize("record", [exported, traced])
@pytest.mark.parametrize("head", HEAD_NAMES)
def test_program_is_right_for_other_batches(head: str, record: Callable[..., Any]) -> None:
    own, _ = pair(head, None, num_hidden_layers=2)
    with torch.no_grad():
        program = record(Program(own), head, inputs_for(head, *EXAMPLE))
    assert_programs_equal(program, own, head)


@pytest.mark.parametrize("head", HEAD_NAMES)
def test_padded_forward_compiles_as_one_graph(head: str) -> None:
    own, _ = pair(head, None, num_hidden_layers=2)
    # Compiling takes seconds: batches of all forms only for one head.
    batches = BATCHES if head == "ForMaskedLM" else BATCHES[:1]
    assert_programs_equal(compiled(Program(own), head, {}), own, head, batches)


@pytest.mark.parametrize("record", [exported, traced, compiled])
def test_program_of_mean_pooling_is_right_for_other_batches(record: Callable[..., Any]) -> None:
    own, _ = pair("ForSequenceClassification", None, num_hidden_layers=2, classifier_pooling="mean")
    with torch.no_grad():
        program = record(Program(own), "ForSequenceClassification", inputs_for("", *EXAMPLE))
    # Compiling takes seconds for each form.
    batches = BATCHES[:2] if record is compiled else BATCHES
    assert_programs_equal(program, own, "ForSequenceClassification", batches)


@pytest.mark.parametrize("is_traced", [False, True])
@pytest.mark.parametrize("form", ["position_ids", "seq_idx", "cu_seqlens"])
def test_program_of_packed_rows_separates_other_documents(form: str, is_traced: bool) -> None:
    own, _ = pair("ForTokenClassification", None, num_hidden_layers=2)

    class Packed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = own

        def forward(self, input_ids: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, **{form: documents}).logits

    def inputs(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = documents(*lengths)
        numbers = torch.cat([torch.full((len(row),), number) for number, row in enumerate(rows)])[None]
        forms = {"position_ids": restarting_positions(rows), "seq_idx": numbers, "cu_seqlens": boundaries(rows)}
        return torch.cat(rows)[None], forms[form]

    length = torch.export.Dim("length", min=3)
    axes = ({1: length}, {0: torch.export.Dim("boundaries", min=3)} if form == "cu_seqlens" else {1: length})
    with torch.no_grad():
        if is_traced:
            program = torch.jit.trace(Packed(), inputs(50, 33), check_trace=False)
        else:
            program = torch.export.export(Packed(), inputs(50, 33), dynamic_shapes=axes).module()
        for lengths in ((50, 33), (1, 150, 40), (200, 3)):
            assert_close(program(*inputs(*lengths)), Packed()(*inputs(*lengths)))


@pytest.mark.parametrize("record", [exported, traced])
def test_program_with_dynamic_rope_is_refused(record: Callable[..., Any]) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    own, _ = pair("Model", None, num_hidden_layers=2, rope_parameters=dict.fromkeys(LAYER_TYPES, rope))
    with torch.no_grad(), pytest.raises(ValueError, match="choose another RoPE type"):
        record(Program(own), "Model", inputs_for("Model", *EXAMPLE))


def test_program_that_cannot_count_documents_raises() -> None:
    own, _ = pair("ForSequenceClassification", None, num_hidden_layers=2)
    rows = documents(5, 4)
    ids = torch.cat(rows)[None]
    with pytest.raises(ValueError, match="pass cu_seqlens"):
        torch.export.export(own, (), {"input_ids": ids, "position_ids": restarting_positions(rows)})
    both = {"attention_mask": torch.ones_like(ids), "cu_seqlens": boundaries(rows)}
    with pytest.raises(ValueError, match="either cu_seqlens or an attention_mask"):
        torch.export.export(own, (), {"input_ids": ids, **both})


@pytest.mark.parametrize("lengths", [(70, 20), (270, 300)])
def test_gradients_of_one_graph_equal_transformers(lengths: tuple[int, ...]) -> None:
    own, peer = pair("ForSequenceClassification", None, num_hidden_layers=2, num_labels=3)
    inputs = inputs_for("ForSequenceClassification", lengths, "right")
    labels = torch.tensor([0, 2])
    loss = torch.compile(own.train(), fullgraph=True, backend="aot_eager")(**inputs, labels=labels).loss
    expected = peer.train()(**inputs, labels=labels).loss
    assert_close(loss, expected, LOSS_TOLERANCE)
    loss.backward()
    expected.backward()
    assert_gradients_close(own, peer)


def test_exported_masked_lm_loss_counts_labels_of_other_batches() -> None:
    own, peer = pair("ForMaskedLM", None, num_hidden_layers=2)
    ids = torch.stack(documents(20, 20))
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    # Two separate tensors: the exporter merges inputs that are the same tensor.
    example = {"input_ids": ids, "labels": ids.clone()}
    program = torch.export.export(own, (), example, dynamic_shapes=dict.fromkeys(example, axes)).module()
    ids = torch.stack(documents(70, 70, 70))
    labels = ids.where(ids % 3 == 0, -100)
    assert_close(program(input_ids=ids, labels=labels).loss, peer(input_ids=ids, labels=labels).loss, LOSS_TOLERANCE)


def test_one_graph_with_masked_lm_labels_names_the_way_out() -> None:
    own, _ = pair("ForMaskedLM", None, num_hidden_layers=2)
    ids = torch.stack(documents(20, 20))
    with pytest.raises(RuntimeError, match="compile_layers"):
        torch.compile(own.train(), fullgraph=True, backend="eager")(input_ids=ids, labels=ids)
