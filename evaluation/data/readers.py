"""The data of the evaluations: from the Hub, or from a folder that holds them in their official layout.

Local files are looked for anywhere below the folder, by the names that their publishers give them:

* JSQuAD `jsquad-v1.*/valid-v1.*.json`, JaQuAD `jaquad_*.json[.gz]` (SQuAD's JSON);
* MIRACL `topics.miracl-v1.0-ja-*.tsv[.gz]`, `qrels.miracl-v1.0-ja-*.tsv[.gz]` and its passages
  `miracl-corpus-v1.0-ja/docs-*.jsonl[.gz]`;
* BEIR `corpus.jsonl`, `queries.jsonl`, `qrels/*.tsv`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from glob import iglob
from pathlib import Path
from typing import Any

import numpy as np

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.hub_errors import explain, is_transient

from ..tasks.task import Data, Options

WIKIPEDIA = ("wikimedia/wikipedia", "20231101.ja")
MIRACL = "miracl/miracl"
MIRACL_CORPUS = "miracl/miracl-corpus"

_JAQUAD = "jaquad_*.json*"
_MIRACL_PASSAGES = "miracl-corpus-v1.0-ja/docs-*.jsonl*"
_JSQUAD = "jsquad-v1.*/valid-v1.*.json"
_DATA_DIR = "Name a folder that holds it by --data-dir."
# Wikipedia is read in its order up to so many articles.
_MOST_ARTICLES = 20_000


@dataclass(frozen=True)
class Search:
    """A search task.

    Attributes:
        corpus: passages by id.
        queries: questions by id.
        relevant: for each question the grade of each passage that is relevant to it, from 1.
    """

    corpus: dict[str, str]
    queries: dict[str, str]
    relevant: dict[str, dict[str, int]] = field(repr=False)


def documents(options: Options) -> Data:
    """Texts of any length: the user's, JaQuAD's articles below the data folder, or the Japanese Wikipedia.

    Raises:
        UsageError: there are none.
    """
    if options.texts:
        found = [text for path in options.texts for text in _texts_of(path)]
        names = tuple(path.name for path in options.texts)
        return replace(_data("+".join(names), options.texts, "all", found), text_files=names)
    if options.data_dir is not None:
        files = find(options.data_dir, _JAQUAD, "JaQuAD (github.com/SkelterLabsInc/JaQuAD), or name texts by --texts")
        articles = squad_articles(files)
        return _data("JaQuAD articles", files, "train", ["\n".join(contexts) for contexts in articles.values()])
    rows, revision = hub_rows(WIKIPEDIA[0], WIKIPEDIA[1], "train", _MOST_ARTICLES)
    return Data("/".join(WIKIPEDIA), revision, "train", [row["text"] for row in rows])


def passage_pairs(options: Options) -> Data:
    """Pairs of passages that belong together, `(first, second)`.

    MIRACL's, as in the paper: for each training question with two relevant passages or more, the first two of them.
    Where the data folder lacks MIRACL's passages, the first two paragraphs of each article of JaQuAD.

    Raises:
        UsageError: neither can be had.
    """
    if options.data_dir is None or holds(options.data_dir, "miracl"):
        search = miracl(options, "train")
        firsts = [list(relevant)[:2] for relevant in search.examples[0].relevant.values() if len(relevant) >= 2]
        corpus = search.examples[0].corpus
        return Data(search.name, search.revision, "train", [(corpus[one], corpus[other]) for one, other in firsts])
    files = find(options.data_dir, _JAQUAD, "JaQuAD (github.com/SkelterLabsInc/JaQuAD) or MIRACL's passages")
    pairs = [tuple(contexts[:2]) for contexts in squad_articles(files).values() if len(contexts) > 1]
    return _data("JaQuAD paragraphs of one article", files, "train", pairs)


def questions(options: Options, name: str) -> Data:
    """A search task; `examples` holds one `Search`.

    Args:
        options: where the data are.
        name: `jsquad`, `jaquad`, `miracl` or `beir`.

    Raises:
        UsageError: it cannot be had.
    """
    if name == "miracl":
        return miracl(options, "dev")
    if options.data_dir is None:
        raise UsageError(f"retrieval on {name} reads local files: give --data-dir, a folder that holds them.")
    if name == "beir":
        return beir(options.data_dir)
    pattern, where = (
        (_JSQUAD, "JSQuAD (github.com/yahoojapan/JGLUE)")
        if name == "jsquad"
        else (_JAQUAD, "JaQuAD (github.com/SkelterLabsInc/JaQuAD)")
    )
    files = find(options.data_dir, pattern, where)
    corpus: dict[str, str] = {}
    queries: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    ids: dict[str, str] = {}
    for paragraph in _paragraphs(files):
        # The same paragraph may stand in two places; it is one passage.
        passage = ids.setdefault(paragraph["context"], f"p{len(ids)}")
        corpus[passage] = paragraph["context"]
        for question in paragraph["qas"]:
            queries[question["id"]] = question["question"]
            relevant[question["id"]] = {passage: 1}
    split = "validation" if name == "jsquad" else "train"
    return _search({"jsquad": "JSQuAD", "jaquad": "JaQuAD"}[name], files, split, Search(corpus, queries, relevant))


def holds(folder: Path, name: str) -> bool:
    """Whether a folder holds the files of a search task, as `questions` names them."""
    patterns = {"miracl": _MIRACL_PASSAGES, "jsquad": _JSQUAD, "jaquad": _JAQUAD, "beir": "queries.jsonl*"}
    if not folder.is_dir():
        raise UsageError(f"--data-dir {folder}: no such folder.")
    return bool(_below(folder, patterns[name]))


def beir(folder: Path) -> Data:
    """A folder in BEIR's layout; the split is `test`, or the only one that there is."""
    corpus_file, queries_file = (_one(folder, f"{part}.jsonl*") for part in ("corpus", "queries"))
    tables = sorted((corpus_file.parent / "qrels").glob("*.tsv"))
    tables = [table for table in tables if table.stem == "test"] or tables
    if len(tables) != 1:
        raise UsageError(
            f"{corpus_file.parent / 'qrels'}: there must be one test.tsv, and {len(tables)} tables are there."
        )
    corpus = {
        str(row["_id"]): " ".join(filter(None, (row.get("title"), row["text"])))
        for row in _text_rows(corpus_file, "_id", "text")
    }
    queries = {str(row["_id"]): row["text"] for row in _text_rows(queries_file, "_id", "text")}
    relevant: dict[str, dict[str, int]] = {}
    for number, line in enumerate(_lines(tables[0]), start=1):
        columns = line.split("\t")
        if number == 1 and not columns[-1].isdigit():
            continue
        if len(columns) != 3 or not columns[2].lstrip("-").isdigit():
            raise UsageError(f"{tables[0]}, line {number}: not query, passage and grade, parted by tabs.")
        query, passage, grade = columns
        if passage not in corpus:
            raise UsageError(f"{tables[0]}, line {number}: passage {passage} is not in {corpus_file.name}.")
        if int(grade) > 0:
            relevant.setdefault(query, {})[passage] = int(grade)
    kept = {query: text for query, text in queries.items() if query in relevant}
    files = [corpus_file, queries_file, tables[0]]
    return _search(corpus_file.parent.name, files, tables[0].stem, Search(corpus, kept, relevant))


