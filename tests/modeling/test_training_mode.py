"""Training: dropout, gradient checkpointing, losses of subclasses and modified decoders, Trainer, NEFTune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peer import (
    BACKENDS,
    EXACT,
    HEAD_NAMES,
    LOSS_TOLERANCE,
    OUTPUT_TOLERANCE,
    assert_close,
    batch,
    boundaries,
    documents,
    gradients,
    padded,
    padding_mask,
    pair,
    run,
)
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.integrations.neftune import neftune_post_forward_hook

backends = pytest.mark.parametrize("backend", BACKENDS)


@backends
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_gradient_checkpointing_equals_plain_gradients(backend: str, use_reentrant: bool, dropout: float) -> None:
    own, _ = pair("ForMaskedLM", backend, mlp_dropout=dropout, attention_dropout=dropout, embedding_dropout=dropout)
    own.train()
    inputs = batch()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            own.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        own.zero_grad()
        torch.manual_seed(0)
        own(**inputs, labels=labels).loss.backward()
        results.append(gradients(own))
    assert any(gradient.abs().max() > 0 for gradient in results[0].values())
    for name, gradient in results[0].items():
        assert_close(results[1][name], gradient, EXACT)


@pytest.mark.parametrize("setting", ["mlp_dropout", "attention_dropout"])
def test_gradient_checkpointing_with_dropout_in_long_rows(setting: str) -> None:
    own, _ = pair("ForMaskedLM", **{setting: 0.3})
    own.train()
    # Longer than the chunks of a forward pass without gradients, which a reentrant checkpoint runs first.
    ids = torch.stack(documents(1500))
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            own.gradient_checkpointing_enable({"use_reentrant": True})
        own.zero_grad()
        torch.manual_seed(0)
        own(input_ids=ids, labels=ids).loss.backward()
        results.append(gradients(own))
    for name, gradient in results[0].items():
        assert_close(results[1][name], gradient, EXACT)


class Doubled(nn.Linear):
    """A decoder that is more than its matrix, like one with an adapter."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(inputs)


@pytest.mark.parametrize("change", ["class", "hook", "method"])
def test_loss_of_modified_decoder_equals_transformers(change: str) -> None:
    own, peer = pair("ForMaskedLM")
    inputs = {"input_ids": torch.stack(documents(90, 90))}
    labels = inputs["input_ids"].where(torch.arange(90) % 3 == 0, -100)
    for model in (own, peer):
        decoder = model.decoder
        if change == "class":
            decoder.__class__ = Doubled
        elif change == "hook":
            decoder.register_forward_hook(lambda module, inputs, output: 2 * output)
        else:
            decoder.forward = lambda inputs, decoder=decoder: 2 * nn.Linear.forward(decoder, inputs)
        model(**inputs, labels=labels).loss.backward()
    assert_close(own(**inputs, labels=labels).loss, peer(**inputs, labels=labels).loss, LOSS_TOLERANCE)
    expected = gradients(peer)
    for name, gradient in gradients(own).items():
        assert_close(gradient, expected[name], OUTPUT_TOLERANCE)
    unlabelled = torch.full_like(labels, -100)
    assert own(**inputs, labels=unlabelled).loss.item() == 0.0
    half = own(**inputs, labels=labels, num_items_in_batch=120).loss
    assert_close(half, own(**inputs, labels=labels).loss / 2, LOSS_TOLERANCE)


@backends
@pytest.mark.parametrize("setting", ["embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout"])
def test_dropout_is_active_in_training_only(backend: str, setting: str) -> None:
    own, peer = pair("ForSequenceClassification", backend, **{setting: 0.5})
    inputs = {"input_ids": torch.stack(documents(150))}
    first = run(own, **inputs).logits
    assert torch.equal(run(own, **inputs).logits, first)
    assert_close(first, run(peer, **inputs).logits)
    own.train()
    assert not torch.equal(run(own, **inputs).logits, run(own, **inputs).logits)


def test_dropout_of_attention_weights_keeps_their_mean() -> None:
    """The mean over many draws is the output without dropout: kept weights are scaled up, on every backend."""
    for backend in BACKENDS:
        own, _ = pair("Model", backend, attention_dropout=0.1)
        attention = own.layers[1].attn
        attention.out_drop.p = 0.0
        outputs: list[torch.Tensor] = []
        attention.register_forward_hook(lambda _module, _inputs, output, outputs=outputs: outputs.append(output[0]))
        ids = torch.stack(documents(20))
        expected = run(own, input_ids=ids) and outputs.pop()
        attention.train()
        for _ in range(300):
            run(own, input_ids=ids)
        error = torch.stack(outputs).mean(0) - expected
        spread = torch.stack(outputs).std(0)
        assert spread.max() > 0
        assert (error.abs() <= 6 * spread / 300**0.5 + EXACT).all()


