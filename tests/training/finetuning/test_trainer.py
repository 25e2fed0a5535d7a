"""The trainer of fine-tuning, against transformers' Trainer and models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoTokenizer, Trainer, TrainingArguments

from llm_jp_modernbert.inference.auto import registered_for_modernbert
from llm_jp_modernbert.training.finetuning.batches import Batches, documents
from llm_jp_modernbert.training.finetuning.head_task import HeadTask, ModelInput
from llm_jp_modernbert.training.finetuning.multiple_choice import MultipleChoice
from llm_jp_modernbert.training.finetuning.ner import Ner, Sentence, tags_of
from llm_jp_modernbert.training.finetuning.qa import Question, QuestionAnswering
from llm_jp_modernbert.training.finetuning.text import Classification, MultiLabelClassification, Regression, Texts
from llm_jp_modernbert.training.finetuning.trainer import (
    FinetuningTrainer,
    TrainerSettings,
    predict_logits,
    train_model,
)

WORDS = ["今日の", "ご飯は", "カレーである。", "猫", "駅まで", "歩いて"]


@dataclass
class Case:
    """A task with examples of mixed lengths, and transformers' collator for it."""

    task: HeadTask[Any]
    examples: list[Any]
    collator: str = "DataCollatorWithPadding"


def text(number: int) -> str:
    return "".join(WORDS[(number * 7 + step * step) % len(WORDS)] for step in range(1 + number * 5 % 9))


