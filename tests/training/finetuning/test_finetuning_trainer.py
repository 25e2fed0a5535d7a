"""The trainer of fine-tuning, against transformers' Trainer and models."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Trainer, TrainingArguments

from llm_jp_modernbert import LlmJpModernBertForTokenClassification
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.inference.auto import registered_for_modernbert
from llm_jp_modernbert.training.finetuning.arguments import finetuning_arguments
from llm_jp_modernbert.training.finetuning.batches import Batches, documents
from llm_jp_modernbert.training.finetuning.head_task import HeadTask, ModelInput
from llm_jp_modernbert.training.finetuning.multiple_choice import MultipleChoice
from llm_jp_modernbert.training.finetuning.ner import Ner, Sentence, tags_of
from llm_jp_modernbert.training.finetuning.options import FinetuneOptions
from llm_jp_modernbert.training.finetuning.qa import Question, QuestionAnswering
from llm_jp_modernbert.training.finetuning.text import Classification, MultiLabelClassification, Regression, Texts
from llm_jp_modernbert.training.finetuning.trainer import (
    FinetuningTrainer,
    TrainerSettings,
    predict_logits,
    train_model,
)
from llm_jp_modernbert.training.run.checkpoints import StopSignals, newest_sound

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


def with_dropout(model: Any, probability: float = 0.1) -> Any:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability
    return model


def assert_equal_weights(model: Any, other: Any, tolerance: float = 2e-5) -> None:
    expected = dict(other.named_parameters())
    assert expected.keys() == dict(model.named_parameters()).keys()
    for name, weight in model.named_parameters():
        assert torch.allclose(weight, expected[name], rtol=0, atol=tolerance), name


def test_training_equals_transformers_with_padding(modernbert: Path, tmp_path: Path, case: Case) -> None:
    """Steps have the same examples and losses, though they are packed and computed in pieces of 60 tokens."""
    tokenizer, rows = encode(modernbert, case)
    if isinstance(case.task, QuestionAnswering):
        # transformers' loss counts padding as possible answers, so a batch must have none.
        rows = [rows[1]] * len(rows)
    reference: Any = Trainer(
        load(modernbert, case, transformers_class=True),
        # transformers' losses are means of each batch, so accumulation is compared with a larger batch.
        arguments(tmp_path, per_device_train_batch_size=12),
        train_dataset=[row.inputs for row in rows],
        data_collator=getattr(transformers, case.collator)(tokenizer),
    )
    reference.train()
    model = load(modernbert, case)
    options = arguments(tmp_path, gradient_accumulation_steps=2)
    trained = train_model(model, case.task, tokenizer, rows, [], [], options, TrainerSettings(60))
    assert trained.state.global_step == reference.state.global_step
    assert trained.state.log_history[-1]["train_loss"] == pytest.approx(
        reference.state.log_history[-1]["train_loss"], rel=1e-4
    )
    assert_equal_weights(model, reference.model)


def test_padded_training_is_independent_of_the_token_budget(bert: Path, tmp_path: Path, case: Case) -> None:
    models = [with_dropout(load(bert, case), 0.0) for _ in range(2)]
    for model, tokens in zip(models, (1, 10_000), strict=True):
        tokenizer, rows = encode(bert, case)
        train_model(model, case.task, tokenizer, rows, [], [], arguments(tmp_path), TrainerSettings(tokens))
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


class StopAt(transformers.TrainerCallback):
    """Sends SIGTERM to this process in a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("step", "lora_rank", "saved"), [(4, None, "steps"), (7, None, "epoch"), (2, 4, "epoch")])
def test_resuming_equals_uninterrupted_run(
    modernbert: Path, tmp_path: Path, step: int, lora_rank: int | None, saved: str
) -> None:
    """Bit for bit: within and at the end of an epoch, with dropout, and with the best weights of earlier epochs."""
    case = CASES["ner"]
    tokenizer, rows = encode(modernbert, case)

    def run(folder: Path, checkpoint: Path | None = None, stop_at: int = 0) -> FinetuningTrainer:
        options = arguments(
            folder, optim="adamw_torch", num_train_epochs=3, learning_rate=5e-3, save_strategy=saved,
            eval_strategy="epoch", logging_steps=1, save_total_limit=1,
        )  # fmt: skip
        settings = TrainerSettings(60, layer_decay=0.9, lora_rank=lora_rank)
        with StopSignals().listening() as stop:
            return train_model(
                with_dropout(load(modernbert, case)), case.task, tokenizer, rows, rows, case.examples, options,
                settings, checkpoint, [StopAt(stop_at)], stop,
            )  # fmt: skip

    whole = run(tmp_path / "whole")
    assert not whole.stopping
    stopped = run(tmp_path / "run", stop_at=step)
    assert stopped.stopping
    assert stopped.state.global_step == step
    checkpoint = newest_sound(tmp_path / "run")
    assert checkpoint == tmp_path / f"run/checkpoint-{step}"
    assert [path.name for path in (tmp_path / "run").iterdir()] == [checkpoint.name]
    resumed = run(tmp_path / "run", checkpoint)
    expected = whole.model.state_dict()
    assert resumed.model.state_dict().keys() == expected.keys()
    for name, weight in resumed.model.state_dict().items():
        assert torch.equal(weight, expected[name]), name
    assert evaluations(resumed) == evaluations(whole)


