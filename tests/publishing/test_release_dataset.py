"""Datasets reach the Hub whole or not at all, and come back as they were, to people without this package as well."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import runs
from huggingface_hub import DatasetCard, HfApi
from loopback_hub import LoopbackHub
from transformers import AutoTokenizer

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.hub import Committed, Patience
from llm_jp_modernbert.evaluation.tasks.fill_mask import PROMPTS
from llm_jp_modernbert.model_cards.dataset_card import size_category
from llm_jp_modernbert.publishing.release_dataset import DatasetOptions, release_dataset
from llm_jp_modernbert.training.data.readers import Document, find_files, read_rows
from llm_jp_modernbert.training.data.tokenize_corpus import TokenizeOptions, tokenize_corpus

CORPUS, TEST = "org/corpus", "org/fill-mask"

# Run without this package: `-I` leaves the working directory and PYTHONPATH out.
PLAIN = """
import json, sys
from datasets import load_dataset
corpus = load_dataset("org/corpus", split="train", streaming=True)
prompts = load_dataset("org/fill-mask", split="test", streaming=True)
json.dump({"corpus": list(corpus), "prompts": list(prompts), "columns": corpus.column_names,
           "answers": repr(prompts.features["answers"]), "whole": len(load_dataset("org/corpus", split="train")),
           "ours": [name for name in sys.modules if name.startswith("llm_jp_modernbert")]}, sys.stdout)
"""

TRAINING = """
import hashlib, json, sys
from pathlib import Path
from llm_jp_modernbert.evaluation.tasks.fill_mask import FillMask
from llm_jp_modernbert.evaluation.tasks.task import Options
from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.training.data.blocks import BlockMaker, BlockSettings
from llm_jp_modernbert.training.data.sources import check_tokenized_with, read_held_out, sources_of
from llm_jp_modernbert.training.data.masking import Masking
from llm_jp_modernbert.training.data.stream import BatchStream

local, tokenizer, other = sys.argv[1:]
tokenizer, other = load_tokenizer(tokenizer), load_tokenizer(other)
settings = BlockSettings(64, characters=800)

def digests(data):
    sources = sources_of(data, "text")
    check_tokenized_with(sources, tokenizer)
    masking = Masking(tokenizer.mask_token_id, len(tokenizer), tokenizer.all_special_ids)
    batches = BatchStream(BlockMaker(sources, settings, tokenizer), masking, lambda step: 4).batches()
    found = [next(batches) for _ in range(60)]
    return [hashlib.sha256(b["input_ids"].numpy().tobytes() + b["labels"].numpy().tobytes()).hexdigest()
            for b in found]

def refused(call):
    try:
        call()
    except ValueError as error:
        return str(error)

