"""Readers of the evaluation data: from the Hub, or from a folder with the official files.

Local files are searched for anywhere below the folder, by the names that their publishers use:

* JSQuAD `jsquad-v1.*/valid-v1.*.json`, JaQuAD `jaquad_*.json[.gz]` (SQuAD's JSON);
* MIRACL `topics.miracl-v1.0-ja-*.tsv[.gz]`, `qrels.miracl-v1.0-ja-*.tsv[.gz]` and its passages
  `miracl-corpus-v1.0-ja/docs-*.jsonl[.gz]`;
* BEIR `corpus.jsonl`, `queries.jsonl`, `qrels/*.tsv`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from glob import iglob
from pathlib import Path
from typing import Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import fingerprint
from llm_jp_modernbert.core.hub_errors import explain, is_transient
from llm_jp_modernbert.inference.retrieval.beir import grade_of, read_beir, tabbed_rows, text_rows
from llm_jp_modernbert.inference.retrieval.search import Search
from llm_jp_modernbert.training.finetuning.data.squad import squad

from .options import Data, Options

WIKIPEDIA = ("wikimedia/wikipedia", "20231101.ja")
MIRACL = "miracl/miracl"
MIRACL_CORPUS = "miracl/miracl-corpus"

_MIRACL_PASSAGES = "miracl-corpus-v1.0-ja/docs-*.jsonl*"
_JAQUAD = "jaquad_*.json*"
_JAQUAD_ORIGIN = "JaQuAD (github.com/SkelterLabsInc/JaQuAD)"
_DATA_DIR = "Set --data-dir to a folder that contains it."
# The first articles of Wikipedia are enough for every task.
_MAX_ARTICLES = 20_000


SOURCES = {
    "miracl": _MIRACL_PASSAGES,
    "jsquad": "jsquad-v1.*/valid-v1.*.json",
    "jaquad": _JAQUAD,
    "beir": "queries.jsonl*",
}
"""Retrieval datasets and a pattern of their files; the default is the first one that the data folder contains."""


@dataclass(frozen=True)
class SearchData(Data):
    """A retrieval dataset and its origin; the examples are the ids of the questions."""

    search: Search = field(default_factory=lambda: Search({}, {}, {}), repr=False)


def documents(options: Options) -> Data:
    """Documents of any length: the user's texts, JaQuAD's articles in the data folder, or the Japanese Wikipedia.

    Raises:
        UsageError: none are available.
    """
    if options.texts:
        for path in options.texts:
            if not path.is_file():
                raise UsageError(f"--texts {path}: no such file.")
        texts = [row["text"] for path in options.texts for row in text_rows(path, "text")]
        names = tuple(path.name for path in options.texts)
        return replace(_data("+".join(names), options.texts, "all", texts), text_files=names)
    if options.data_dir is not None:
        files = find(options.data_dir, _JAQUAD, f"{_JAQUAD_ORIGIN}, or set --texts")
        articles = _squad_articles(files)
        return _data("JaQuAD articles", files, "train", ["\n".join(contexts) for contexts in articles.values()])
    rows, revision = hub_rows(WIKIPEDIA[0], WIKIPEDIA[1], "train", _MAX_ARTICLES)
    return Data("/".join(WIKIPEDIA), revision, "train", [row["text"] for row in rows])


def passage_pairs(options: Options, size: int | None = None) -> Data:
    """Pairs of related passages, `(first, second)`; a random sample of at most `size` pairs.

    Like the paper, from MIRACL: the first two relevant passages of each training question that has two or more. If
    the data folder lacks MIRACL's passages, the first two paragraphs of each JaQuAD article.

    Raises:
        UsageError: neither is available.
    """
    if options.data_dir is None or files_below(options.data_dir, _MIRACL_PASSAGES):
        loaded = miracl(options, "train")
        search = loaded.search
        related = [list(relevant)[:2] for relevant in search.relevant.values() if len(relevant) >= 2]
        pairs = [(search.corpus[first], search.corpus[second]) for first, second in related]
        data = Data(loaded.name, loaded.revision, loaded.split, pairs)
    else:
        files = find(options.data_dir, _JAQUAD, f"{_JAQUAD_ORIGIN} or MIRACL's passages")
        paragraphs = [tuple(contexts[:2]) for contexts in _squad_articles(files).values() if len(contexts) > 1]
        data = _data("JaQuAD paragraphs of one article", files, "train", paragraphs)
    return data if size is None else replace(data, examples=sample(data.examples, size, options.seed))


def questions(options: Options, name: str) -> SearchData:
    """A retrieval dataset.

    Args:
        options: where to read from.
        name: a key of `SOURCES`.

    Raises:
        UsageError: the data are missing.
    """
    if name == "miracl":
        return miracl(options, "dev")
    if options.data_dir is None:
        raise UsageError(f"retrieval on {name} reads local files. {_DATA_DIR}")
    if name == "beir":
        return beir(options.data_dir)
    title, origin, split = {
        "jsquad": ("JSQuAD", "JSQuAD (github.com/yahoojapan/JGLUE)", "validation"),
        "jaquad": ("JaQuAD", _JAQUAD_ORIGIN, "train"),
    }[name]
    files = find(options.data_dir, SOURCES[name], origin)
    search = Search({}, {}, {})
    ids: dict[str, str] = {}
    for article in (article for path in files for article in squad(path)):
        for paragraph in article["paragraphs"]:
            # Equal paragraphs are one passage.
            passage = ids.setdefault(paragraph["context"], f"p{len(ids)}")
            search.corpus[passage] = paragraph["context"]
            for question in paragraph["qas"]:
                name = str(question.get("id", f"q{len(search.queries)}"))
                search.queries[name] = question["question"]
                search.relevant[name] = {passage: 1}
    return _search(title, files, split, search)


def beir(folder: Path) -> SearchData:
    """Reads a folder in BEIR's layout; the split is `test`, or the only one available."""
    corpus_file, queries_file = (_single(folder, f"{part}.jsonl*") for part in ("corpus", "queries"))
    tables = sorted((corpus_file.parent / "qrels").glob("*.tsv"))
    tables = [table for table in tables if table.stem == "test"] or tables
    if len(tables) != 1:
        raise UsageError(f"{corpus_file.parent / 'qrels'}: found {len(tables)} tables; expected one test.tsv.")
    search = read_beir(corpus_file, queries_file, tables[0])
    files = [corpus_file, queries_file, tables[0]]
    return _search(corpus_file.parent.name, files, tables[0].stem, search)


