"""BM25, the baseline of retrieval, over the words of Sudachi."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from llm_jp_modernbert.core.errors import UsageError

from .encoding import Progress, no_progress
from .rankers import Ranker
from .search import BestPassages, Ranked, Search

# Parts of speech that carry no content: particles, auxiliary verbs, punctuation and space.
_NO_CONTENT = {"助詞", "助動詞", "補助記号", "空白"}
# Sudachi reads at most 49,149 bytes at once. Longer texts are divided at the ends of sentences, if they have any.
_PIECE = re.compile(r".{1,10000}(?:[。\n]|\Z)|.{1,10000}", re.DOTALL)
_PACKAGES = ("bm25s", "sudachipy", "sudachidict-core")
# Scores in memory at a time.
_SCORES = 2**23


class BM25(Ranker):
    """Ranks passages by BM25 in Lucene's variant, with the parameters of bm25s: k1 = 1.5, b = 0.75.

    Words are the normalized forms of Sudachi's shortest units (mode A) without particles, auxiliary verbs and
    punctuation. On a sample of 2,117 questions of JaQuAD and all its 9,713 passages, their nDCG@10 is 89.3; with
    particles, auxiliary verbs and punctuation 87.8; dictionary forms 89.3 and 87.8, surface forms 89.1 and 87.9.

    Raises:
        UsageError: a package is missing.

    Example:
        >>> search = Search({"a": "猫が好きだ。", "b": "犬が走る。"}, {"q": "走るのは何？"}, {"q": {"b": 1}})
        >>> BM25().rank(search).top
        {'q': ['b', 'a']}
    """

    def __init__(self) -> None:
        self.revision = ", ".join(f"{package} {_version(package)}" for package in _PACKAGES)
        """Versions of the packages, which the ranking depends on."""
        from sudachipy import Dictionary, SplitMode

        self._tokenizer = Dictionary(dict="core").tokenizer(SplitMode.A, {"pos", "normalized_form"})

    def words(self, text: str) -> list[str]:
        """The words of a text, in order."""
        morphemes = (morpheme for piece in _PIECE.findall(text) for morpheme in self._tokenizer.tokenize(piece))
        return [
            morpheme.normalized_form() for morpheme in morphemes if morpheme.part_of_speech()[0] not in _NO_CONTENT
        ]

    def rank(self, search: Search, progress: Progress = no_progress) -> Ranked:
        """The best passages of each query."""
        # Indexing takes most of the time.
        scores = self._scorer(search.corpus.values(), lambda done: progress(0.9 * done / len(search.corpus)))
        queries, best = list(search.queries.values()), BestPassages(search)
        at_once = max(1, _SCORES // len(search.corpus))
        for start in range(0, len(queries), at_once):
            best.add(np.stack([scores(query) for query in queries[start : start + at_once]]), start)
            progress(0.9 + 0.1 * min(1.0, (start + at_once) / len(queries)))
        return best.ranked()

    def _scorer(self, passages: Iterable[str], progress: Progress) -> Callable[[str], np.ndarray]:
        """A function that computes the scores of all passages for a query, float32 `(passages,)`."""
        import bm25s

        corpus = []
        for passage in passages:
            corpus.append(self.words(passage))
            progress(len(corpus))
        if not any(corpus):
            return lambda query: np.zeros(len(corpus), np.float32)
        index = bm25s.BM25()
        index.index(corpus, show_progress=False)
        return lambda query: index.get_scores_from_ids(index.get_tokens_ids(self.words(query)))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise UsageError(f"BM25 needs {package}: pip install 'llm-jp-modernbert[retrieval]'.") from error