# Losses of every head


def labelled_batch(head: str) -> dict[str, torch.Tensor]:
    """Build a padded batch with labels of a head that has three outputs."""
    rows = documents(40, 150, 9)
    ids, mask = padded(rows), padding_mask(rows)
    if head == "ForMultipleChoice":
        choices = {name: torch.stack([value, value.flip(0)], 1) for name, value in (("ids", ids), ("mask", mask))}
        return {
            "input_ids": choices["ids"],
            "attention_mask": choices["mask"],
            "labels": torch.tensor([0, 1, 0]),
        }
    labels: dict[str, dict[str, torch.Tensor]] = {
        "ForMaskedLM": {"labels": ids.where(mask.bool(), -100)},
        "ForTokenClassification": {"labels": (ids % 3).where(mask.bool(), -100)},
        "ForSequenceClassification": {"labels": torch.tensor([0, 2, 1])},
        "ForQuestionAnswering": {
            "start_positions": torch.tensor([0, 100, 3]),
            "end_positions": torch.tensor([5, 140, 8]),
        },
    }
    return {"input_ids": ids, "attention_mask": mask, **labels[head]}


def changes_for(head: str) -> dict[str, int]:
    """Three outputs where the head has a choice."""
    return {"num_labels": 3} if head in ("ForTokenClassification", "ForSequenceClassification") else {}


heads = pytest.mark.parametrize("head", HEAD_NAMES[1:])


@heads
@pytest.mark.parametrize("name", ["Sentiment", "ReviewForCausalLM", "ForImageSegmentation"])
def test_subclass_of_any_name_has_loss_of_its_head(head: str, name: str) -> None:
    own, _ = pair(head, **changes_for(head))
    subclass = type(name, (type(own),), {})(own.config).eval()
    subclass.load_state_dict(own.state_dict())
    inputs = labelled_batch(head)
    assert_close(run(subclass, **inputs).loss, run(own, **inputs).loss, EXACT)


@heads
def test_gradients_of_torch_func_equal_autograd(head: str) -> None:
    own, _ = pair(head, **changes_for(head))
    inputs = labelled_batch(head)
    own(**inputs).loss.backward()
    parameters = {name: parameter.detach() for name, parameter in own.named_parameters()}
    grads = torch.func.grad(lambda values: torch.func.functional_call(own, values, (), inputs).loss)(parameters)
    for name, gradient in gradients(own).items():
        assert_close(grads[name], gradient)


@heads
def test_second_backward_adds_same_gradient_or_raises_message_of_torch(head: str) -> None:
    own, _ = pair(head, **changes_for(head))
    inputs = labelled_batch(head)
    loss = own(**inputs).loss
    loss.backward(retain_graph=True)
    first = gradients(own)
    loss.backward()
    for name, gradient in gradients(own).items():
        assert_close(gradient, 2 * first[name])
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_gradients_of_two_losses_of_one_graph_are_separate() -> None:
    own, _ = pair("ForMaskedLM")
    loss = own(**labelled_batch("ForMaskedLM")).loss
    weight = own.decoder.weight
    (first,) = torch.autograd.grad(loss, weight, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(3 * loss, weight)
    assert torch.equal(first, kept)
    assert_close(second, 3 * kept)


# Trainer


def train_one_step(model: Any, examples: list[dict[str, Any]], folder: Path, **settings: Any) -> None:
    """Run Trainer for one step of SGD with a learning rate of 1 on padded batches."""

    def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [feature["input_ids"] for feature in features]
        labels = [feature["labels"] for feature in features]
        is_token_label = len(labels[0]) == len(ids[0])
        return {
            "input_ids": padded(ids),
            "attention_mask": padding_mask(ids),
            "labels": padded(labels, fill=-100) if is_token_label else torch.stack(labels).squeeze(-1),
        }

    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        train_sampling_strategy="sequential",
        **settings,
    )
    Trainer(model, arguments, data_collator=collate, train_dataset=examples).train()


