"""Usage code of a model card, by type of task.

Each snippet runs as it is, with transformers and the packages in `Snippet.requires`, so that a release can execute it
and the card can show its real output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .facts import ModelFacts, TaskType
from .formatting import literal

_TEXTS = ("この店のカレーは、また食べたくなる味だった。", "一時間も待たされたうえに、料理は冷めていた。")
_PAIRS = (
    ("駅前の広場で、子どもたちがサッカーをしている。", "子どもがボールで遊んでいる。"),
    ("駅前の広場で、子どもたちがサッカーをしている。", "広場には誰もいない。"),
)
_ENTITIES = "山田花子さんは四月から京都市役所で働き、休日は嵐山の美術館に通っている。"
_PASSAGE = "この図書館は1985年に建てられ、二階の窓からは港が見える。休館日は毎週月曜日である。"
_QUESTIONS = ("図書館が建てられたのは何年？", "休館日は何曜日？")
_CHOICES = ("雨の日に外を歩くとき、ぬれないように差すものは？", ("傘", "帽子", "かばん", "時計", "眼鏡"))
_SEARCH = ("駅から近い宿を探しています。", "駅の近くに泊まりたい。", "今夜は星がよく見える。")
_SENTENCE_TRANSFORMERS = ("sentence-transformers",)
# Models with more labels print their most probable ones.
_FEW_LABELS = 6
# Characters of a list or dictionary on one line.
_LINE = 60


@dataclass(frozen=True)
class Snippet:
    """An example of use.

    Attributes:
        title: unique heading.
        code: Python code that prints a result.
        requires: distributions needed in addition to transformers.
    """

    title: str
    code: str
    requires: tuple[str, ...] = ()


def snippets(model: ModelFacts) -> list[Snippet]:
    """Examples of use of a model.

    Args:
        model: its `name` is the repository or directory that the code loads.

    Raises:
        UsageError: the model has no known head.
    """
    examples = [_BY_TASK[model.task](model)]
    if model.is_nli and model.takes_pairs:
        examples.append(_zero_shot(model))
    if model.task == "embedding" and model.retrieval and model.retrieval["matryoshka"]:
        examples.append(_shorter_embeddings(model))
    return examples


def _fill_mask(model: ModelFacts) -> Snippet:
    mask = model.tokenizer.get("mask_token") or "[MASK]"
    code = f"""\
from transformers import pipeline

fill = {_pipeline(model, "fill-mask")}
for answer in fill({literal(f"今日のご飯は{mask}である。")}):
    print(answer["token_str"], round(answer["score"], 3))"""
    return Snippet("Fill-mask", code)


def _classification(model: ModelFacts) -> Snippet:
    top = None if len(model.labels) <= _FEW_LABELS else 3
    code = f"""\
from transformers import pipeline

classify = {_pipeline(model, "text-classification", f"top_k={top}")}
inputs = {_inputs(model)}
for scores in classify(inputs):
    print({{score["label"]: round(score["score"], 2) for score in scores}})"""
    return Snippet("Classification of pairs" if model.takes_pairs else "Classification", code)


def _multi_label_classification(model: ModelFacts) -> Snippet:
    labels = model.record["labels"] if model.record else []
    chosen = {label["name"]: label.get("threshold", 0.5) for label in labels} or dict.fromkeys(model.labels, 0.5)
    thresholds = [f"{literal(label)}: {threshold:.4g}" for label, threshold in chosen.items()]
    code = f"""\
from transformers import pipeline

classify = {_pipeline(model, "text-classification", "top_k=None")}
thresholds = {_bracketed("{", thresholds, "}")}
inputs = {_inputs(model)}
for scores in classify(inputs):
    print([score["label"] for score in scores if score["score"] >= thresholds[score["label"]]])"""
    return Snippet("Classification with several labels", code)


def _regression(model: ModelFacts) -> Snippet:
    code = f"""\
from transformers import pipeline