class KillAt(StopAt):
    """Ends training without a checkpoint, as a killed process."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        # The newest checkpoint is that of the last step of an epoch.
        (6, {"save_strategy": "steps", "save_steps": 2}),
        (8, {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 2}),
        # Killed after the last step, which is within an epoch.
        (99, {"save_strategy": "epoch", "max_steps": 6}),
        (99, {"save_strategy": "epoch", "num_train_epochs": 1.5, "eval_strategy": "no"}),
    ],
)
def test_resuming_after_a_kill_equals_uninterrupted_run(
    modernbert: Path, tmp_path: Path, step: int, changes: dict[str, Any]
) -> None:
    case = CASES["ner"]
    tokenizer, rows = encode(modernbert, case)

    def run(folder: Path, checkpoint: Path | None = None, kill_at: int = 0) -> FinetuningTrainer:
        keys = {"eval_strategy": "epoch", "lr_scheduler_type": "constant", "learning_rate": 0.1, **changes}
        return train_model(
            load(modernbert, case), case.task, tokenizer, rows, rows, case.examples, arguments(folder, **keys),
            TrainerSettings(60), checkpoint, [KillAt(kill_at)],
        )  # fmt: skip

    whole = run(tmp_path / "whole")
    with suppress(KeyboardInterrupt):
        run(tmp_path / "run", kill_at=step)
    resumed = run(tmp_path / "run", newest_sound(tmp_path / "run"))
    assert resumed.state.global_step == whole.state.global_step
    assert evaluations(resumed) == evaluations(whole)
    for name, weight in resumed.model.state_dict().items():
        assert torch.equal(weight, whole.model.state_dict()[name]), name


def evaluations(trainer: FinetuningTrainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "eval_loss" in entry]


def test_best_epoch_is_kept_and_patience_ends_training(modernbert: Path, tmp_path: Path) -> None:
    """The learning rate destroys the model, so the first epoch is the best."""
    case = CASES["regression"]
    tokenizer, rows = encode(modernbert, case)
    model, weights = load(modernbert, case), []

    class Record(transformers.TrainerCallback):
        def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
            weights.append({name: value.clone() for name, value in model.state_dict().items()})

    options = arguments(
        tmp_path, num_train_epochs=9, eval_strategy="epoch", metric_for_best_model="loss", optim="adamw_torch"
    )
    options.learning_rate = 0.3
    settings = TrainerSettings(patience=1)
    trainer = train_model(model, case.task, tokenizer, rows, rows, case.examples, options, settings, None, [Record()])
    losses = [entry["eval_loss"] for entry in evaluations(trainer)]
    best = int(np.argmin(losses))
    assert len(losses) == best + 2 < 9
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[best][name])
    # The metrics are those of the task.
    scores = evaluations(trainer)[best]
    logits = trainer.predict_logits(rows)
    predictions = [prediction.value for prediction in case.task.predict(rows, logits, case.examples)]
    assert scores["eval_spearman"] == pytest.approx(case.task.scores(case.examples, predictions)["spearman"])
    assert scores["eval_loss"] == pytest.approx(
        np.mean([(a - e.label) ** 2 for a, e in zip(predictions, case.examples, strict=True)]), rel=1e-5
    )


@pytest.mark.parametrize("name", ["regression", "ner", "qa"])
def test_diverged_training_has_no_scores(modernbert: Path, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    tokenizer, rows = encode(modernbert, case)
    options = arguments(tmp_path, eval_strategy="epoch", learning_rate=1e30, max_grad_norm=0)
    trainer = train_model(
        load(modernbert, case), case.task, tokenizer, rows, rows, case.examples, options, TrainerSettings(patience=1)
    )
    evaluated = [entry for entry in trainer.state.log_history if "eval_examples" in entry]
    assert [entry.keys() for entry in evaluated] == [{"eval_examples", "step", "epoch"}] * 2


def test_unknown_metric_is_reported_before_training(modernbert: Path, tmp_path: Path) -> None:
    case = CASES["regression"]
    tokenizer, rows = encode(modernbert, case)
    options = arguments(tmp_path, eval_strategy="epoch", metric_for_best_model="f1")
    with pytest.raises(UsageError, match=r"metric_for_best_model: unknown value 'f1'; choose from loss, pearson"):
        train_model(
            load(modernbert, case), case.task, tokenizer, rows, rows, case.examples, options, TrainerSettings()
        )


def test_metric_that_only_some_examples_have_selects_the_model(modernbert: Path, tmp_path: Path) -> None:
    case = CASES["qa"]
    examples = [*case.examples[:3], replace(case.examples[3], answers=(), start=0)]
    tokenizer, rows = encode(modernbert, replace(case, examples=examples))
    options = arguments(tmp_path, eval_strategy="epoch", metric_for_best_model="has_answer_f1")
    trainer = train_model(
        load(modernbert, case), case.task, tokenizer, rows, rows, examples, options, TrainerSettings()
    )
    assert all("eval_has_answer_f1" in entry for entry in evaluations(trainer))


def test_decay_may_be_a_share_of_the_steps(modernbert: Path, tmp_path: Path) -> None:
    """Of 8 steps, the last 4 decay."""
    case = CASES["classification"]
    tokenizer, rows = encode(modernbert, case)
    options = arguments(
        tmp_path, lr_scheduler_type="warmup_stable_decay", lr_scheduler_kwargs={"num_decay_steps": 0.5},
        logging_steps=1,
    )  # fmt: skip
    trainer = train_model(load(modernbert, case), case.task, tokenizer, rows, [], [], options, TrainerSettings())
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates[:5] == pytest.approx([1e-2] * 5)
    assert rates[4:] == sorted(set(rates[4:]), reverse=True)


def test_dropping_the_only_batch_is_reported_before_training(modernbert: Path, tmp_path: Path) -> None:
    case = CASES["classification"]
    tokenizer, rows = encode(modernbert, case)
    options = arguments(tmp_path, per_device_train_batch_size=64, dataloader_drop_last=True)
    with pytest.raises(UsageError, match="dataloader_drop_last: 22 training examples do not fill a batch of 64"):
        train_model(load(modernbert, case), case.task, tokenizer, rows, [], [], options, TrainerSettings())


@pytest.mark.parametrize("name", ["classification", "ner", "multi-label"])
def test_class_weights_equal_those_of_torch(modernbert: Path, tmp_path: Path, name: str) -> None:
    """The gradient of a step in pieces is that of torch's weighted mean over the whole batch."""
    case = CASES[name]
    tokenizer, rows = encode(modernbert, case)
    weights = tuple(1.0 + 2.0 * place for place in range(len(case.task.labels)))
    model, reference = load(modernbert, case), load(modernbert, case)
    batches = Batches.of(reference, case.task, tokenizer, 10_000)
    inputs = batches.inputs(rows)
    logits = batches.logits(reference(**inputs), inputs, len(rows))
    labels = [row.inputs["labels"] for row in rows]
    targets = torch.tensor([label for row in labels for label in row]) if name == "ner" else torch.tensor(labels)
    if name == "multi-label":
        loss: Any = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights))
    else:
        loss = torch.nn.CrossEntropyLoss(weight=torch.tensor(weights))
    loss(logits, targets).backward()
    options = arguments(
        tmp_path, per_device_train_batch_size=len(rows), num_train_epochs=1, learning_rate=1.0, max_grad_norm=0,
        lr_scheduler_type="constant",
    )  # fmt: skip
    train_model(model, case.task, tokenizer, rows, [], [], options, TrainerSettings(40, class_weights=weights))
    with torch.no_grad():
        for weight in reference.parameters():
            weight -= weight.grad
    assert_equal_weights(model, reference, 1e-5)


