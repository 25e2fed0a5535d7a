"""Tables and statements about embedders, rerankers, sparse and late-interaction models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .finetuned import part_name, share, system_name
from .formatting import Markdown, code, literal, number, table

if TYPE_CHECKING:
    from llm_jp_modernbert.training.retrieval.dataset import Form

    from .facts import ModelFacts

FORMS: dict[Form, str] = {
    "pairs": "pairs of a query and a relevant passage",
    "triplets": "queries with a relevant passage and others that are not",
    "scored": "pairs of texts with a score",
    "distillation": "queries and passages with a teacher's scores",
    "texts": "texts alone",
}
"""Forms of training data in a sentence."""

SIMILARITIES = {
    "cosine": "the cosine",
    "dot": "the dot product",
    "euclidean": "the negative Euclidean distance",
    "manhattan": "the negative Manhattan distance",
    "maxsim": "MaxSim, the sum over query tokens of the largest similarity to a passage token",
    "meanmaxsim": "the mean over query tokens of the largest similarity to a passage token",
}
"""Similarity functions in a sentence."""

_INDEX = {
    "bytes_per_passage": "Bytes of a passage in the index, float32 without compression",
    "query_active_dims": "Dimensions of a query that are not zero",
    "passage_active_dims": "Dimensions of a passage that are not zero",
    "flops": "Multiplications for a query and a passage",
}
# A sparse model with more weights per passage is called dense.
_MOST_ACTIVE = 1000


def prompts(facts: ModelFacts) -> Markdown | None:
    """Prompts that are not empty, with the methods that add them."""
    methods = {"query": "encode_query", "document": "encode_document"}
    lines = []
    for name, prompt in facts.exports.prompts.items():
        added = [code(methods[name])] if name in methods and facts.task != "reranking" else []
        added += [default_method(facts)] if name == facts.exports.default_prompt else []
        if prompt:
            lines.append([code(name), code(literal(prompt)), Markdown(", ".join(added))])
    return table(["Name", "Prompt", "Added by"], lines) if lines else None


def default_method(facts: ModelFacts) -> Markdown:
    """The methods that add the default prompt."""
    return Markdown("`predict` and `rank`" if facts.task == "reranking" else "`encode`")


def by_length(facts: ModelFacts) -> Markdown | None:
    """nDCG@10 of truncated embeddings."""
    values = facts.retrieval.get("by_length", {}) if facts.retrieval else {}
    lines = [[f"{int(length):,}", share(value)] for length, value in sorted(values.items(), key=lambda x: -int(x[0]))]
    return table(["Dimensions", "nDCG@10"], lines, numbers=2) if lines else None


def index(facts: ModelFacts) -> Markdown | None:
    """Size of the index."""
    values = facts.retrieval.get("index", {}) if facts.retrieval else {}
    lines = [[_INDEX.get(name, name), f"{value:,.1f}"] for name, value in values.items()]
    return table([f"Mean over the {last_part(facts)} part", ""], lines, numbers=1) if lines else None


def last_part(facts: ModelFacts) -> str:
    """The part that the size of the index and the truncated embeddings are measured on; empty without a record."""
    return part_name(list(facts.retrieval["parts"])[-1]) if facts.retrieval else ""


def passages(facts: ModelFacts) -> int | None:
    """Number of passages among which the queries of the last measured part search."""
    record = facts.retrieval
    if record is None:
        return None
    split = list(record["parts"])[-1].partition(":")[0]
    counts = [row.settings.get("passages") for row in facts.rows if facts.is_own(row) and row.split == split]
    return max((int(count) for count in counts if isinstance(count, int)), default=None)


def candidates(facts: ModelFacts) -> str:
    """The candidates that a reranker was measured on, such as `the 50 best passages of BM25`; empty if unknown."""
    name, _, depth = (facts.retrieval["candidates"] if facts.retrieval else "").rpartition(", ")
    return f"the {depth} best passages of {system_name(name)}" if name else ""


def limits(facts: ModelFacts) -> list[str]:
    """Limits of a model for search that its type and its own measurements show."""
    lines: list[str] = []
    count, orders = passages(facts), candidates(facts)
    if count is not None:
        lines.append(
            f"The queries of the {last_part(facts)} part search among {count:,} passages. In a larger collection, "
            "more passages compete and scores are lower."
        )
    if orders:
        lines.append(
            f"The scores are those of ordering {orders}. A passage that is not among them cannot be found, and with "
            "other candidates the scores differ."
        )
    if facts.retrieval and facts.retrieval["form"] == "texts":
        lines.append(
            "The training texts have no relevant pairs, so the model has learned which texts are alike, not which "
            "passages answer a query."
        )
    active = facts.retrieval.get("index", {}).get("passage_active_dims", 0.0) if facts.retrieval else 0.0
    if active > _MOST_ACTIVE:
        lines.append(
            f"A passage has {number(round(active))} dimensions that are not zero on average, which is many: an "
            "inverted index is then large and slow. Train with a larger --passage-regularizer."
        )
    if facts.task == "late-interaction":
        lines.append(
            "Each token of a passage is a vector in the index, which takes much more space than one vector for all."
        )
    return lines


def purpose(facts: ModelFacts) -> dict[str, Any]:
    """The purpose of the model in English and Japanese."""
    is_scored = facts.retrieval is not None and facts.retrieval["form"] == "scored"
    size = number(facts.exports.dimensions or facts.config["hidden_size"])
    return {
        "embedding": {
            "en": f"maps texts to vectors of {size} dimensions, for search, clustering and similarity",
            "ja": f"テキストを検索や類似度計算に使う{size}次元のベクトルに変換する",
        },
        "reranking": {
            "en": "scores how similar two texts are" if is_scored else "scores how relevant a passage is to a query",
            "ja": "二つのテキストの類似度を点数で表す" if is_scored else "検索の質問に対する文章の関連度を点数で表す",
        },
        "sparse": {
            "en": "maps texts to weights of the tokens in its vocabulary, for search with an inverted index",
            "ja": "テキストを、転置インデックスで検索できる語彙の重みに変換する",
        },
        "late-interaction": {
            "en": f"maps each token of a text to a vector of {size} dimensions, for search by late interaction",
            "ja": f"テキストの各トークンを、遅延相互作用（MaxSim）で検索する{size}次元のベクトルに変換する",
        },
    }[facts.task]