def miracl(options: Options, split: str) -> Data:
    """Questions, judgements and passages of MIRACL in Japanese.

    The passages are those of the whole corpus for `dev`, and the judged relevant ones alone for `train`.
    """
    if options.data_dir is None:
        folder, revision = hub_files(MIRACL, f"miracl-v1.0-ja/*/*miracl-v1.0-ja-{split}.tsv")
        corpus_folder, _ = hub_files(MIRACL_CORPUS, "miracl-corpus-v1.0-ja/*")
    else:
        folder = corpus_folder = options.data_dir
        revision = ""
    wanted = "MIRACL's topics, judgements and passages (huggingface.co/datasets/miracl/miracl and miracl-corpus)"
    topics = _one(folder, f"topics.miracl-v1.0-ja-{split}.tsv*", wanted)
    judged = _one(folder, f"qrels.miracl-v1.0-ja-{split}.tsv*", wanted)
    passages = find(corpus_folder, _MIRACL_PASSAGES, wanted)
    queries = dict(_cells(topics, 2))
    relevant: dict[str, dict[str, int]] = {}
    for query, _, passage, grade in _cells(judged, 4):
        if grade.isdigit() and int(grade) > 0 and query in queries:
            relevant.setdefault(query, {})[passage] = int(grade)
    needed = None if split == "dev" else {passage for found in relevant.values() for passage in found}
    corpus = {
        row["docid"]: f"{row['title']} {row['text']}"
        for path in passages
        for row in _text_rows(path, "docid", "title", "text")
        if needed is None or row["docid"] in needed
    }
    missing = next((passage for found in relevant.values() for passage in found if passage not in corpus), None)
    if missing is not None:
        raise UsageError(f"{passages[0].parent}: passage {missing} of {judged.name} is missing. Get all of {wanted}.")
    search = Search(corpus, {query: text for query, text in queries.items() if query in relevant}, relevant)
    if revision:
        return Data(MIRACL, revision, split, [search])
    return _search("MIRACL-ja", [topics, judged, *passages], split, search)


