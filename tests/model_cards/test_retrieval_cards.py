"""Cards of embedders, rerankers, sparse and late-interaction models, and of adapted ones, state their records."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from test_card import Page, rendered
from test_finetuned_cards import config, part

from llm_jp_modernbert.core.results import Row
from llm_jp_modernbert.model_cards.card import model_card
from llm_jp_modernbert.model_cards.check import validate_card
from llm_jp_modernbert.model_cards.facts import Exports, ModelFacts, Plot

PROMPTS = {"query": "検索クエリ: ", "document": "検索文書: "}
PARTS = {
    "train": part(name="train.csv", rows=5000),
    "validation": part(name="train.csv", rows=500),
    "test": part(name="test.csv", rows=700),
}


def seed(number: int, value: float) -> dict[str, Any]:
    """A training; only the published model, of seed 43, was measured on the test part."""
    parts = ("validation", "test") if number == 43 else ("validation",)
    metrics = {"ndcg@10": value, "mrr@10": value - 0.1}
    return {"seed": number, "epoch": 2.0, "metrics": dict.fromkeys(parts, metrics)}


def baseline(name: str, value: float) -> dict[str, Any]:
    metrics = {"ndcg@10": value, "mrr@10": value}
    return {"name": name, "metrics": dict.fromkeys(("validation", "test"), metrics)}


def record(**changes: Any) -> Any:
    """Content of retrieval.json."""
    defaults: dict[str, Any] = {
        "schema": 1,
        "kind": "embedder",
        "form": "pairs",
        "loss": "cached-mnrl",
        "base": "base",
        "base_revision": "sha256:0011",
        "columns": {"query": "question", "passage": "context"},
        "prompts": PROMPTS,
        "pooling": "mean",
        "similarity": "cosine",
        "dimensions": 32,
        "matryoshka": [16],
        "negatives": {"per_pair": 4, "model": "org/miner"},
        "teacher": None,
        "metric": "ndcg@10",
        "parts": PARTS,
        "best_seed": 43,
        "seeds": [seed(42, 0.6), seed(43, 0.7), seed(44, 0.65)],
        "baselines": [baseline("base (mean pooling)", 0.4), baseline("bm25", 0.8)],
        "candidates": "",
        "index": {"bytes_per_passage": 128.0},
        "by_length": {"16": 0.55, "32": 0.7},
        "max_length": 512,
        "seconds": 90.0,
        "device": "CPU, 2 cores",
        "versions": {"sentence-transformers": "6.2.0"},
    }
    return {**defaults, **changes}


def row(**changes: Any) -> Row:
    defaults: dict[str, Any] = {
        "task": "train-embedder",
        "dataset": "test.csv",
        "dataset_revision": "sha256:0011",
        "split": "test",
        "metric": "ndcg@10",
        "value": 0.7,
        "low": 0.68,
        "high": 0.72,
        "scale": 100,
        "model": "/private/model",
        "protocol": "default",
        "settings": {"passages": 1234},
        "seed": 43,
    }
    return Row(**{**defaults, **changes})


def embedder(**changes: Any) -> ModelFacts:
    defaults: dict[str, Any] = {
        "name": "org/embedder",
        "config": config("Model"),
        "license": "apache-2.0",
        "languages": ("ja",),
        "base_model": "org/base",
        "retrieval": record(**changes.pop("record", {})),
        "recipe": {
            "train": ["/private/train.csv"],
            "matryoshka": [16],
            "mine_negatives": 4,
            "mine_with": "org/miner",
            "corpus": ["/private/more.csv"],
            "max_length": 512,
            "seeds": 3,
            "arguments": {"learning_rate": 3e-5, "num_train_epochs": 2, "warmup_steps": 0.1},
        },
        "rows": [row()],
        "exports": Exports(sentence_transformers=True, prompts=PROMPTS, dimensions=32, max_length=512),
        "outputs": {"Search": "[[0.72 0.36]]\n"},
    }
    return ModelFacts(**{**defaults, **changes})


# Lines of the embedder's card, in this order.
EMBEDDER_CARD = r"""
# org/embedder
It was trained from [org/base](https://huggingface.co/org/base) on 5,000 examples of `train.csv`: pairs of a query and a relevant passage.
On the 700 examples of the test part, its nDCG@10 is 70.0 (95% interval 68.0 to 72.0); base (mean pooling) reaches 40.0, BM25 reaches 80.0.
It reads up to 512 tokens of a text.
## Usage
query_embeddings = model.encode_query(queries)
passage_embeddings = model.encode_document(passages)
[[0.72 0.36]]
model = SentenceTransformer("org/embedder", truncate_dim=16)
| `query` | `"検索クエリ: "` | `encode_query` |
| `document` | `"検索文書: "` | `encode_document` |
Embeddings use mean pooling and are compared by the cosine.
## Architecture
| Maximum input length | 512 tokens |
## Training
| test | `test.csv` | `sha256:0011` | 700 | 90,000 | 400 | 0 |
Columns: query from `question`, passage from `context`.
| Loss | `cached-mnrl` |
| Embedding lengths in the loss (Matryoshka) | 16 |
| Hard negatives | 4 per pair, mined with org/miner |
## Evaluation
| Part | Metric | This model | 95% interval | base (mean pooling) | BM25 | Mean ± sd, 3 seeds |
| test | nDCG@10 | 70.0 | 68.0 to 72.0 | 40.0 | 80.0 |  |
| validation | nDCG@10 | 70.0 |  | 40.0 | 80.0 | 65.0 ± 5.0 |
| 32 | 70.0 |
| 16 | 55.0 |
| Bytes of a passage in the index, float32 without compression | 128.0 |
## Limitations and biases
* BM25 is better than this model on the test part: nDCG@10 80.0, this model 70.0.
* The queries of the test part search among 1,234 passages. In a larger collection, more passages compete and scores are lower.
## Reproduction
pip install 'llm-jp-modernbert[retrieval]'
llm-jp-modernbert train-embedder org/base \
    learning_rate=3e-05 warmup_steps=0.1 num_train_epochs=2 \
    --train DATA/train.csv --test DATA/test.csv \
    --corpus DATA/more.csv --mine-negatives 4 --mine-with org/miner --max-length 512 --seeds 3 --matryoshka 16
## License and citation
"""  # noqa: E501


def test_complete_card_of_an_embedder(tmp_path: Path) -> None:
    card = model_card(embedder())
    lines = iter(card.text.splitlines())
    for expected in EMBEDDER_CARD.strip().splitlines():
        assert expected in lines, f"missing or in another order: {expected}"
    assert re.findall(r"^## .*$", card.text, re.MULTILINE) == re.findall(r"^## .*$", EMBEDDER_CARD, re.MULTILINE)
    assert "テスト用の700件での nDCG@10 は 70.0 です" in card.text
    assert "/private" not in str(card)
    assert not re.search(r"\n{3}", card.text)
    assert "None" not in "".join(Page(rendered(card)).prose)
    validate_card(card, tmp_path)
    data = ModelCard(str(card)).data
    assert (data.pipeline_tag, data.library_name) == ("sentence-similarity", "sentence-transformers")
    (result,) = data.eval_results
    assert (result.task_type, result.metric_type, result.metric_value) == ("information-retrieval", "ndcg@10", 0.7)


CASES: list[tuple[dict[str, Any], str]] = [
    ({"record": {"baselines": [baseline("bm25", 0.69)]}}, "BM25 is not clearly worse than this model"),
    ({"record": {"baselines": [baseline("bm25", 0.67)]}}, ""),
    ({"record": {"form": "texts"}}, "not which passages answer a query"),
    (
        {
            "record": {"kind": "sparse", "index": {"passage_active_dims": 4321.0}},
            "exports": Exports((), True, "max", "SparseEncoder"),
        },
        "A passage has 4,321 dimensions that are not zero on average",
    ),
    (
        {
            "config": config("ForSequenceClassification", ("LABEL_0",)),
            "record": {"kind": "reranker", "candidates": "bm25, 50"},
            "exports": Exports((), True, "", "CrossEncoder"),
        },
        "The scores are those of ordering the 50 best passages of BM25.",
    ),
]


def test_card_of_a_reranker_names_the_methods_that_add_its_prompt() -> None:
    exports = Exports((), True, "", "CrossEncoder", {"rank": "順: "}, "rank", is_portable=False)
    text = model_card(ModelFacts("org/model", config("ForSequenceClassification", ("LABEL_0",)), exports=exports)).text
    assert '| `rank` | `"順: "` | `predict` and `rank` |' in text
    assert "`encode`" not in text
    assert "5.1" not in text


@pytest.mark.parametrize(("changes", "sentence"), CASES)
def test_limits_follow_from_the_record(changes: dict[str, Any], sentence: str) -> None:
    limits = model_card(embedder(**changes)).text.partition("## Limitations and biases")[2]
    assert sentence in limits if sentence else "BM25" not in limits


def test_several_test_datasets_have_names() -> None:
    parts = {**PARTS, "test:a.csv": part(name="a.csv", rows=10), "test:b.csv": part(name="b.csv", rows=20)}
    del parts["test"]
    values = {"seed": 43, "epoch": 1.0, "metrics": {name: {"ndcg@10": 0.1 * len(name)} for name in parts}}
    rows = [row(dataset=name, value=0.9, low=low, high=1.0) for name, low in (("a.csv", 0.2), ("b.csv", 0.3))]
    text = model_card(embedder(record={"parts": parts, "seeds": [values]}, rows=rows)).text
    assert "| test (a.csv) | nDCG@10 | 100.0 | 20.0 to 100.0 |" in text
    assert "| test (b.csv) | nDCG@10 | 100.0 | 30.0 to 100.0 |" in text
    assert "--test DATA/a.csv --test DATA/b.csv" in text


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": 0.9 * value, "high": 1.1 * value}


def measured(before: float, after: float) -> dict[str, Any]:
    """Measurements on held-out texts with a pseudo-perplexity before and after."""
    change = {"before": estimate(before), "after": estimate(after), "change": estimate(after / before)}
    return {"name": "texts", "revision": "sha256:1", "held_out_of": "train", "documents": 40, "metrics": {"pseudo_perplexity": change}}  # fmt: skip  # noqa: E501


def test_card_of_an_adapted_model_shows_what_it_learned_and_forgot() -> None:
    adaptation: Any = {
        "base": "base",
        "train": {"name": "manuals", "revision": "sha256:1", "share": 0.75},
        "replay": {"name": "general", "revision": "sha256:1", "share": 0.25},
        "domain": measured(200.0, 100.0),
        "general": measured(50.0, 60.0),
        "epochs": 2.0,
        "learning_rate": 0.001,
        "masked_share": 0.15,
        "seed": 42,
    }
    text = model_card(
        ModelFacts("org/model", config("ForMaskedLM"), base_model="org/base", adaptation=adaptation)
    ).text
    assert "| domain | `texts` | pseudo-perplexity ↓ | 200 (180 to 220) | 100 (90 to 110) | × 0.5 |" in text
    assert "its pseudo-perplexity of general text is × 1.2 that of its base" in text
    assert "adapted to the texts of `manuals` with 25% general text" in text
    adaptation["general"]["metrics"]["pseudo_perplexity"]["change"]["low"] = 0.9
    unclear = model_card(ModelFacts("org/model", config("ForMaskedLM"), adaptation=adaptation)).text
    assert "has forgotten" not in unclear
    assert "has not been evaluated" not in text.partition("associations")[0]


def test_card_of_a_trimmed_model_shows_sizes_and_accuracy() -> None:
    before = {"tokens": 1000, "parameters": 5000, "weights_bytes": 20_000, "characters_per_token": 2.5,
              "tokens_per_character": 0.4, "round_trips": 1.0, "masked_accuracy": 0.3, "span_accuracy": None,
              "loss_per_character": 4.0}  # fmt: skip
    vocabulary: Any = {
        "change": "trim",
        "base": "base",
        "texts": {"name": "manuals", "documents": 10},
        "held_out": {"name": "manuals", "documents": 5},
        "removed": 500,
        "terms": [],
        "before": before,
        "after": {**before, "tokens": 500, "masked_accuracy": 0.29},
    }
    text = model_card(
        ModelFacts("org/model", config("ForMaskedLM"), plots=[Plot("assets/a.png", "a")], vocabulary=vocabulary)
    ).text
    for line in ("| Tokens in the vocabulary | 1,000 | 500 |", "| Masked accuracy, % | 30.0 | 29.0 |"):
        assert line in text
    assert "with 500 tokens fewer in the vocabulary" in text
    assert "llm-jp-modernbert vocabulary trim BASE_MODEL \\\n    --texts DATA/manuals --size 500 --out MODEL" in text
