"""Models with another vocabulary equal the original on tokens that both have, and load without this package."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import TEXTS, write_model
from safetensors.torch import load_file, save_file
from tiny_models import tiny_config
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer, ModernBertForMaskedLM

from llm_jp_modernbert import LlmJpModernBertForMaskedLM, cli
from llm_jp_modernbert.adaptation.vocabulary import run
from llm_jp_modernbert.adaptation.vocabulary.measuring import measure
from llm_jp_modernbert.adaptation.vocabulary.options import ExtendOptions, TrimOptions
from llm_jp_modernbert.adaptation.vocabulary.record import Record, read_record
from llm_jp_modernbert.adaptation.vocabulary.terms import find_words
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.results import Results
from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName
from llm_jp_modernbert.inference.heads import SEQUENCE_CLASSIFICATION
from llm_jp_modernbert.quickstart.data import embedded_texts
from llm_jp_modernbert.tokenization import train_stand_in
from llm_jp_modernbert.tokenization.vocabulary import Vocabulary

EMBEDDINGS, BIAS = "model.embeddings.tok_embeddings.weight", "decoder.bias"
NEW = "計量記譜法"
"""A term of the texts that the vocabulary lacks."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny `modernbert` checkpoint with a vocabulary of 900 tokens and a decoder bias."""
    folder = tmp_path_factory.mktemp("vocabulary") / "base"
    tokenizer = train_stand_in(embedded_texts().train[:200], 900)
    torch.manual_seed(0)
    model = LlmJpModernBertForMaskedLM(tiny_config(vocab_size=len(tokenizer), initializer_range=0.3))
    torch.nn.init.normal_(model.decoder.bias)
    model.save_pretrained(folder, format="plain")
    tokenizer.model_max_length = 128
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty documents, which contain terms that the vocabulary lacks."""
    file = tmp_path_factory.mktemp("domain") / "domain.jsonl"
    texts = [f"{text[:120]}{NEW}とLilyPondで書く。" for text in embedded_texts().train[:60]]
    file.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def trimmed(base: Path, domain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trimmed") / "model"
    run.trim(TrimOptions(str(base), [str(domain)], out, share=0.7))
    return out


@pytest.fixture(scope="module")
def extended(base: Path, domain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("extended") / "model"
    run.extend(ExtendOptions(str(base), [str(domain)], out, new_tokens=4))
    return out


def logits(folder: Path, ids: list[int]) -> torch.Tensor:
    """Of plain transformers."""
    model = AutoModelForMaskedLM.from_pretrained(folder)
    assert type(model) is ModernBertForMaskedLM
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


def old_ids(base: Path, folder: Path) -> list[int]:
    """The old id of each token of a trimmed model."""
    before, after = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(folder)
    return before.convert_tokens_to_ids(after.convert_ids_to_tokens(range(len(after))))


def test_weights_of_tokens_that_stay_are_copied(base: Path, trimmed: Path) -> None:
    before, after, kept = load_file(base / "model.safetensors"), load_file(trimmed / "model.safetensors"), []
    kept = old_ids(base, trimmed)
    assert len(kept) == round(0.7 * len(before[EMBEDDINGS]))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert torch.equal(after[name], weight[kept] if name in (EMBEDDINGS, BIAS) else weight), name


def test_predictions_of_tokens_that_stay_do_not_change(base: Path, trimmed: Path, domain: Path) -> None:
    kept = old_ids(base, trimmed)
    before, after = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(trimmed)
    documents = [json.loads(line)["text"] for line in domain.read_text(encoding="utf-8").splitlines()]
    text = next(part for text in documents for part in text.split("。") if {*before(part).input_ids} <= {*kept})
    assert len(text) > 5
    assert before.tokenize(text) == after.tokenize(text)
    expected = logits(base, before(text).input_ids)[:, kept]
    torch.testing.assert_close(logits(trimmed, after(text).input_ids), expected, rtol=0, atol=0)


def test_logit_of_a_new_token_is_the_mean_of_its_parts(base: Path, extended: Path) -> None:
    before, after = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(extended)
    new = range(len(before), len(after))
    assert NEW in after.convert_ids_to_tokens(new)
    ids = before("今日の天気").input_ids
    old, changed = logits(base, ids), logits(extended, ids)
    assert torch.equal(changed[:, : len(before)], old)
    for token_id in new:
        # A piece without the space before it follows another word.
        piece = after.convert_ids_to_tokens(token_id)
        parts = before.tokenize(f"。{piece.replace('▁', ' ')}")
        start = parts.index("。") + 1
        expected = old[:, before.convert_tokens_to_ids(parts[start:])].mean(1)
        torch.testing.assert_close(changed[:, token_id], expected, rtol=1e-4, atol=1e-4)


def test_new_terms_are_used(extended: Path, base: Path) -> None:
    record: Record = read_record(extended)  # type: ignore[assignment]
    assert NEW in record["terms"]
    assert AutoTokenizer.from_pretrained(extended).tokenize(f"彼は{NEW}で書く。").count(NEW) == 1
    assert record["after"]["tokens_per_character"] < record["before"]["tokens_per_character"]
    assert record["after"]["tokens"] == record["before"]["tokens"] + len(record["terms"])


@pytest.mark.parametrize("name", ["trimmed", "extended"])
def test_directory_holds_record_results_plot_and_report(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    record: Record = read_record(folder)  # type: ignore[assignment]
    rows = {(row.model, row.metric): row for row in Results(folder / "results").rows()}
    for model, figures in (("base", record["before"]), ("model", record["after"])):
        for metric in ("tokens_per_character", "masked_accuracy", "span_accuracy", "loss_per_character"):
            row = rows[model, metric]
            assert row.value == figures[metric]  # type: ignore[literal-required]
            assert row.low is not None
            assert row.low <= row.value <= row.high  # type: ignore[operator]
    low, high = record["changes"]["tokens_per_character"]
    ratio = record["after"]["tokens_per_character"] / record["before"]["tokens_per_character"]
    assert low <= ratio - 1 <= high  # type: ignore[operator]
    assert record["after"]["round_trips"] == record["before"]["round_trips"] == 1
    assert record["after"]["parameters"] == sum(
        weight.numel() for weight in load_file(folder / "model.safetensors").values()
    )
    assert (folder / "assets" / "vocabulary.png").is_file()
    assert f"{record['after']['tokens']:,}" in (folder / "report.md").read_text(encoding="utf-8")
    assert not list(folder.parent.glob(".*"))


def test_second_run_writes_the_same_model(trimmed: Path, base: Path, domain: Path, tmp_path: Path) -> None:
    run.trim(TrimOptions(str(base), [str(domain)], tmp_path / "model", share=0.7))
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (trimmed / name).read_bytes()


def test_head_of_a_classifier_is_kept(domain: Path, tmp_path: Path) -> None:
    source = write_model(tmp_path / "classifier", SEQUENCE_CLASSIFICATION)
    (tmp_path / "text.txt").write_text(TEXTS[0], encoding="utf-8")
    run.trim(TrimOptions(str(source), [str(tmp_path / "text.txt")], tmp_path / "out", validation=[str(domain)]))
    text = TEXTS[0]
    outputs = []
    for folder in (source, tmp_path / "out"):
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        outputs.append(model(**AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")).logits)
    assert torch.equal(*outputs)
    record: Record = read_record(tmp_path / "out")  # type: ignore[assignment]
    assert record["after"]["masked_accuracy"] is None


def test_embeddings_of_sentence_transformers_do_not_change(base: Path, domain: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(base), device="cpu").save_pretrained(str(tmp_path / "embedder"))
    out = tmp_path / "out"
    run.trim(TrimOptions(str(tmp_path / "embedder"), [str(domain)], out, min_count=1))
    text = json.loads(domain.read_text(encoding="utf-8").splitlines()[0])["text"][:40]
    before, after = (
        SentenceTransformer(str(path), device="cpu").encode(text) for path in (tmp_path / "embedder", out)
    )
    assert (before == after).all()


def test_padded_vocabulary_stays_padded(base: Path, domain: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base, tmp_path / "padded")
    weights = load_file(source / "model.safetensors")
    size = len(weights[EMBEDDINGS])
    for name in (EMBEDDINGS, BIAS):
        rows = weights[name]
        weights[name] = torch.cat([rows, torch.full((-size % 64, *rows.shape[1:]), -1.0)])
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["vocab_size"] = size + -size % 64
    (source / "config.json").write_text(json.dumps(config))
    run.trim(TrimOptions(str(source), [str(domain)], tmp_path / "out", size=700))
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 700
    assert (
        after[EMBEDDINGS].shape[0] == AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config.vocab_size == 704
    )
    assert (after[EMBEDDINGS][700:] == -1).all()


def test_loss_of_a_uniform_model_is_the_log_of_its_vocabulary(base: Path, trimmed: Path, tmp_path: Path) -> None:
    models = []
    for source in (base, trimmed):
        folder = shutil.copytree(source, tmp_path / str(len(models)))
        weights = {name: torch.zeros_like(weight) for name, weight in load_file(source / "model.safetensors").items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        models.append(EvaluatedModel(ModelName(str(folder))))
    # A character whose repetitions are one token each.
    texts = [40 * piece for piece in models[1].tokenizer.get_vocab() if len(piece) == 1]
    text = next(text for text in texts if all(len(model.tokenizer.tokenize(text)) == 41 for model in models))
    measured, changes = measure(models, [text, text], True, 0, lambda share: None)
    expected = math.log(len(models[1].tokenizer)) / math.log(len(models[0].tokenizer)) - 1
    assert changes["loss_per_character"] == pytest.approx((expected, expected))
    for model, measurements in zip(models, measured, strict=True):
        values = {measurement.metric: measurement.value for measurement in measurements}
        assert values["loss_per_character"] == pytest.approx(math.log(len(model.tokenizer)), rel=1e-5)
        assert values["tokens_per_character"] == pytest.approx(41 / 40)


def test_words_end_where_their_script_ends(base: Path) -> None:
    text = "ーー設定ファイルの例、LilyPond-2.24.1とO_RDONLY、第123章の人々。"
    words = ["設定ファイル", "LilyPond", "O_RDONLY", "人々"]
    vocabulary = Vocabulary.of(AutoTokenizer.from_pretrained(base))
    expected = {*words, "▁LilyPond", "▁O_RDONLY"} - vocabulary.ids.keys()
    assert len(expected) > 3
    assert find_words([[text] * 5], vocabulary, 100) == dict.fromkeys(expected, 5)
    with pytest.raises(UsageError, match="no new terms found"):
        find_words([[text] * 4], vocabulary, 100)


def test_named_terms_are_added(base: Path, domain: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    terms = tmp_path / "terms.txt"
    terms.write_text(f"{NEW}\n\n  LilyPond  \n未出現語\nの\n{NEW}\n", encoding="utf-8")
    with caplog.at_level("INFO", "llm_jp_modernbert"):
        record = run.extend(ExtendOptions(str(base), [str(domain)], tmp_path / "out", terms=terms))
    assert set(record["terms"]) == {NEW, "LilyPond", "未出現語"}
    assert "terms that are tokens already (1): の" in caplog.text
    assert "terms that do not occur in the texts (1): 未出現語" in caplog.text


def test_held_out_text_is_not_counted(base: Path, tmp_path: Path) -> None:
    texts, held_out = tmp_path / "texts.txt", tmp_path / "held-out.txt"
    texts.write_text("今日は晴れ。\n\n明日は雨。\n", encoding="utf-8")
    held_out.write_text("猫が鳴く。\n", encoding="utf-8")
    record = run.trim(TrimOptions(str(base), [str(texts)], tmp_path / "out", validation=[str(held_out)]))
    assert (record["texts"]["documents"], record["held_out"]["documents"]) == (2, 1)
    assert record["held_out"]["characters"] == 5
    assert "猫" not in AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trim", "BASE", "--texts", "DOMAIN", "--out", "BASE"], "--out .* is not empty"),
        (
            ["trim", "BASE", "--texts", "DOMAIN", "--size", "5000"],
            "5,000 tokens cannot stay: the vocabulary has only 900",
        ),
        (
            ["trim", "BASE", "--texts", "DOMAIN", "--size", "300"],
            r"300 tokens are too few: \d+ must stay, which are 265 special",
        ),
        (["trim", "BASE", "--texts", "DOMAIN", "--size", "900"], "all 900 tokens stay. Name a smaller --size"),
        (["trim", "BASE", "--texts", "DOMAIN", "--size", "800", "--share", "0.5"], "--size and --share"),
        (["trim", "BASE", "--texts", "EMPTY"], "empty.txt: no document"),
        (["trim", "BASE", "--texts", "SINGLE"], "--texts holds a single document"),
        (["trim", "BASE", "--texts", "SINGLE", "--validation", "SINGLE"], "all of its documents are held out"),
        (["trim", "BASE", "--texts", "nothing.txt"], "--texts: nothing.txt"),
        (["trim", "nothing/", "--texts", "DOMAIN"], "nothing/: no such directory"),
        (["trim", "BERT", "--texts", "DOMAIN"], "a bert model. Only vocabularies of ModernBERT"),
        (["trim", "OTHER", "--texts", "DOMAIN"], r"has 290 tokens, but .* has a vocabulary of 900"),
        (["extend", "BASE", "--texts", "HIRAGANA"], "no new terms found"),
        (["extend", "BASE", "--texts", "DOMAIN", "--terms", "KNOWN"], "all of its terms are tokens already"),
        (["trim", "BASE", "--texts", ""], "--texts: the name of a file or dataset is empty"),
        (["extend", "BASE", "--texts", "DOMAIN", "--terms", "LONG"], "long.txt, row 2: 257 characters"),
        (["extend", "BASE", "--texts", "DOMAIN", "--terms", "NULL"], r"null.txt, row 1: .* control character '\\x00'"),
        (["extend", "BASE", "--texts", "DOMAIN", "--terms", "EMPTY"], "holds no term"),
        (["extend", "BASE", "--texts", "DOMAIN", "--terms", "nothing.txt"], "nothing.txt: no such file"),
        (["extend", "BASE", "--texts", "DOMAIN", "--terms", "KNOWN", "--new-tokens", "5"], "--terms names"),
    ],
)
def test_bad_input_ends_in_one_line(
    arguments: list[str],
    message: str,
    base: Path,
    bert: Path,
    domain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "EMPTY": "\n",
        "SINGLE": "今日は晴れ。",
        "KNOWN": "の\n",
        "LONG": f"公園\n{'公' * 257}\n",
        "NULL": "公\x00園\n",
        "HIRAGANA": "".join(f"わたしは{number * 'ね'}る。\n\n" for number in range(30)),
    }
    places: dict[str, Path] = {"BASE": base, "BERT": bert, "DOMAIN": domain}
    for name, text in files.items():
        places[name] = tmp_path / f"{name.lower()}.txt"
        places[name].write_text(text, encoding="utf-8")
    if "OTHER" in arguments:
        places["OTHER"] = shutil.copytree(base, tmp_path / "other")
        train_stand_in(["今日は晴れ。"] * 9, 290).save_pretrained(places["OTHER"])
    before = sorted(tmp_path.rglob("*"))
    out = [] if "--out" in arguments else ["--out", "out"]
    values = [str(places.get(argument, argument)) for argument in arguments]
    monkeypatch.setattr("sys.argv", ["llm-jp-modernbert", "vocabulary", *values, *out])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert re.search(message, errors[0]), errors[0]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_nothing(
    number: signal.Signals, base: Path, domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(run, "measure", stop)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run.trim(TrimOptions(str(base), [str(domain)], tmp_path / "out", share=0.7))
    assert list(tmp_path.iterdir()) == []