NUMBERS = range(22)
CASES = {
    "classification": Case(
        Classification(("no", "yes")), [Texts((text(n),), ("no", "yes")[n % 3 > 0]) for n in NUMBERS]
    ),
    "pairs": Case(Classification(("a", "b")), [Texts((text(n), text(n + 1)), "ab"[n % 2]) for n in NUMBERS]),
    "multi-label": Case(
        MultiLabelClassification(("a", "b", "c")), [Texts((text(n),), ("a", "c")[: n % 3]) for n in NUMBERS]
    ),
    "regression": Case(Regression(), [Texts((text(n),), n % 5 / 2) for n in NUMBERS]),
    "multiple-choice": Case(
        MultipleChoice(("x", "y", "z")),
        [Texts((text(n), text(n + 1), text(n + 2), text(n + 3)), "xyz"[n % 3]) for n in NUMBERS],
        "DataCollatorForMultipleChoice",
    ),
    "ner": Case(
        Ner(tags_of(["食"])),
        [Sentence(f"{text(n)}カレー", ((len(text(n)), len(text(n)) + 3, "食"),)) for n in NUMBERS],
        "DataCollatorForTokenClassification",
    ),
    "qa": Case(QuestionAnswering(), [Question("何？", f"{text(n)}猫だ", ("猫",), len(text(n))) for n in NUMBERS]),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def load(path: Path, case: Case, transformers_class: bool = False) -> Any:
    """A model with a head; the same weights in this package's class and in that of transformers."""
    torch.manual_seed(1)
    settings = case.task.head_settings()
    with registered_for_modernbert():
        model = getattr(transformers, case.task.head.auto_class).from_pretrained(path, dtype="float32", **settings)
    if not transformers_class:
        return model
    plain = getattr(transformers, case.task.head.auto_class).from_pretrained(path, dtype="float32", **settings)
    plain.load_state_dict(model.state_dict())
    return plain


def encode(path: Path, case: Case) -> tuple[Any, list[ModelInput]]:
    tokenizer = AutoTokenizer.from_pretrained(path)
    return tokenizer, case.task.encode(tokenizer, case.examples, 64)


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings = {
        # Adam would amplify rounding errors of zero gradients.
        "optim": "sgd",
        "learning_rate": 1e-2,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 6,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }
    return TrainingArguments(output_dir=str(folder), **{**settings, **changes})


def train(
    path: Path, case: Case, folder: Path, model: Any = None, tokens: int = 60, **changes: Any
) -> FinetuningTrainer:
    tokenizer, rows = encode(path, case)
    model = load(path, case) if model is None else model
    options = arguments(folder, **changes)
    return train_model(model, case.task, tokenizer, rows, [], [], options, TrainerSettings(tokens))


def assert_equal_weights(model: Any, other: Any, tolerance: float = 2e-5) -> None:
    expected = dict(other.named_parameters())
    assert expected.keys() == dict(model.named_parameters()).keys()
    for name, weight in model.named_parameters():
        assert torch.allclose(weight, expected[name], rtol=0, atol=tolerance), name


@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_equals_transformers_with_padding(
    modernbert: Path, tmp_path: Path, case: Case, accumulation: int
) -> None:
    """Steps have the same examples and losses, though they are packed and computed in pieces of 60 tokens."""
    tokenizer, rows = encode(modernbert, case)
    if isinstance(case.task, QuestionAnswering):
        # transformers' loss counts padding as possible answers, so a batch must have none.
        rows = [rows[1]] * len(rows)
    options = {"gradient_accumulation_steps": accumulation}
    reference: Any = Trainer(
        load(modernbert, case, transformers_class=True),
        # transformers' losses are means of each batch, so accumulation is compared with a larger batch.
        arguments(tmp_path, per_device_train_batch_size=6 * accumulation),
        train_dataset=[row.inputs for row in rows],
        data_collator=getattr(transformers, case.collator)(tokenizer),
    )
    reference.train()
    model = load(modernbert, case)
    trained = train_model(
        model, case.task, tokenizer, rows, [], [], arguments(tmp_path, **options), TrainerSettings(60)
    )
    assert trained.state.global_step == reference.state.global_step
    assert trained.state.log_history[-1]["train_loss"] == pytest.approx(
        reference.state.log_history[-1]["train_loss"], rel=1e-4
    )
    assert_equal_weights(model, reference.model)


@pytest.mark.parametrize("family", ["modernbert", "bert"])
def test_result_is_independent_of_the_token_budget(
    family: str, request: pytest.FixtureRequest, tmp_path: Path, case: Case
) -> None:
    path = request.getfixturevalue(family)
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if family == "bert" else {}
    models = [load(path, case) for _ in range(2)]
    for model in models:
        model.config.update(dropout)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    for model, tokens in zip(models, (1, 10_000), strict=True):
        train(path, case, tmp_path, model, tokens)
    assert_equal_weights(*models)


@pytest.mark.parametrize("family", ["modernbert", "bert"])
def test_predicted_logits_equal_those_of_single_inputs(
    family: str, request: pytest.FixtureRequest, case: Case
) -> None:
    path = request.getfixturevalue(family)
    tokenizer, rows = encode(path, case)
    model = load(path, case)
    predicted = predict_logits(model, rows, Batches.of(model, case.task, tokenizer, 60))
    for row, logits in zip(rows, predicted, strict=True):
        inputs = {key: value for key, value in row.inputs.items() if key in tokenizer.model_input_names}
        padded = getattr(transformers, case.collator)(tokenizer)([{**inputs, "labels": row.inputs.get("labels", 0)}])
        columns = {key: value for key, value in padded.items() if key in inputs}
        with torch.no_grad():
            output = model.eval()(**columns)
        parts = [output[name][0].numpy() for name in case.task.head.outputs]
        expected = np.stack(parts, -1) if len(parts) > 1 else parts[0]
        assert logits.shape == expected.shape
        assert logits == pytest.approx(expected, abs=1e-5)


def test_pieces_stay_within_the_budget_unless_an_input_alone_exceeds_it(modernbert: Path, case: Case) -> None:
    tokenizer, rows = encode(modernbert, case)
    batches = Batches(case.task, tokenizer, True, 40)
    pieces = batches.pieces(rows)
    assert sorted(place for piece in pieces for place in piece) == list(range(len(rows)))
    for piece in pieces:
        inputs = batches.inputs([rows[place] for place in piece])
        assert len(piece) == 1 or inputs["input_ids"].numel() <= 40
        # No padding.
        assert inputs["input_ids"].numel() == sum(
            len(document["input_ids"]) for place in piece for document in documents(rows[place])
        )