prompts = FillMask.for_options(Options(prompts=Path("org/fill-mask"))).load()
json.dump({
    "local": digests(local),
    "hub": digests("org/corpus"),
    "revision": digests("org/corpus@main"),
    "train": refused(lambda: check_tokenized_with(sources_of("org/corpus", "text"), other)),
    "held out": refused(lambda: read_held_out("org/corpus", "text", settings, other, 100)),
    "prompts": [[p.id, p.category, p.text, list(p.answers)] for p in prompts.examples],
    "named": [prompts.name, prompts.revision, prompts.split],
    "no prompts": refused(lambda: FillMask.for_options(Options(prompts=Path("org/corpus"))).load()),
    "nowhere": refused(lambda: FillMask.for_options(Options(prompts=Path("org/nowhere"))).load()),
}, sys.stdout)
"""


@dataclass
class World:
    """A Hub with two datasets, and what they were made of."""

    hub: LoopbackHub
    folder: Path
    texts: Path
    tokenizer: Path
    corpus: Path
    first: str = ""

    def release(self, source: Path | str, repository: str, **options: Any) -> Committed | None:
        client = HfApi(endpoint=self.hub.url, token=self.hub.token)
        patience = Patience(lambda line: None, waits=(0.01, 0.01))
        return release_dataset(DatasetOptions(str(source), repository, **options), patience, client)

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        commit = self.hub.repositories["dataset", repository].find(revision)
        assert commit is not None
        return {path: self.hub.read(repository, path, revision, "dataset") for path in commit.files}

    def python(self, script: str, *arguments: str) -> Any:
        environment = {**os.environ, **self.hub.environment(self.folder / "home")}
        command = [sys.executable, "-I", "-c", script, *arguments]
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)


def tokenized(texts: Path, tokenizer: Path, out: Path, **changes: Any) -> Path:
    options = TokenizeOptions((str(texts),), str(tokenizer), out, shard_tokens=300)
    tokenize_corpus(replace(options, **changes))
    return out


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    texts = runs.write_corpus(folder / "texts")
    tokenizer = runs.write_tokenizer(folder / "tokenizer", texts)
    with (texts / "2.jsonl").open("a", encoding="utf-8") as file:
        file.write('no JSON\n{"text": " "}\n')
    with pytest.MonkeyPatch.context() as patch, LoopbackHub(folder / "hub") as hub:
        # The client of this process was told to stay offline.
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        made = World(hub, folder, texts, tokenizer, tokenized(texts, tokenizer, folder / "tokenized"))
        first = made.release(made.corpus, CORPUS, license="cc-by-sa-4.0")
        assert first is not None
        made.first = first.info.oid
        made.release("fill-mask", TEST)
        yield made


def test_rows_come_back_without_this_package(world: World) -> None:
    found = world.python(PLAIN)
    rows = [row for path in find_files([str(world.texts)]) for row in read_rows(path)]
    documents = [row for row in rows if isinstance(row, Document)]
    ids = AutoTokenizer.from_pretrained(world.tokenizer)([one.text for one in documents], add_special_tokens=False)
    assert found["corpus"] == [
        {"input_ids": row, "characters": len(one.text), "row": one.row}
        for row, one in zip(ids["input_ids"], documents, strict=True)
    ]
    assert found["columns"] == ["input_ids", "characters", "row"]
    assert found["whole"] == len(documents)
    assert found["prompts"] == [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    assert found["answers"] == "List(Value('string'))"
    assert found["ours"] == []


def test_training_and_measuring_read_the_same(world: World, tmp_path: Path) -> None:
    other = runs.write_tokenizer(tmp_path / "other", runs.write_corpus(tmp_path / "texts", documents=9))
    found = world.python(TRAINING, str(world.corpus), str(world.tokenizer), str(other))
    assert found["hub"] == found["local"] == found["revision"]
    assert len(set(found["local"])) == 60
    for part in ("train", "held out"):
        assert found[part].startswith(
            "org/corpus was tokenized with tokenizer, not with the tokenizer of this run. Download"
        )
        assert "hf download org/corpus --repo-type dataset --include 'tokenizer/*'" in found[part]
        assert "\n" not in found[part]
    expected = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    assert found["prompts"] == [[row["id"], row["category"], row["text"], row["answers"]] for row in expected]
    assert found["named"] == [TEST, world.hub.repositories["dataset", TEST].branches["main"], "test"]
    for part in ("no prompts", "nowhere"):
        assert "cannot be had from the Hub" in found[part]
        assert found[part].endswith("Name a file of prompts by --prompts.")
        assert "\n" not in found[part]


def test_all_of_it_in_one_commit_and_no_place_of_this_machine(world: World) -> None:
    repository = world.hub.repositories["dataset", CORPUS]
    first = repository.find(world.first)
    assert first is not None
    assert [commit.title for commit in repository.history(first)] == ["Tokenised corpus", "initial commit"]
    files = world.files(CORPUS, first.oid)
    shards = {f"data/{path.name}": path.read_bytes() for path in (world.corpus / "data").iterdir()}
    tokenizer = {f"tokenizer/{path.name}": path.read_bytes() for path in (world.corpus / "tokenizer").iterdir()}
    assert files.keys() == {*shards, *tokenizer, "README.md", "manifest.json", ".gitattributes"}
    assert len(shards) > 3
    assert shards.items() | tokenizer.items() <= files.items()
    for content in [*files.values(), *world.files(TEST).values()]:
        for place in (world.folder, Path.home(), Path(sys.prefix), Path(__file__).parents[2]):
            assert str(place).encode() not in content
    manifest = json.loads((world.corpus / "manifest.json").read_text())
    sent = json.loads(files["manifest.json"])
    assert {**sent, "sources": None} == {**manifest, "sources": None}
    assert [source["path"] for source in sent["sources"]] == ["0.jsonl", "1.jsonl", "2.jsonl"]
    assert sent["sources"][2]["problems"][0].startswith("2.jsonl, row 41: not JSON")


def test_cards_say_what_is_there(world: World) -> None:
    totals = json.loads((world.corpus / "manifest.json").read_text())["totals"]
    card = DatasetCard(world.files(CORPUS)["README.md"].decode())
    assert (card.data.license, card.data.language, card.data.size_categories) == ("cc-by-sa-4.0", ["ja"], ["n<1K"])
    assert card.data.dataset_info["splits"][0]["num_examples"] == totals["documents"] == 120
    for name in ("documents", "tokens", "characters"):
        assert f"| {name} | {totals[name]:,} |" in card.text
    assert "| skipped rows | 1 blank, 1 broken |" in card.text
    assert "train_data=org/corpus tokenizer=corpus/tokenizer" in card.text
    prompts = DatasetCard(world.files(TEST)["README.md"].decode())
    rows = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    assert prompts.data.license == "apache-2.0"
    for category in {row["category"] for row in rows}:
        answers = [len(row["answers"]) for row in rows if row["category"] == category]
        assert f"| {category} | {len(answers)} | {sum(answers)} | " in prompts.text
    assert world.files(TEST)["LICENSE"].decode().strip().startswith("Apache License")


def test_unchanged_is_no_commit_and_less_is_less(world: World, tmp_path: Path) -> None:
    before = len(world.hub.repositories["dataset", CORPUS].commits)
    # Made once more, from the same texts.
    again = tokenized(world.texts, world.tokenizer, tmp_path / "again")
    made = world.release(again, CORPUS, license="cc-by-sa-4.0")
    assert made is not None
    assert (made.is_new, made.info.oid) == (False, world.first)
    assert len(world.hub.repositories["dataset", CORPUS].commits) == before

    smaller = tokenized(world.texts / "0.jsonl", world.tokenizer, tmp_path / "smaller", shard_tokens=10**6)
    made = world.release(smaller, CORPUS, revision="smaller")
    assert made is not None
    assert made.is_new
    assert [path for path in world.files(CORPUS, "smaller") if path.startswith("data/")] == [
        "data/00000-0-00000.arrow"
    ]
    assert 'revision="smaller"' in world.files(CORPUS, "smaller")["README.md"].decode()
    assert world.hub.repositories["dataset", CORPUS].branches["main"] == world.first


def test_a_dry_run_sends_nothing_and_takes_no_room(world: World, tmp_path: Path) -> None:
    asked = len(world.hub.log)
    assert world.release(world.corpus, "org/dry", dry_run=tmp_path / "new" / "dry") is None
    assert len(world.hub.log) == asked
    # What was staged is a tokenised corpus.
    shards = find_files([str(tmp_path / "new" / "dry")])
    assert [Path(shard).name for shard in shards] == [path.name for path in sorted((world.corpus / "data").iterdir())]
    assert all(Path(shard).samefile(world.corpus / "data" / Path(shard).name) for shard in shards)
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "dry"]
    with pytest.raises(UsageError, match="is not empty"):
        world.release(world.corpus, "org/dry", dry_run=tmp_path / "new" / "dry")


def test_own_prompts_by_the_command_private_from_the_first_request(world: World, tmp_path: Path) -> None:
    rows = [{"text": "空が[MASK]い。", "answers": ["青", "あお"]}, {"text": "|<b>[MASK]", "note": "left out"}]
    source = tmp_path / "own.jsonl"
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    world.hub.fail("POST", "/commit/", 503, times=1)
    command = [sys.executable, "-m", "llm_jp_modernbert", "release-dataset", str(source), "--repo", "org/own"]
    environment = {**os.environ, **world.hub.environment(tmp_path / "home")}
    run = subprocess.run([*command, "--private"], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    repository = world.hub.repositories["dataset", "org/own"]
    assert run.stdout.splitlines()[-1] == f"org/own@main: commit {repository.branches['main']}"
    assert repository.visibilities == ["private"]
    assert [json.loads(line) for line in world.files("org/own")["data/prompts.jsonl"].splitlines()] == [
        {"id": "prompt-001", "category": "all", "text": "空が[MASK]い。", "answers": ["青", "あお"]},
        {"id": "prompt-002", "category": "all", "text": "|<b>[MASK]", "answers": []},
    ]
    assert world.hub.token not in run.stdout + run.stderr


def test_a_hub_that_fails_is_one_line_and_changes_nothing(world: World) -> None:
    main = world.hub.repositories["dataset", TEST].branches["main"]
    fault = world.hub.fail("POST", "/commit/", 500, times=None)
    with pytest.raises(UsageError, match=rf"^{TEST}: the Hub answers 500\. Run the same command again.*$"):
        world.release("fill-mask", TEST, license="cc0-1.0")
    world.hub.mend()
    assert fault.happened == 3
    assert world.hub.repositories["dataset", TEST].branches == {"main": main}
    with pytest.raises(UsageError, match=rf"^{TEST} is public, and --private was asked for\."):
        world.release("fill-mask", TEST, private=True)


def change_total(corpus: Path) -> None:
    path = corpus / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["totals"]["tokens"] += 1
    path.write_text(json.dumps(manifest))


def cut(corpus: Path) -> None:
    shard = max((corpus / "data").iterdir(), key=lambda path: path.stat().st_size)
    content = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(content[: len(content) // 2])


def change_tokenizer(corpus: Path) -> None:
    path = corpus / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary[-1], vocabulary[-2] = vocabulary[-2], vocabulary[-1]
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda corpus: (corpus / "manifest.json").unlink(), "is not finished.*goes on from there"),
        (lambda corpus: shutil.rmtree(corpus / "data") or (corpus / "manifest.json").unlink(), "no tokenised corpus"),
        (lambda corpus: next((corpus / "data").iterdir()).unlink(), "is listed, but not there"),
        (lambda corpus: (corpus / "data" / "more.arrow").touch(), "more.arrow: is there, but not listed"),
        (lambda corpus: (corpus / "manifest.json").write_text("{}"), "not what tokenize-corpus writes"),
        (change_tokenizer, "not the tokenizer that manifest.json names"),
        (change_total, r"its items are \{'input_ids': \d+\}, and should be"),
        (cut, "datasets alone cannot stream it|and should be"),
    ],
)
def test_what_is_not_whole_is_not_sent(world: World, tmp_path: Path, damage: Callable[[Path], Any], said: str) -> None:
    corpus = Path(shutil.copytree(world.corpus, tmp_path / "corpus"))
    damage(corpus)
    asked = len(world.hub.log)
    with pytest.raises(UsageError, match=said) as caught:
        world.release(corpus, "org/damaged")
    assert "\n" not in str(caught.value)
    assert str(corpus) in str(caught.value)
    assert len(world.hub.log) == asked


def test_names_that_are_none(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--repo name: write ORG/NAME"):
        world.release("fill-mask", "name")
    with pytest.raises(UsageError, match="no such folder or file"):
        world.release(tmp_path / "nothing", "org/name")


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (10**7 - 1, "1M<n<10M"),
        (10**12 - 1, "100B<n<1T"),
        (10**12, "n>1T"),
    ],
)
def test_size_categories_are_the_hubs(rows: int, name: str) -> None:
    assert size_category(rows) == name