def some(examples: Sequence[Any], most: int, seed: int) -> list[Any]:
    """All examples, or so many of them drawn without replacement, in their order."""
    if len(examples) <= most:
        return list(examples)
    drawn = np.random.default_rng(seed).choice(len(examples), most, replace=False)
    return [examples[index] for index in sorted(drawn.tolist())]


def squad_articles(files: Iterable[Path]) -> dict[str, list[str]]:
    """Paragraphs of each article by its title, in their order, from files of SQuAD's JSON."""
    articles: dict[str, list[str]] = {}
    for path in files:
        for article in squad(path):
            articles.setdefault(article["title"], []).extend(part["context"] for part in article["paragraphs"])
    return articles


def squad(path: Path) -> list[dict[str, Any]]:
    """The articles of a file of SQuAD's JSON.

    Raises:
        UsageError: it is not one.
    """
    text = read(path)
    try:
        articles: list[dict[str, Any]] = json.loads(text)["data"]
        for article in articles:
            for paragraph in article["paragraphs"]:
                if not isinstance(paragraph["context"], str) or not isinstance(paragraph["qas"], list):
                    raise KeyError("context, qas")
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: not in SQuAD's JSON layout (data, paragraphs, context, qas): {error}.") from error
    return articles


def find(folder: Path, pattern: str, what: str = "") -> list[Path]:
    """Files below a folder whose path ends like a pattern, in the order of their names.

    Raises:
        UsageError: there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise UsageError(f"--data-dir {folder}: no such folder.")
    files = _below(folder, pattern)
    if not files:
        raise UsageError(f"--data-dir {folder} holds no {pattern}." + (f" Get {what}." if what else ""))
    return files


def _below(folder: Path, pattern: str) -> list[Path]:
    # Unlike `Path.rglob`, this goes into folders that are links.
    paths = [folder / name for name in iglob(f"**/{pattern}", root_dir=folder, recursive=True)]
    return sorted(path for path in paths if path.is_file())


def fingerprint(files: Sequence[Path]) -> str:
    """`sha256:` and 16 digits over the contents of files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"sha256:{digest.hexdigest()[:16]}"


def json_lines(path: Path, *keys: str) -> Iterator[dict[str, Any]]:
    """Objects of a JSON-lines file, gzipped or not.

    Args:
        path: the file.
        keys: what each object must have.

    Raises:
        UsageError: a line is not such an object; it names the file and the line.
    """
    return (row for _, row in numbered_json_lines(path, *keys))


