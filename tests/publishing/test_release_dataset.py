"""Dataset releases are complete or absent, and load unchanged with and without this package."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import runs
from huggingface_hub import DatasetCard, HfApi
from loopback_hub import LoopbackHub
from transformers import AutoTokenizer
from warm_process import WarmProcess

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import lock
from llm_jp_modernbert.core.hub import Committed, Patience
from llm_jp_modernbert.evaluation.tasks.fill_mask import PROMPTS
from llm_jp_modernbert.model_cards.dataset_card import size_category
from llm_jp_modernbert.publishing.options import DatasetOptions
from llm_jp_modernbert.publishing.release_dataset import release_dataset
from llm_jp_modernbert.training.data.readers import Document, find_files, read_rows
from llm_jp_modernbert.training.data.tokenize_corpus import TokenizeOptions, tokenize_corpus

CORPUS, TEST = "org/corpus", "org/fill-mask"

# Runs without this package: `-I` ignores the working directory and PYTHONPATH.
PLAIN = """
import json, sys
from datasets import load_dataset
corpus = load_dataset("org/corpus", split="train", streaming=True)
prompts = load_dataset("org/fill-mask", split="test", streaming=True)
json.dump({"corpus": list(corpus), "prompts": list(prompts), "columns": corpus.column_names,
           "answers": repr(prompts.features["answers"]), "rows": len(load_dataset("org/corpus", split="train")),
           "ours": [name for name in sys.modules if name.startswith("llm_jp_modernbert")]}, sys.stdout)
"""

TRAINING = """
import hashlib, json, sys
from pathlib import Path
from llm_jp_modernbert.evaluation.tasks.fill_mask import FillMask
from llm_jp_modernbert.evaluation.data.options import Options
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
    first = [next(batches) for _ in range(60)]
    return [hashlib.sha256(b["input_ids"].numpy().tobytes() + b["labels"].numpy().tobytes()).hexdigest()
            for b in first]

def error_of(call):
    try:
        call()
    except ValueError as error:
        return str(error)