score = {_pipeline(model, "text-classification", 'function_to_apply="none"')}
inputs = {_inputs(model)}
print([round(result["score"], 2) for result in score(inputs)])"""
    return Snippet("Scores of pairs" if model.takes_pairs else "Scores", code)


def _reranking(model: ModelFacts) -> Snippet:
    query, *passages = _SEARCH
    if model.retrieval and model.retrieval["form"] == "scored":
        code = f"""\
from sentence_transformers import CrossEncoder

model = CrossEncoder({_loaded(model)})
pairs = {_bracketed("[", [f"({literal(query)}, {literal(passage)})" for passage in passages], "]")}
print(model.predict(pairs).round(2))"""
        return Snippet("Scores of pairs", code, _SENTENCE_TRANSFORMERS)
    code = f"""\
from sentence_transformers import CrossEncoder

model = CrossEncoder({_loaded(model)})
passages = {_strings(passages)}
for result in model.rank({literal(query)}, passages):
    print(passages[result["corpus_id"]], round(float(result["score"]), 2))"""
    return Snippet("Reranking", code, _SENTENCE_TRANSFORMERS)


def _zero_shot(model: ModelFacts) -> Snippet:
    code = f"""\
from transformers import pipeline

classify = {_pipeline(model, "zero-shot-classification")}
topics = ["料理", "スポーツ", "天気"]
result = classify({literal(_TEXTS[0])}, topics, hypothesis_template="話題は{{}}である。")
print({{topic: round(score, 2) for topic, score in zip(result["labels"], result["scores"])}})"""
    return Snippet("Zero-shot classification", code)


def _named_entities(model: ModelFacts) -> Snippet:
    code = f"""\
from transformers import pipeline

tag = {_pipeline(model, "token-classification", 'aggregation_strategy="simple"')}
text = {literal(_ENTITIES)}
for entity in tag(text):
    span = text[entity["start"] : entity["end"]].strip()
    print(span, entity["entity_group"], round(float(entity["score"]), 2))"""
    return Snippet("Named entities", code)


def _question_answering(model: ModelFacts) -> Snippet:
    threshold, no_answer = model.no_answer_threshold, ""
    if threshold is not None:
        no_answer = f"""
    if scores[0, 0] - scores[first, last] > {threshold:.4g}:
        return ""  # the passage has no answer"""
    code = f"""\
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({_loaded(model)})
model = AutoModelForQuestionAnswering.from_pretrained({_loaded(model)})

def answer(question, passage, longest={model.longest_answer}):
    options = {{"truncation": "only_second", "max_length": {model.positions}, "return_offsets_mapping": True}}
    inputs = tokenizer(question, passage, return_tensors="pt", **options)
    spans = inputs.pop("offset_mapping")[0].tolist()
    inside = torch.tensor([part == 1 for part in inputs.sequence_ids()])
    with torch.inference_mode():
        logits = model(**inputs)
    scores = logits.start_logits[0][:, None] + logits.end_logits[0]
    allowed = (inside[:, None] & inside).triu().tril(longest - 1)
    first, last = divmod(int(scores.masked_fill(~allowed, -torch.inf).argmax()), len(spans))\
{no_answer}
    return passage[spans[first][0] : spans[last][1]].strip()

passage = {literal(_PASSAGE)}
for question in {_strings(_QUESTIONS)}:
    print(question, answer(question, passage) or "(no answer)")"""
    return Snippet("Question answering", code)


def _multiple_choice(model: ModelFacts) -> Snippet:
    question, choices = _CHOICES
    code = f"""\
from transformers import AutoModelForMultipleChoice, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({_loaded(model)})
model = AutoModelForMultipleChoice.from_pretrained({_loaded(model)})
question, choices = {literal(question)}, {_strings(choices)}
inputs = tokenizer([question] * len(choices), choices, padding=True, return_tensors="pt")
scores = model(**{{key: value[None] for key, value in inputs.items()}}).logits[0].softmax(-1).tolist()
print({{choice: round(score, 2) for choice, score in zip(choices, scores)}})"""
    return Snippet("Multiple choice", code)