def test_layer_decay_scales_learning_rates(modernbert: Path, tmp_path: Path) -> None:
    case = CASES["classification"]
    tokenizer, rows = encode(modernbert, case)
    options = arguments(tmp_path, weight_decay=0.01, optim="adamw_torch")
    settings = TrainerSettings(layer_decay=0.5)
    trainer = FinetuningTrainer(load(modernbert, case), case.task, tokenizer, rows, [], [], options, settings)
    optimizer = trainer.create_optimizer()
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    groups = {names[parameter]: group for group in optimizer.param_groups for parameter in group["params"]}
    assert groups.keys() == set(names.values())
    for name, exponent in {
        "classifier.weight": 0,
        "head.dense.weight": 0,
        "model.final_norm.weight": 0,
        "model.layers.2.attn.Wqkv.weight": 1,
        "model.layers.0.mlp.Wi.weight": 3,
        "model.embeddings.tok_embeddings.weight": 4,
    }.items():
        assert groups[name]["lr"] == pytest.approx(1e-2 * 0.5**exponent)
        assert groups[name]["weight_decay"] == (0 if "norm" in name else 0.01)


def test_adapters_equal_those_of_transformers_and_are_merged(modernbert: Path, tmp_path: Path) -> None:
    """With peft on transformers' ModernBERT, trained by plain PyTorch on padded batches."""
    from peft import LoraConfig, get_peft_model

    case = CASES["classification"]
    tokenizer, rows = encode(modernbert, case)
    model, before = load(modernbert, case), load(modernbert, case).state_dict()
    options = arguments(tmp_path, num_train_epochs=3, learning_rate=0.1, max_grad_norm=0)
    settings = TrainerSettings(60, lora_rank=4)
    trainer = train_model(model, case.task, tokenizer, rows, [], [], options, settings)

    plain = load(modernbert, case, transformers_class=True)
    transformers.set_seed(options.seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["Wqkv", "Wo", "Wi"], modules_to_save=["head", "classifier"])
    reference: Any = Trainer(
        get_peft_model(plain, config),
        options,
        train_dataset=[row.inputs for row in rows],
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
    )
    reference.train()
    expected = reference.model.merge_and_unload().state_dict()
    trained = trainer.model.state_dict()
    assert type(trainer.model) is type(model)
    assert trained.keys() == expected.keys() == before.keys()
    for name, weight in trained.items():
        assert torch.allclose(weight, expected[name], rtol=0, atol=2e-5), name
        changes = "head" in name or "classifier" in name or name.endswith(("Wqkv.weight", "Wo.weight", "Wi.weight"))
        assert torch.equal(weight, before[name]) != changes, name