prompts = FillMask.for_options(Options(prompts=Path("org/fill-mask"))).load()
json.dump({
    "local": digests(local),
    "hub": digests("org/corpus"),
    "revision": digests("org/corpus@main"),
    "train": error_of(lambda: check_tokenized_with(sources_of("org/corpus", "text"), other)),
    "held out": error_of(lambda: read_held_out("org/corpus", "text", settings, other, 100)),
    "prompts": [[p.id, p.category, p.text, list(p.answers)] for p in prompts.examples],
    "named": [prompts.name, prompts.revision, prompts.split],
    "no prompts": error_of(lambda: FillMask.for_options(Options(prompts=Path("org/corpus"))).load()),
    "missing": error_of(lambda: FillMask.for_options(Options(prompts=Path("org/missing"))).load()),
}, sys.stdout)
"""


@dataclass
class World:
    """A Hub with a corpus and a prompt dataset, and their sources."""

    hub: LoopbackHub
    folder: Path
    texts: Path
    tokenizer: Path
    corpus: Path
    process: WarmProcess
    first_commit: str = ""

    def release(self, source: Path | str, repository: str, **options: Any) -> Committed | None:
        client = HfApi(endpoint=self.hub.url, token=self.hub.token)
        patience = Patience(waits=(0.01, 0.01))
        return release_dataset(DatasetOptions(str(source), repository, **options), patience, client)

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        commit = self.hub.repositories["dataset", repository].find(revision)
        assert commit is not None
        return {path: self.hub.read(repository, path, revision, "dataset") for path in commit.files}

    def python(self, script: str, *arguments: str) -> Any:
        run = self.process.run([sys.executable, "-I", "-c", script, *arguments])
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)


def tokenized(texts: Path, tokenizer: Path, out: Path, **changes: Any) -> Path:
    options = TokenizeOptions((str(texts),), str(tokenizer), str(out), shard_tokens=300)
    tokenize_corpus(replace(options, **changes))
    return out


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, warm_process: WarmProcess) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    texts = runs.write_corpus(folder / "texts")
    tokenizer = runs.write_tokenizer(folder / "tokenizer", texts)
    with (texts / "2.jsonl").open("a", encoding="utf-8") as file:
        file.write('not JSON\n{"text": " "}\n')
    with (
        pytest.MonkeyPatch.context() as patch,
        LoopbackHub(folder / "hub") as hub,
        WarmProcess("import datasets", {**os.environ, **hub.environment(folder / "home")}) as process,
    ):
        # The tests run offline; this Hub is local.
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        patch.setattr("llm_jp_modernbert.core.clean_process.subprocess", warm_process)
        world = World(hub, folder, texts, tokenizer, tokenized(texts, tokenizer, folder / "tokenized"), process)
        first = world.release(world.corpus, CORPUS, license="cc-by-sa-4.0")
        assert first is not None
        world.first_commit = first.info.oid
        world.release("fill-mask", TEST)
        yield world


def test_datasets_load_without_this_package(world: World) -> None:
    loaded = world.python(PLAIN)
    rows = [row for path in find_files([str(world.texts)]) for row in read_rows(path)]
    documents = [row for row in rows if isinstance(row, Document)]
    texts = [document.text for document in documents]
    ids = AutoTokenizer.from_pretrained(world.tokenizer)(texts, add_special_tokens=False)
    assert loaded["corpus"] == [
        {"input_ids": row, "characters": len(document.text), "row": document.row}
        for row, document in zip(ids["input_ids"], documents, strict=True)
    ]
    assert loaded["columns"] == ["input_ids", "characters", "row"]
    assert loaded["rows"] == len(documents)
    assert loaded["prompts"] == [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    assert loaded["answers"] == "List(Value('string'))"
    assert loaded["ours"] == []


def test_training_and_evaluation_read_the_released_data(world: World, tmp_path: Path) -> None:
    other = runs.write_tokenizer(tmp_path / "other", runs.write_corpus(tmp_path / "texts", documents=9))
    outputs = world.python(TRAINING, str(world.corpus), str(world.tokenizer), str(other))
    assert outputs["hub"] == outputs["local"] == outputs["revision"]
    assert len(set(outputs["local"])) == 60
    for part in ("train", "held out"):
        assert outputs[part].startswith(
            "org/corpus was tokenized with tokenizer, not with the tokenizer of this run. Download"
        )
        assert "hf download org/corpus --repo-type dataset --include 'tokenizer/*'" in outputs[part]
        assert "\n" not in outputs[part]
    expected = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    assert outputs["prompts"] == [[row["id"], row["category"], row["text"], row["answers"]] for row in expected]
    assert outputs["named"] == [TEST, world.hub.repositories["dataset", TEST].branches["main"], "test"]
    for part in ("no prompts", "missing"):
        assert "cannot be loaded from the Hub" in outputs[part]
        assert outputs[part].endswith("Set --prompts to a file of prompts.")
        assert "\n" not in outputs[part]


def test_release_is_one_commit_without_local_paths(world: World) -> None:
    repository = world.hub.repositories["dataset", CORPUS]
    first = repository.find(world.first_commit)
    assert first is not None
    assert [commit.title for commit in repository.history(first)] == ["Tokenized corpus", "initial commit"]
    files = world.files(CORPUS, first.oid)
    shards = {f"data/{path.name}": path.read_bytes() for path in (world.corpus / "data").iterdir()}
    tokenizer = {f"tokenizer/{path.name}": path.read_bytes() for path in (world.corpus / "tokenizer").iterdir()}
    assert files.keys() == {*shards, *tokenizer, "README.md", "manifest.json", ".gitattributes"}
    assert len(shards) > 3
    assert shards.items() | tokenizer.items() <= files.items()
    for content in [*files.values(), *world.files(TEST).values()]:
        for path in (world.folder, Path.home(), Path(sys.prefix), Path(__file__).parents[2]):
            assert str(path).encode() not in content
    manifest = json.loads((world.corpus / "manifest.json").read_text())
    released = json.loads(files["manifest.json"])
    assert {**released, "sources": None} == {**manifest, "sources": None}
    assert [source["path"] for source in released["sources"]] == ["0.jsonl", "1.jsonl", "2.jsonl"]
    assert released["sources"][2]["problems"][0].startswith("2.jsonl, row 41: not JSON")


def test_cards_describe_the_contents(world: World) -> None:
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


def test_unchanged_corpus_makes_no_commit_and_removed_shards_are_deleted(world: World, tmp_path: Path) -> None:
    before = len(world.hub.repositories["dataset", CORPUS].commits)
    again = tokenized(world.texts, world.tokenizer, tmp_path / "again")
    committed = world.release(again, CORPUS, license="cc-by-sa-4.0")
    assert committed is not None
    assert (committed.is_new, committed.info.oid) == (False, world.first_commit)
    assert len(world.hub.repositories["dataset", CORPUS].commits) == before

    smaller = tokenized(world.texts / "0.jsonl", world.tokenizer, tmp_path / "smaller", shard_tokens=10**6)
    committed = world.release(smaller, CORPUS, revision="smaller")
    assert committed is not None
    assert committed.is_new
    assert [path for path in world.files(CORPUS, "smaller") if path.startswith("data/")] == [
        "data/00000-0-00000.arrow"
    ]
    assert 'revision="smaller"' in world.files(CORPUS, "smaller")["README.md"].decode()
    assert world.hub.repositories["dataset", CORPUS].branches["main"] == world.first_commit


def test_dry_run_uploads_nothing_and_links_shards(world: World, tmp_path: Path) -> None:
    requests = len(world.hub.log)
    assert world.release(world.corpus, "org/dry", dry_run=tmp_path / "new" / "dry") is None
    assert len(world.hub.log) == requests
    # The staged directory is a tokenized corpus.
    shards = find_files([str(tmp_path / "new" / "dry")])
    assert [Path(shard).name for shard in shards] == [path.name for path in sorted((world.corpus / "data").iterdir())]
    assert all(Path(shard).samefile(world.corpus / "data" / Path(shard).name) for shard in shards)
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "dry"]
    with pytest.raises(UsageError, match="is not empty"):
        world.release(world.corpus, "org/dry", dry_run=tmp_path / "new" / "dry")


def test_command_releases_own_prompts_privately(world: World, tmp_path: Path) -> None:
    rows = [{"text": "空が[MASK]い。", "answers": ["青", "あお"]}, {"text": "|<b>[MASK]", "note": "ignored"}]
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


def test_code_in_the_cards_runs(world: World) -> None:
    for repository, column in ((CORPUS, "input_ids"), (TEST, "answers")):
        text = world.files(repository)["README.md"].decode()
        (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        row = world.python(block.rstrip().replace("print(", "import json; print(json.dumps(") + ")")
        assert row[column]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"license": "my-own"}, "license 'my-own'"), ({"languages": ["jp"]}, "language 'jp'")],
)
def test_metadata_that_the_hub_rejects_are_reported(
    world: World, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        world.release("fill-mask", TEST, dry_run=tmp_path / "staged", **options)


def test_failing_hub_is_one_line_and_changes_nothing(world: World) -> None:
    main = world.hub.repositories["dataset", TEST].branches["main"]
    fault = world.hub.fail("POST", "/commit/", 500, times=None)
    with pytest.raises(UsageError, match=rf"^{TEST}: the Hub answers 500\. Run the same command again.*$"):
        world.release("fill-mask", TEST, license="cc0-1.0")
    world.hub.mend()
    assert fault.happened == 3
    assert world.hub.repositories["dataset", TEST].branches == {"main": main}
    with pytest.raises(UsageError, match=rf"^{TEST} is public, but --private is set\."):
        world.release("fill-mask", TEST, private=True)


def change_total(corpus: Path) -> None:
    path = corpus / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["totals"]["tokens"] += 1
    path.write_text(json.dumps(manifest))


def mistype_shard(corpus: Path) -> None:
    path = corpus / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["sources"][0]["shards"][0]["file"] = ["a"]
    path.write_text(json.dumps(manifest))


def truncate_shard(corpus: Path) -> None:
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
    ("damage", "message"),
    [
        (lambda corpus: (corpus / "manifest.json").unlink(), "unfinished tokenized corpus.*again to resume"),
        (
            lambda corpus: shutil.rmtree(corpus / "data") or (corpus / "manifest.json").unlink(),
            "so it is not a corpus",
        ),
        (lambda corpus: next((corpus / "data").iterdir()).unlink(), "is missing, but listed"),
        (lambda corpus: (corpus / "data" / "more.arrow").touch(), "more.arrow: exists, but is not listed"),
        (lambda corpus: (corpus / "manifest.json").write_text("{}"), "not a manifest of tokenize-corpus"),
        (lambda corpus: (corpus / "manifest.json").write_text("[" * 100_000), "not a manifest of tokenize-corpus"),
        (mistype_shard, r"manifest\.json: sources\.0\.shards\.0\.file: Input should be a valid string"),
        (change_tokenizer, "differs from the tokenizer in manifest.json"),
        (change_total, r"streaming gives items \{'input_ids': \d+\}, expected"),
        (truncate_shard, "datasets alone cannot stream it|, expected"),
    ],
)
def test_damaged_corpus_is_not_released(
    world: World, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    corpus = Path(shutil.copytree(world.corpus, tmp_path / "corpus"))
    damage(corpus)
    requests = len(world.hub.log)
    with pytest.raises(UsageError, match=message) as caught:
        world.release(corpus, "org/damaged")
    assert "\n" not in str(caught.value)
    assert str(corpus) in str(caught.value)
    assert len(world.hub.log) == requests


def test_invalid_names_are_reported(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--repo name: write ORG/NAME"):
        world.release("fill-mask", "name")
    with pytest.raises(UsageError, match="no such file or directory"):
        world.release(tmp_path / "missing", "org/name")


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
def test_size_categories_equal_those_of_the_hub(rows: int, name: str) -> None:
    assert size_category(rows) == name


@pytest.mark.parametrize("unknown", [-1, 10**6])
def test_token_id_outside_the_vocabulary_is_not_released(world: World, tmp_path: Path, unknown: int) -> None:
    corpus = Path(shutil.copytree(world.corpus, tmp_path / "corpus"))
    shard = min((corpus / "data").iterdir())
    with pyarrow.ipc.open_stream(shard.read_bytes()) as reader:
        table = reader.read_all()
    ids = table["input_ids"].to_pylist()
    ids[1][0] = unknown
    column = pyarrow.array(ids, pyarrow.list_(pyarrow.int32()))
    with pyarrow.ipc.new_stream(str(shard), table.schema) as writer:
        writer.write_table(table.set_column(0, "input_ids", column))
    with pytest.raises(UsageError, match=rf"^{corpus}: contains token id {unknown:,}, but its tokenizer has"):
        world.release(corpus, "org/unknown")


def test_second_process_that_stages_a_directory_is_refused(world: World, tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    with (
        lock(staged, "release-dataset"),
        pytest.raises(UsageError, match=rf"^{staged}: another release-dataset is writing it"),
    ):
        world.release("fill-mask", TEST, dry_run=staged)
    assert not staged.exists()
    world.release("fill-mask", TEST, dry_run=staged)
    assert (staged / "README.md").is_file()


def test_language_is_stated_only_if_it_is_known(world: World, tmp_path: Path) -> None:
    texts = tmp_path / "english.jsonl"
    texts.write_text('{"text": "a cat sleeps"}\n', encoding="utf-8")
    corpus = tokenized(texts, world.tokenizer, tmp_path / "corpus")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"text": "The sky is [MASK]."}\n', encoding="utf-8")
    for source in (corpus, prompts):
        for given, languages in (([], None), (["en"], ["en"])):
            staged = tmp_path / f"{source.name}-{len(given)}"
            world.release(source, "org/english", dry_run=staged, languages=given)
            assert DatasetCard.load(staged / "README.md").data.language == languages


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of prepare-corpus; of its 40 documents, one is too short and one is a duplicate."""
    pytest.importorskip("datatrove", reason="datatrove is not installed")
    from corpora import sentences, write

    from llm_jp_modernbert.training.corpora.prepare import prepare_corpus
    from llm_jp_modernbert.training.corpora.recipe import load_recipe

    folder = tmp_path_factory.mktemp("prepared")
    write(folder / "pages" / "a.jsonl", [*(sentences(seed) for seed in range(38)), "秘密の短文", sentences(3)])
    write(folder / "evaluation.txt", [sentences(99)])
    overrides = [f"data={folder / 'pages'}", f"output_dir={folder / 'corpus'}", "validation_share=0.3"]
    prepare_corpus(load_recipe("japanese-web", [*overrides, f"decontamination.texts=[{folder / 'evaluation.txt'}]"]))
    return folder / "corpus"