@pytest.mark.parametrize(
    ("head", "changes"),
    [
        ("ForTokenClassification", {"num_labels": 3}),
        ("ForSequenceClassification", {"num_labels": 3}),
        ("ForSequenceClassification", {"num_labels": 3, "problem_type": "multi_label_classification"}),
    ],
)
def test_accumulated_micro_batches_of_trainer_equal_one_batch(
    tmp_path: Path, head: str, changes: dict[str, Any]
) -> None:
    """Micro-batches have 2, 2 and 1 examples and unequal numbers of labelled tokens."""
    own, peer = pair(head, **changes)
    examples = []
    for row in documents(40, 3, 70, 5, 20):
        label = row % 3 if head == "ForTokenClassification" else row[:1] % 3
        label = (row[:3] % 2).float() if "problem_type" in changes else label
        examples.append({"input_ids": row, "labels": label})
    is_token = head == "ForTokenClassification"
    labels = [example["labels"] for example in examples]
    rows = [example["input_ids"] for example in examples]
    before = {name: parameter.detach().clone() for name, parameter in peer.named_parameters()}
    peer(
        input_ids=padded(rows),
        attention_mask=padding_mask(rows),
        labels=padded(labels, fill=-100) if is_token else torch.stack(labels).squeeze(-1),
    ).loss.backward()
    train_one_step(own, examples, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=3)
    for name, parameter in own.named_parameters():
        assert_close(before[name] - parameter.detach(), gradients(peer)[name])


@pytest.mark.parametrize("head", ["ForMaskedLM", "ForTokenClassification"])
def test_trainer_with_neftune_equals_transformers(tmp_path: Path, head: str) -> None:
    """The same seed draws the same noise for the same padded batch."""
    models = pair(head)
    examples = [{"input_ids": row, "labels": row % 2} for row in documents(40, 30)]
    for model, folder in zip(models, ("own", "peer"), strict=True):
        train_one_step(
            model, examples, tmp_path / folder, per_device_train_batch_size=2, neftune_noise_alpha=5.0, seed=3
        )
    own, peer = (dict(model.named_parameters()) for model in models)
    for name, parameter in own.items():
        assert_close(parameter, peer[name])


def noise_of(model: Any, ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """Return the noise `(total_tokens, hidden)` that NEFTune with alpha 5 adds to the embeddings."""
    seen: list[torch.Tensor] = []
    embedding = model.get_input_embeddings()
    embedding.neftune_noise_alpha = 5.0
    handles = [
        embedding.register_forward_hook(neftune_post_forward_hook),
        model.embeddings.norm.register_forward_pre_hook(lambda _module, given: seen.append(given[0])),
    ]
    model.train()
    run(model, input_ids=ids, **inputs)
    for handle in handles:
        handle.remove()
    tokens = ids.flatten() if "attention_mask" not in inputs else ids[inputs["attention_mask"].bool()]
    return seen[0].flatten(0, -2) - embedding.weight.detach()[tokens]


@pytest.mark.parametrize("form", ["row", "flat", "padded row"])
def test_neftune_noise_of_packed_document_has_scale_of_its_length(form: str) -> None:
    """As if each document were a batch of its own: uniform in ±alpha / sqrt(length · hidden)."""
    own, _ = pair("Model")
    rows = documents(100, 7, 400)
    ids = torch.cat(rows)
    if form == "padded row":
        positions = torch.cat([torch.arange(len(row)) for row in rows])
        longer = torch.zeros(len(ids) + 9)
        ids, positions, mask = (padded([part, longer])[:1].long() for part in (ids, positions, torch.ones(len(ids))))
        noise = noise_of(own, ids, position_ids=positions, attention_mask=mask)
    else:
        noise = noise_of(own, ids[None] if form == "row" else ids, cu_seqlens=boundaries(rows))
    for part, row in zip(noise.split([len(row) for row in rows]), rows, strict=True):
        limit = 5 / (len(row) * own.config.hidden_size) ** 0.5
        assert part.abs().max() <= limit * 1.001
        assert abs(float(part.std()) * 3**0.5 / limit - 1) < 0.1


def test_hooks_on_embeddings_see_shape_of_input() -> None:
    own, peer = pair("Model")
    inputs = batch()
    shapes = []
    for model in (own, peer):
        model.get_input_embeddings().register_forward_hook(
            lambda _module, _inputs, output: shapes.append(output.shape)
        )
        run(model, **inputs)
    assert shapes[0] == shapes[1] == (*inputs["input_ids"].shape, own.config.hidden_size)