def numbered_json_lines(path: Path, *keys: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """As `json_lines`, each object with the number of its line, from 1."""
    for number, line in enumerate(read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {number}: not a JSON object.")
        missing = [key for key in keys if key not in row]
        if missing:
            raise UsageError(f"{path}, line {number}: has no {' or '.join(map(repr, missing))}.")
        yield number, row


def read(path: Path) -> str:
    """The text of a file, gzipped or not."""
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read ({error}).") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start:,}.") from error


def hub_rows(
    repository: str,
    name: str | None,
    split: str,
    most: int | None,
    revision: str | None = None,
    way_out: str = _DATA_DIR,
) -> tuple[list[dict[str, Any]], str]:
    """Rows of a dataset of the Hub, read as a stream, and the commit that they are of.

    Args:
        repository: `ORG/NAME`.
        name: of the configuration.
        split: of it.
        most: rows that are enough; None for all.
        revision: branch, tag or commit.
        way_out: what to do where they cannot be had.

    Raises:
        UsageError: it cannot be had.
    """
    import datasets
    from huggingface_hub import HfApi

    try:
        commit = str(HfApi().dataset_info(repository, revision=revision).sha)
        stream = datasets.load_dataset(repository, name, split=split, revision=commit, streaming=True)
        return list(stream if most is None else stream.take(most)), commit
    except Exception as error:
        if not isinstance(error, (OSError, ValueError, RuntimeError)) and not is_transient(error):
            raise
        raise UsageError(_no_hub(repository, error, way_out)) from error


def hub_files(repository: str, pattern: str, revision: str | None = None) -> tuple[Path, str]:
    """The files of a dataset of the Hub whose path is like a pattern: their folder, and the commit that they are of.

    Raises:
        UsageError: they cannot be had.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=pattern))
    except Exception as error:
        if not isinstance(error, (OSError, ValueError, RuntimeError)) and not is_transient(error):
            raise
        raise UsageError(_no_hub(repository, error)) from error
    return folder, folder.name


def _no_hub(repository: str, error: Exception, way_out: str = _DATA_DIR) -> str:
    return f"dataset {repository} cannot be had from the Hub ({explain(error).rstrip('.')}). {way_out}"


def _texts_of(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise UsageError(f"--texts {path}: no such file.")
    return (row["text"] for row in _text_rows(path, "text"))


def _text_rows(path: Path, *keys: str) -> Iterator[dict[str, Any]]:
    """Objects of a JSON-lines file whose keys hold text, as a title does where there is one; `_id` may be a number."""
    for number, row in numbered_json_lines(path, *keys):
        texts = {"title": row.get("title") or "", **{key: row[key] for key in keys if key != "_id"}}
        wrong = next((key for key, text in texts.items() if not isinstance(text, str)), None)
        if wrong is not None:
            raise UsageError(f"{path}, line {number}: {wrong!r} is no text.")
        yield row


def _cells(path: Path, columns: int) -> Iterator[list[str]]:
    """Lines of a table, parted by tabs; the last column may hold some."""
    for number, line in enumerate(_lines(path), start=1):
        cells = line.split("\t", columns - 1)
        if len(cells) != columns:
            raise UsageError(f"{path}, line {number}: not {columns} columns, parted by tabs.")
        yield cells


def _paragraphs(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in files:
        for article in squad(path):
            yield from article["paragraphs"]


def _lines(path: Path) -> Iterator[str]:
    return (line for line in read(path).split("\n") if line.strip())


def _one(folder: Path, pattern: str, what: str = "") -> Path:
    files = find(folder, pattern, what)
    if len(files) > 1:
        raise UsageError(f"--data-dir {folder} holds {len(files)} files {pattern}. Name a folder that holds one.")
    return files[0]


def _data(name: str, files: Sequence[Path], split: str, examples: Sequence[Any]) -> Data:
    if not examples:
        raise UsageError(f"{files[0]}: holds nothing to measure on.")
    return Data(name, fingerprint(files), split, examples)


def _search(name: str, files: Sequence[Path], split: str, search: Search) -> Data:
    if not search.queries or not search.corpus:
        raise UsageError(f"{files[0]}: holds no question with a relevant passage.")
    return Data(name, fingerprint(files), split, [search])