def finetune(path: Path, out: Path, batch_size: int) -> None:
    """Trains on 19 sentences of different lengths; with batches of 6, the last one has a single sentence."""
    keys = ["optim=sgd", "use_cpu=true", "learning_rate=0.05", "num_train_epochs=2"]
    options = FinetuneOptions("ner", str(path), [*keys, f"per_device_train_batch_size={batch_size}"])
    arguments = finetuning_arguments(options, out / "run", seed=1)
    task = Ner(tags_of(["食"]))
    examples = [Sentence("今日の" * (1 + 5 * n % 7) + "カレー", ()) for n in range(19)]
    examples = [Sentence(example.text, ((len(example.text) - 3, len(example.text), "食"),)) for example in examples]
    tokenizer = AutoTokenizer.from_pretrained(path)
    rows = task.encode(tokenizer, examples, 64)
    transformers.set_seed(1)
    model = LlmJpModernBertForTokenClassification.from_pretrained(path, **task.head_settings())
    trainer = train_model(model, task, tokenizer, rows, rows, examples, arguments, TrainerSettings(50))
    if trainer.is_world_process_zero():
        save_file(model.state_dict(), out / "trained.safetensors")
        trainer.state.save_to_json(str(out / "state.json"))


def test_training_of_two_processes_equals_that_of_one(modernbert: Path, tmp_path: Path) -> None:
    """Two processes with half the batch size; at the end of an epoch, one of them has no example."""
    for name in "12":
        (tmp_path / name).mkdir()
    finetune(modernbert, tmp_path / "1", 6)
    assert runs.call_apart(lambda: finetune(modernbert, tmp_path / "2", 3), ranks=2) == [0, 0]
    one, two = (load_file(tmp_path / name / "trained.safetensors") for name in "12")
    for name, weight in one.items():
        assert torch.allclose(weight, two[name], rtol=0, atol=1e-5), name
    logs = [json.loads((tmp_path / name / "state.json").read_text())["log_history"] for name in "12"]
    assert len(logs[0]) == len(logs[1])
    for first, second in zip(*logs, strict=True):
        kept = first.keys() - {"train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos"}
        assert {key: second[key] for key in kept} == pytest.approx({key: first[key] for key in kept}, rel=1e-3)
