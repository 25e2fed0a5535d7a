"""`adapt` learns a domain, measures both kinds of held-out text, resumes exactly, and reports mistakes first."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import write_checkpoint, write_model
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForMaskedLM, AutoTokenizer, ModernBertForMaskedLM, PreTrainedTokenizerFast

from llm_jp_modernbert.adaptation.adapt import Adapted, adapt
from llm_jp_modernbert.adaptation.measuring import POSITIONS, Scores, Windows, compare
from llm_jp_modernbert.adaptation.options import AdaptOptions
from llm_jp_modernbert.adaptation.recipe import complete, make_recipe
from llm_jp_modernbert.adaptation.report import end_lines
from llm_jp_modernbert.adaptation.texts import read_texts
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import lock
from llm_jp_modernbert.core.results import Results
from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName
from llm_jp_modernbert.inference.heads import SEQUENCE_CLASSIFICATION
from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.training.callbacks import ProgressCallback
from llm_jp_modernbert.training.data import blocks
from llm_jp_modernbert.training.data.order import DocumentOrder

WORDS = [
    "今日は",
    "天気が",
    "良いので",
    "公園を",
    "散歩した。",
    "明日の",
    "雨だ。",
    "猫が",
    "眠る。",
    "駅まで",
    "歩く。",
]
OVERRIDES = ["max_steps=12", "learning_rate=0.02", "tokens_per_batch=512", "sequence_length=64", "save_steps=4"]


def write_texts(path: Path, documents: int, seed: int, words: Sequence[str] = WORDS) -> str:
    """Writes different documents."""
    drawn = random.Random(seed)
    texts = ["".join(drawn.choices(words, k=drawn.randint(4, 12))) + f"{number}。" for number in range(documents)]
    path.write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("models") / "base", texts=["".join(WORDS) + "0123456789"])


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    write_texts(folder / "domain.jsonl", 120, 0, WORDS[:6])
    write_texts(folder / "general.jsonl", 80, 1, WORDS[4:])
    return folder


def options(base: Path, texts: Path, out: Path, **changes: Any) -> AdaptOptions:
    train, replay = [str(texts / "domain.jsonl")], [str(texts / "general.jsonl")]
    return replace(AdaptOptions(str(base), OVERRIDES, train=train, replay=replay, out=out), **changes)


@pytest.fixture(scope="module")
def read_by_training() -> list[str]:
    """Filled with the texts that the training of `finished` reads."""
    return []


@pytest.fixture(scope="module")
def finished(
    base: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory, read_by_training: list[str]
) -> Adapted:
    class Recording(DocumentOrder):
        def next(self) -> Any:
            item = super().next()
            if item is not None:
                read_by_training.append(item[1].text)
            return item

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(blocks, "DocumentOrder", Recording)
        return adapt(options(base, texts, tmp_path_factory.mktemp("out") / "adapted"))


def lines(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_domain_is_learned_and_plain_transformers_loads_the_model(finished: Adapted, base: Path) -> None:
    metrics = finished.record["domain"]["metrics"]
    assert (metrics["pseudo_perplexity"]["change"]["high"] or 1) < 1
    assert metrics["masked_accuracy"]["change"]["value"] > 0
    model, info = ModernBertForMaskedLM.from_pretrained(finished.folder, output_loading_info=True)
    assert type(AutoModelForMaskedLM.from_pretrained(finished.folder)).__name__ == "ModernBertForMaskedLM"
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert any(not torch.equal(weight, weights(base)[name]) for name, weight in weights(finished.folder).items())
    assert AutoTokenizer.from_pretrained(finished.folder).mask_token_id is not None
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(finished.folder))


def test_held_out_documents_are_never_trained_on(finished: Adapted, texts: Path, read_by_training: list[str]) -> None:
    held_out = {name: set(lines(finished.folder / "held-out" / f"{name}.jsonl")) for name in ("domain", "general")}
    trained = set(read_by_training)
    for name, count in (("domain", 12), ("general", 8)):
        documents = set(lines(texts / f"{name}.jsonl"))
        assert len(held_out[name]) == count
        assert held_out[name] < documents
        assert not held_out[name] & trained
        assert len(documents & trained) > 20


def test_held_out_documents_do_not_depend_on_the_order_of_the_texts(
    finished: Adapted, base: Path, texts: Path, tmp_path: Path
) -> None:
    shuffled = (texts / "domain.jsonl").read_text(encoding="utf-8").splitlines()[::-1]
    (tmp_path / "domain.jsonl").write_text("\n".join(shuffled), encoding="utf-8")
    train = [str(tmp_path / "domain.jsonl")]
    again = adapt(options(base, texts, tmp_path / "out", train=train, replay=[], overrides=["max_steps=1"]))
    name = "held-out/domain.jsonl"
    assert lines(again.folder / name) == lines(finished.folder / name)
    assert again.record["general"] is None
    assert "Forgetting was not measured" in (again.folder / "report.md").read_text(encoding="utf-8")


def test_unclear_forgetting_names_its_metric(finished: Adapted) -> None:
    record = deepcopy(finished.record)
    assert record["general"] is not None
    record["general"]["metrics"]["pseudo_perplexity"]["change"].update(value=1.0, low=0.9, high=1.1)
    line = "Forgetting: no clear change of pseudo-perplexity on general text."
    assert line in end_lines(finished.folder, record)


def test_directory_holds_results_report_and_stage(finished: Adapted, base: Path) -> None:
    rows = list(Results(finished.folder / "results").rows())
    values = {(row.split, row.metric, row.model): row.value for row in rows}
    assert {row.task for row in rows} == {"adapt"}
    assert len(values) == 8
    for name, measured in (("domain", finished.record["domain"]), ("general", finished.record["general"])):
        assert measured is not None
        for metric, change in measured["metrics"].items():
            assert values[name, metric, base.name] == change["before"]["value"]
            assert values[name, metric, finished.folder.name] == change["after"]["value"]
    report = (finished.folder / "report.md").read_text(encoding="utf-8")
    assert all(text in report for text in ("pseudo-perplexity | domain", "masked accuracy (%) | general"))
    assert (finished.folder / "assets" / "adaptation.png").is_file()
    assert not (finished.folder / "unfinished").exists()
    [stage] = json.loads((finished.folder / "training.json").read_text(encoding="utf-8"))["stages"]
    assert stage["steps"] == 12
    shares = {entry["name"]: entry["weight"] for entry in stage["data"]}
    assert shares == pytest.approx({"domain.jsonl": 0.75, "general.jsonl": 0.25})
    assert str(base.parent) not in (finished.folder / "adaptation.json").read_text(encoding="utf-8")


def test_rerun_after_a_signal_equals_an_uninterrupted_run(
    finished: Adapted, base: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted between the checkpoints of steps 4 and 8, and once more after the training."""
    steps: list[int] = []

    def interrupt(self: ProgressCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps.append(state.global_step)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    chosen = options(base, texts, tmp_path / "adapted")
    monkeypatch.setattr(ProgressCallback, "on_step_end", interrupt)
    with pytest.raises(UsageError, match=r"SIGTERM: stopped after step 6\. Run the same command again"):
        adapt(chosen)
    assert not (chosen.out / "config.json").exists()
    with pytest.raises(UsageError, match=r"already contains a different adaptation \(recipe\.mlm_probability: 0\.3"):
        adapt(replace(chosen, overrides=[*OVERRIDES, "mlm_probability=0.2"]))

    def fail(*args: Any) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patched:
        patched.setattr("llm_jp_modernbert.adaptation.keeping.write_report", fail)
        with pytest.raises(OSError, match="killed"):
            adapt(chosen)
    assert not (chosen.out / "config.json").exists()
    again = adapt(chosen)
    # The third run does not train again.
    assert steps == [*range(1, 13)]
    assert all(torch.equal(weight, weights(finished.folder)[name]) for name, weight in weights(again.folder).items())
    assert again.record["domain"] == finished.record["domain"]
    assert again.record["general"] == finished.record["general"]


def test_finished_adaptation_is_shown_again_and_kept(
    finished: Adapted, base: Path, texts: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    with caplog.at_level("INFO"):
        assert adapt(options(base, texts, finished.folder)).record == finished.record
    assert "already finished" in caplog.text
    assert "pseudo-perplexity    general" in caplog.text
    table = next(message for message in caplog.messages if "Held-out texts" in message)
    assert max(map(len, table.splitlines())) <= 80
    with pytest.raises(UsageError, match=r"different adaptation \(.*recipe\.seed: "):
        adapt(options(base, texts, finished.folder, seed=7))
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before


def test_texts_of_their_own_are_measured_and_not_trained_on(
    base: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same document in --validation and --train is measured, not trained on; two paths are one domain."""
    own = write_texts(tmp_path / "own.jsonl", 30, 2)
    domain = (texts / "domain.jsonl").read_text(encoding="utf-8").splitlines()[:5]
    (tmp_path / "validation.jsonl").write_text("\n".join(domain), encoding="utf-8")
    chosen = options(
        base,
        texts,
        tmp_path / "out",
        train=[str(texts / "domain.jsonl"), own],
        validation=[str(tmp_path / "validation.jsonl")],
        general=[str(texts / "general.jsonl")],
        replay=[],
        overrides=[*OVERRIDES[1:], "max_steps=1"],
    )
    read: list[str] = []

    class Recording(DocumentOrder):
        def next(self) -> Any:
            item = super().next()
            read.extend([] if item is None else [item[1].text])
            return item

    monkeypatch.setattr(blocks, "DocumentOrder", Recording)
    record = adapt(chosen).record
    assert record["domain"]["held_out_of"] == "file"
    assert record["general"] is not None
    assert record["general"]["documents"] == 80
    assert record["train"] == {"name": "domain.jsonl+own.jsonl", "share": 1, "revision": record["train"]["revision"]}
    assert set(read) == set(lines(texts / "domain.jsonl")[5:]) | set(lines(Path(own)))


def test_number_of_steps_follows_epochs(base: Path, texts: Path, tmp_path: Path) -> None:
    """With half of the text from --replay, a pass over the domain reads twice as many tokens."""
    tokenizer = load_tokenizer(str(base))
    steps = []
    for share in (None, 0.5):
        chosen = options(base, texts, tmp_path, overrides=["tokens_per_batch=64"], epochs=1.5, replay_share=share)
        chosen = chosen if share else replace(chosen, replay=[])
        recipe = make_recipe(chosen, tmp_path / "run", 64, [])
        read = read_texts(chosen, recipe, tokenizer)
        steps.append(complete(recipe, chosen, read, [tmp_path / "domain.jsonl"]).max_steps)
    documents = [text for text in lines(texts / "domain.jsonl") if text not in read.domain.texts]
    tokens = sum(len(tokenizer(text)["input_ids"]) for text in documents)
    assert steps[0] == pytest.approx(1.5 * tokens / 64, rel=0.05)
    assert steps[1] == pytest.approx(2 * steps[0], rel=0.15)


def test_pseudo_perplexity_equals_that_of_transformers(base: Path) -> None:
    """Short texts: every token is masked alone."""
    model, tokenizer = ModernBertForMaskedLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)
    documents = ["歩く。", "12", "。が"]
    assert max(len(tokenizer(text)["input_ids"]) for text in documents) <= 2 + POSITIONS
    expected, counts = [], []
    for text in documents:
        ids = torch.tensor(tokenizer(text)["input_ids"])
        loss = 0.0
        for place in range(1, len(ids) - 1):
            masked = ids.clone()
            masked[place] = tokenizer.mask_token_id
            with torch.no_grad():
                logits = model(masked[None]).logits[0, place]
            loss -= float(logits.log_softmax(-1)[ids[place]])
        expected.append(loss)
        counts.append(len(ids) - 2)
    scores = Windows(tokenizer, documents * 8, 64, seed=0).measure(EvaluatedModel(ModelName(str(base), device="cpu")))
    assert scores.losses == pytest.approx(expected * 8, rel=1e-4)
    assert scores.tokens.tolist() == counts * 8
    changes = compare(scores, scores, seed=0)
    perplexity = changes["pseudo_perplexity"]
    assert perplexity["before"]["value"] == pytest.approx(np.exp(sum(expected) / sum(counts)), rel=1e-4)
    assert perplexity["change"] == {"value": 1, "low": 1, "high": 1}
    assert 0 < scores.masked.sum() < scores.tokens.sum()
    assert (scores.right <= scores.masked).all()


def test_changes_are_those_of_the_sums_over_documents() -> None:
    ones = np.ones(4)
    before = Scores(np.array([2.0, 4.0, 6.0, 8.0]), 2 * ones, np.array([0.0, 1.0, 0.0, 1.0]), 2 * ones)
    after = Scores(before.losses - 2, 2 * ones, ones, 2 * ones)
    changes = compare(before, after, seed=0)
    assert changes["pseudo_perplexity"]["before"]["value"] == pytest.approx(np.exp(20 / 8))
    # The same for every document.
    assert changes["pseudo_perplexity"]["change"] == pytest.approx(
        {"value": np.exp(-1), "low": np.exp(-1), "high": np.exp(-1)}
    )
    accuracy = changes["masked_accuracy"]
    assert [accuracy[part]["value"] for part in ("before", "after", "change")] == [0.25, 0.5, 0.25]  # type: ignore[literal-required]


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"train": []}, r"--train: missing"),
    ({"train": ["data/missing.jsonl"]}, r"--train: data/missing\.jsonl: no such file"),
    ({"train": [" "]}, r"--train: the name of a file or dataset is empty"),
    ({"train": ["FEW"], "general": ["FEW"]}, r"--train few\.jsonl: all of its documents are held out"),
    ({"replay": ["./missing.jsonl"]}, r"--replay: \./missing\.jsonl: no such file"),
    ({"validation": ["./missing.jsonl"]}, r"--validation: \./missing\.jsonl: no such file"),
    ({"general": ["./missing.jsonl"]}, r"--general: \./missing\.jsonl: no such file"),
    ({"train": ["EMPTY"]}, r"empty\.txt: no document"),
    ({"train": ["FEW"]}, r"--train few\.jsonl: 12 documents.* are too few to hold a tenth out; 20 are needed"),
    ({"replay": ["FEW"]}, r"--replay few\.jsonl: 12 documents.*Name held-out texts with --general"),
    ({"train": ["SAME"]}, r"--train same\.jsonl: 40 documents, 1 of them different, are too few"),
    ({"validation": ["ONE"]}, r"--validation one\.jsonl: one document is too little"),
    ({"train": ["ONE"], "validation": ["FEW"]}, r"--train one\.jsonl: all of its documents are held out"),
    ({"text_column": "body"}, r"no column 'body'; the columns are 'text'.*--text-column"),
    ({"replay_share": 1.0}, r"--replay-share 1: it must be above 0 and below 1"),
    ({"replay_share": 0.2, "replay": []}, r"--replay-share: name the general text"),
    ({"epochs": 0.0}, r"--epochs 0: it must be above 0"),
    ({"base": "./missing"}, r"\./missing: no such directory"),
    ({"base": "CLASSIFIER"}, r"classifier: .* weights of a masked language model"),
    ({"base": "BERT"}, r"bert: a bert model"),
    ({"base": "UNMASKED"}, r"unmasked: its tokenizer has no mask token"),
    ({"base": "TOKENLESS"}, r"tokenless: no tokenizer found"),
    ({"overrides": ["mlm_probability=2"]}, r"mlm_probability: 2 is invalid"),
    ({"overrides": ["mask_rate=0.2"]}, r"unknown key 'mask_rate'"),
    ({"overrides": ["texts.jsonl"]}, r"texts\.jsonl: give key=value. For several files, repeat the option"),
    ({"overrides": ["output_dir=x"]}, r"output_dir: use --out instead"),
    ({"overrides": ["seed=1"]}, r"seed: use --seed instead"),
    ({"overrides": ["sequence_length=long"]}, r"sequence_length: \"long\" is not an integer"),
    ({"overrides": ["tokens_per_batch=2000-01-01"]}, r"tokens_per_batch: \"2000-01-01\" is not an integer"),
    ({"overrides": ["max_tokens=100"]}, r"max_tokens: use --max-tokens instead"),
    ({"overrides": ["sequence_length=512"]}, r"sequence_length: 512 tokens, but .* reads at most 64"),
    ({"overrides": ["warmup_steps=100", "max_steps=10"]}, r"warmup_steps: 100 warm-up steps .* exceed max_steps=10"),
    ({"overrides": ["warmup_steps=100"]}, r"warmup_steps: 100 warm-up steps .* exceed max_steps=\d+"),
    ({"out": Path("OTHER")}, r"other is not empty"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_OPTIONS)
def test_mistakes_are_reported_in_one_line_before_any_training(
    base: Path,
    bert: Path,
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    message: str,
) -> None:
    few = write_texts(tmp_path / "few.jsonl", 12, 3)
    (tmp_path / "one.jsonl").write_text(Path(few).read_text(encoding="utf-8").splitlines()[0], encoding="utf-8")
    (tmp_path / "same.jsonl").write_text(f"{json.dumps({'text': '同じ文章。'})}\n" * 40, encoding="utf-8")
    (tmp_path / "empty.txt").write_text(" \n\n", encoding="utf-8")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine", encoding="utf-8")
    if "base" in changes:
        write_model(tmp_path / "classifier", SEQUENCE_CLASSIFICATION)
        for name in ("unmasked", "tokenless"):
            write_checkpoint(tmp_path / name)
            for path in (tmp_path / name).glob("tokenizer*"):
                path.unlink()
        roles = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "cls", "sep", "pad")}
        vocabulary = {token: number for number, token in enumerate(["今日", *roles.values()])}
        model = Tokenizer(WordLevel(vocabulary, "[UNK]"))
        PreTrainedTokenizerFast(tokenizer_object=model, **roles).save_pretrained(tmp_path / "unmasked")
    places = {
        **{name.upper(): str(tmp_path / f"{name}.jsonl") for name in ("few", "one", "same")},
        **{name.upper(): str(tmp_path / name) for name in ("classifier", "unmasked", "tokenless", "other")},
        "EMPTY": str(tmp_path / "empty.txt"),
        "BERT": str(bert),
    }

    def placed(value: Any) -> Any:
        if isinstance(value, list):
            return [placed(item) for item in value]
        return type(value)(places.get(str(value), value)) if isinstance(value, (str, Path)) else value

    def train(*args: Any) -> None:
        raise AssertionError("training has begun")

    monkeypatch.setattr("llm_jp_modernbert.training.pretrain.pretrain", train)
    monkeypatch.setattr("llm_jp_modernbert.adaptation.measuring.cross_entropies", train)
    chosen = options(base, texts, tmp_path / "out", overrides=OVERRIDES[1:])
    chosen = replace(chosen, **{name: placed(value) for name, value in changes.items()})
    with pytest.raises(UsageError, match=message) as raised:
        adapt(chosen)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out" / "config.json").exists()


def test_two_runs_in_one_directory_exclude_each_other(base: Path, texts: Path, tmp_path: Path) -> None:
    with lock(tmp_path / "out", "adapt"), pytest.raises(UsageError, match="another adapt"):
        adapt(options(base, texts, tmp_path / "out"))