def miracl(options: Options, split: str) -> SearchData:
    """Questions, judgements and passages of MIRACL in Japanese.

    `dev` has the passages of the whole corpus, `train` only the relevant ones.
    """
    if options.data_dir is None:
        folder, revision = hub_files(MIRACL, f"miracl-v1.0-ja/*/*miracl-v1.0-ja-{split}.tsv")
        corpus_folder, _ = hub_files(MIRACL_CORPUS, "miracl-corpus-v1.0-ja/*")
    else:
        folder = corpus_folder = options.data_dir
        revision = ""
    wanted = "MIRACL's topics, judgements and passages (huggingface.co/datasets/miracl/miracl and miracl-corpus)"
    topics = _single(folder, f"topics.miracl-v1.0-ja-{split}.tsv*", wanted)
    judgements = _single(folder, f"qrels.miracl-v1.0-ja-{split}.tsv*", wanted)
    passages = find(corpus_folder, _MIRACL_PASSAGES, wanted)
    queries = {query: question for _, (query, question) in tabbed_rows(topics, 2)}
    relevant: dict[str, dict[str, int]] = {}
    for place, (query, _, passage, cell) in tabbed_rows(judgements, 4):
        grade = grade_of(place, cell)
        if grade > 0 and query in queries:
            relevant.setdefault(query, {})[passage] = grade
    needed = {passage for grades in relevant.values() for passage in grades}
    corpus = {
        row["docid"]: f"{row['title']} {row['text']}"
        for path in passages
        for row in text_rows(path, "docid", "title", "text")
        if split == "dev" or row["docid"] in needed
    }
    missing = next((passage for grades in relevant.values() for passage in grades if passage not in corpus), None)
    if missing is not None:
        raise UsageError(
            f"{passages[0].parent}: passage {missing} of {judgements.name} is missing. Get all of {wanted}."
        )
    search = Search(corpus, {query: text for query, text in queries.items() if query in relevant}, relevant)
    if revision:
        return SearchData(MIRACL, revision, split, list(search.queries), search=search)
    return _search("MIRACL-ja", [topics, judgements, *passages], split, search)