def test_prepared_corpus_loads_with_both_splits(world: World, prepared: Path) -> None:
    world.release(prepared, "org/texts", license="cc-by-sa-4.0")
    files = world.files("org/texts")
    local = {path.relative_to(prepared).as_posix() for path in prepared.glob("*/*.parquet")}
    assert files.keys() == {*local, "README.md", "manifest.json", ".gitattributes"}
    for content in files.values():
        assert str(prepared.parent).encode() not in content
        assert "秘密の短文".encode() not in content
    card = DatasetCard(files["README.md"].decode())
    assert card.data.language == ["ja"]
    splits = {split["name"]: split["num_examples"] for split in card.data.dataset_info["splits"]}
    assert sum(splits.values()) == 38
    assert "Of 40 documents, 2 were removed" in card.text
    assert re.search(r"^\| characters \| ≥ .* \| 1 \| 2\.50 % \| 5 \|$", card.text, re.MULTILINE)
    assert re.search(r"^\| exact duplicates \| +\| 1 \| 2\.50 % \|", card.text, re.MULTILINE)
    assert "80% of the 13-grams of a sentence of evaluation.txt" in card.text
    (program,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    row = world.python(program.rstrip().replace("print(", "import json; print(json.dumps(") + ")")
    assert row.keys() == {"id", "source", "text"}
    script = """
import json, sys
from datasets import load_dataset
json.dump({name: len(split) for name, split in load_dataset("org/texts").items()}, sys.stdout)
"""
    assert world.python(script) == splits


def test_training_on_a_prepared_corpus_names_a_split(prepared: Path) -> None:
    assert find_files([str(prepared / "train")]) == [str(path) for path in sorted(prepared.glob("train/*.parquet"))]
    with pytest.raises(ValueError, match=f"{prepared}: a prepared corpus with several splits. Name {prepared}/train"):
        find_files([str(prepared)])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing, but listed in manifest.json. Prepare the corpus again."),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "differs from manifest.json"),
        (lambda path: shutil.copy(path, path.with_name("x.parquet")), "exists, but is not listed"),
        (lambda path: (path.parent.parent / "report.json").unlink(), "is not a manifest of tokenize-corpus"),
        (lambda path: (path.parent.parent / "manifest.json").unlink(), "manifest.json: cannot be read"),
    ],
)
def test_damaged_prepared_corpus_is_not_released(
    world: World, prepared: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    corpus = Path(shutil.copytree(prepared, tmp_path / "corpus"))
    damage(min(corpus.glob("train/*.parquet")))
    with pytest.raises(UsageError, match=message) as caught:
        world.release(corpus, "org/damaged")
    assert "\n" not in str(caught.value)
    assert str(corpus) in str(caught.value)


def test_tokens_and_files_from_elsewhere_are_not_published(world: World, tmp_path: Path) -> None:
    secret = "hf_" + "aB3" * 12
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"text": f"[MASK] {secret}"}) + "\n", encoding="utf-8")
    with pytest.raises(UsageError, match="contains an access token") as caught:
        world.release(prompts, "org/secret", dry_run=tmp_path / "staged")
    assert secret not in str(caught.value)
    corpus = Path(shutil.copytree(world.corpus, tmp_path / "corpus"))
    (tmp_path / "private.txt").write_text("private")
    (corpus / "tokenizer" / "notes.txt").symlink_to(tmp_path / "private.txt")
    with pytest.raises(UsageError, match=r"notes\.txt: a symbolic link to a file outside"):
        world.release(corpus, "org/secret", dry_run=tmp_path / "staged")
    assert not (tmp_path / "staged").exists()