def _embedding(model: ModelFacts) -> Snippet:
    if any(model.exports.prompts.values()):
        return _search(model)
    code = f"""\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({_loaded(model)})
texts = {_strings(_SEARCH)}
embeddings = model.encode(texts)
print(model.similarity(embeddings, embeddings).numpy().round(2))"""
    return Snippet("Sentence embeddings", code, _SENTENCE_TRANSFORMERS)


def _search(model: ModelFacts, *lines: str) -> Snippet:
    """Similarities of a query and passages, followed by other lines."""
    name = model.exports.model_type
    query, *passages = _SEARCH
    code = f"""\
from sentence_transformers import {name}

model = {name}({_loaded(model)})
queries = {_strings([query])}
passages = {_strings(passages)}
query_embeddings = model.encode_query(queries)
passage_embeddings = model.encode_document(passages)
print(model.similarity(query_embeddings, passage_embeddings).numpy().round(2))"""
    return Snippet("Search", "\n".join([code, *lines]), _SENTENCE_TRANSFORMERS)


def _sparse(model: ModelFacts) -> Snippet:
    return _search(
        model,
        "for token, weight in model.decode(query_embeddings[0], top_k=5):",
        "    print(token, round(weight, 2))",
    )


def _late_interaction(model: ModelFacts) -> Snippet:
    return _search(model, "print([tuple(vectors.shape) for vectors in passage_embeddings])  # (tokens, dimensions)")


def _shorter_embeddings(model: ModelFacts) -> Snippet:
    assert model.retrieval is not None
    code = f"""\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({_loaded(model)}, truncate_dim={min(model.retrieval["matryoshka"])})
print(model.encode_query({_strings(_SEARCH[:1])}).shape)"""
    return Snippet("Shorter embeddings", code, _SENTENCE_TRANSFORMERS)


def _encoder(model: ModelFacts) -> Snippet:
    code = f"""\
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({_loaded(model)})
model = AutoModel.from_pretrained({_loaded(model)})
inputs = tokenizer({literal(_SEARCH[0])}, return_tensors="pt")
print(model(**inputs).last_hidden_state.shape)  # (texts, tokens, hidden size)"""
    return Snippet("Hidden states", code)


_BY_TASK: dict[TaskType, Callable[[ModelFacts], Snippet]] = {
    "fill-mask": _fill_mask,
    "classification": _classification,
    "multi-label-classification": _multi_label_classification,
    "regression": _regression,
    "reranking": _reranking,
    "ner": _named_entities,
    "qa": _question_answering,
    "multiple-choice": _multiple_choice,
    "embedding": _embedding,
    "sparse": _sparse,
    "late-interaction": _late_interaction,
    "encoder": _encoder,
}


def _loaded(model: ModelFacts) -> str:
    """Arguments of `from_pretrained`; native checkpoints carry their code."""
    return literal(model.name) + ("" if model.config.get("model_type") == "modernbert" else ", trust_remote_code=True")


def _pipeline(model: ModelFacts, task: str, argument: str = "") -> str:
    return f'pipeline("{task}", model={_loaded(model)}{f", {argument}" if argument else ""})'


def _inputs(model: ModelFacts) -> str:
    """Texts, or pairs of texts."""
    if not model.takes_pairs:
        return _strings(_TEXTS)
    pairs = [f'{{"text": {literal(text)}, "text_pair": {literal(pair)}}}' for text, pair in _PAIRS]
    return _bracketed("[", pairs, "]")


def _strings(texts: Iterable[str]) -> str:
    return _bracketed("[", [literal(text) for text in texts], "]")


def _bracketed(opening: str, items: list[str], closing: str) -> str:
    """A list or dictionary on one line, or one item per line if that is long."""
    line = f"{opening}{', '.join(items)}{closing}"
    return line if len(line) <= _LINE else "\n".join([opening, *(f"    {item}," for item in items), closing])