def sample(examples: Sequence[Any], size: int, seed: int) -> list[Any]:
    """At most `size` examples, drawn without replacement and kept in order."""
    if len(examples) <= size:
        return list(examples)
    drawn = np.random.default_rng(seed).choice(len(examples), size, replace=False)
    return [examples[index] for index in sorted(drawn.tolist())]


def _squad_articles(files: Iterable[Path]) -> dict[str, list[str]]:
    """Paragraphs of each article by title, from files in SQuAD's JSON layout."""
    articles: dict[str, list[str]] = {}
    for path in files:
        for number, article in enumerate(squad(path)):
            title = article.get("title", f"{path.name} {number}")
            articles.setdefault(title, []).extend(part["context"] for part in article["paragraphs"])
    return articles


def find(folder: Path, pattern: str, what: str = "") -> list[Path]:
    """Like `files_below`; raises a UsageError that names `what` if there is no such file."""
    files = files_below(folder, pattern)
    if not files:
        raise UsageError(f"--data-dir {folder} contains no {pattern}." + (f" Get {what}." if what else ""))
    return files


def files_below(folder: Path, pattern: str) -> list[Path]:
    """Files below a folder that match a glob pattern, sorted.

    Raises:
        UsageError: the folder is missing.
    """
    if not folder.is_dir():
        raise UsageError(f"--data-dir {folder}: no such folder.")
    # Unlike `Path.rglob`, `iglob` follows symbolic links to folders.
    paths = [folder / name for name in iglob(f"**/{pattern}", root_dir=folder, recursive=True)]
    return sorted(path for path in paths if path.is_file())


def _single(folder: Path, pattern: str, what: str = "") -> Path:
    files = find(folder, pattern, what)
    if len(files) > 1:
        raise UsageError(f"--data-dir {folder} contains {len(files)} files {pattern}. Use a folder that has one.")
    return files[0]


def hub_rows(
    repository: str,
    name: str | None,
    split: str,
    limit: int | None,
    revision: str | None = None,
    way_out: str = _DATA_DIR,
) -> tuple[list[dict[str, Any]], str]:
    """Streams rows of a Hub dataset.

    Args:
        repository: `ORG/NAME`.
        name: configuration.
        split: split name.
        limit: maximum number of rows; None for all.
        revision: branch, tag or commit.
        way_out: advice for the error message.

    Returns:
        The rows and the commit.

    Raises:
        UsageError: the dataset cannot be read.
    """
    import datasets
    from huggingface_hub import HfApi

    with _hub_errors(repository, way_out):
        commit = str(HfApi().dataset_info(repository, revision=revision).sha)
        stream = datasets.load_dataset(repository, name, split=split, revision=commit, streaming=True)
        return list(stream if limit is None else stream.take(limit)), commit


def hub_files(repository: str, pattern: str, revision: str | None = None) -> tuple[Path, str]:
    """Downloads the files of a Hub dataset that match a pattern.

    Returns:
        Their folder and the commit.

    Raises:
        UsageError: the download failed.
    """
    from huggingface_hub import snapshot_download

    with _hub_errors(repository, _DATA_DIR):
        folder = Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=pattern))
    return folder, folder.name


@contextmanager
def _hub_errors(repository: str, way_out: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, ValueError, RuntimeError)) and not is_transient(error):
            raise
        reason = explain(error).rstrip(".")
        raise UsageError(f"dataset {repository} cannot be loaded from the Hub ({reason}). {way_out}") from error


def _data(name: str, files: Sequence[Path], split: str, examples: Sequence[Any]) -> Data:
    if not examples:
        raise UsageError(f"{files[0]}: contains no example.")
    return Data(name, fingerprint(files), split, examples)


def _search(name: str, files: Sequence[Path], split: str, search: Search) -> SearchData:
    if not search.queries or not search.corpus:
        raise UsageError(f"{files[0]}: contains no question with a relevant passage.")
    return SearchData(name, fingerprint(files), split, list(search.queries), search=search)
