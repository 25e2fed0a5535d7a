"""Usage code of a model card, by head.

Each snippet runs as it is, with transformers and the packages in `Snippet.requires`, so that a release can execute it
and the card can show its real output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.inference.heads import (
    ENCODER,
    MASKED_LM,
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    head_of,
)

from .formatting import literal

if TYPE_CHECKING:
    from llm_jp_modernbert.training.finetuning.record import Record

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
# Models with more labels print their most probable ones.
_FEW_LABELS = 6


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


@dataclass(frozen=True)
class _Model:
    """The model that the code uses; attributes as in `snippets`."""

    name: str
    config: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    record: Record | None
    sentence_transformers: bool

    @property
    def custom_code(self) -> str:
        return "" if self.config.get("model_type") == "modernbert" else ", trust_remote_code=True"

    @property
    def labels(self) -> list[str]:
        return [str(label) for label in (self.config.get("id2label") or {}).values()]

    def pipeline(self, task: str, arguments: str = "") -> str:
        return f'pipeline("{task}", model={literal(self.name)}{arguments}{self.custom_code})'


def snippets(
    name: str,
    config: Mapping[str, Any],
    tokenizer: Mapping[str, Any] | None = None,
    record: Record | None = None,
    sentence_transformers: bool = False,
) -> list[Snippet]:
    """Examples of use of a model.

    Args:
        name: repository or directory that the code loads.
        config: content of config.json.
        tokenizer: `mask_token`, for masked language models.
        record: content of finetuning.json, if the model was fine-tuned by this package.
        sentence_transformers: whether sentence-transformers loads the model.

    Raises:
        UsageError: the model has no known head.
    """
    head = head_of(config)
    return _BY_HEAD[head.suffix](_Model(name, config, tokenizer or {}, record, sentence_transformers))


def _fill_mask(model: _Model) -> list[Snippet]:
    mask = model.tokenizer.get("mask_token") or "[MASK]"
    code = f"""\
from transformers import pipeline

fill = {model.pipeline("fill-mask")}
for answer in fill({literal(f"今日のご飯は{mask}である。")}):
    print(answer["token_str"], round(answer["score"], 3))"""
    return [Snippet("Fill-mask", code)]


def _text_classification(model: _Model) -> list[Snippet]:
    is_nli = any(label.lower().startswith("entail") for label in model.labels)
    columns = model.record["columns"] if model.record else {}
    is_pair = "text_pair" in columns or (is_nli and not columns)
    if model.config.get("problem_type") == "regression" or len(model.labels) == 1:
        if model.sentence_transformers:
            return [_cross_encoder(model)]
        return [_regression(model, is_pair)]
    found = [_classification(model, is_pair)]
    return [*found, _zero_shot(model)] if is_nli and is_pair else found


def _inputs(is_pair: bool) -> str:
    texts = [f'{{"text": {literal(text)}, "text_pair": {literal(pair)}}}' for text, pair in _PAIRS]
    return _list(texts if is_pair else map(literal, _TEXTS))


def _classification(model: _Model, is_pair: bool) -> Snippet:
    top = "None" if len(model.labels) <= _FEW_LABELS else "3"
    begin = f"""\
from transformers import pipeline

classify = {model.pipeline("text-classification", f", top_k={top}")}
"""
    if model.config.get("problem_type") != "multi_label_classification":
        code = f"""{begin}inputs = {_inputs(is_pair)}
for scores in classify(inputs):
    print({{score["label"]: round(score["score"], 2) for score in scores}})"""
        return Snippet("Classification of pairs" if is_pair else "Classification", code)
    labels = model.record["labels"] if model.record else []
    chosen = {label["name"]: label.get("threshold", 0.5) for label in labels} or dict.fromkeys(model.labels, 0.5)
    thresholds = _dict(f"{literal(label)}: {threshold:.4g}" for label, threshold in chosen.items())
    code = f"""{begin.replace(f"top_k={top}", "top_k=None")}thresholds = {thresholds}
inputs = {_inputs(is_pair)}
for scores in classify(inputs):
    print([score["label"] for score in scores if score["score"] >= thresholds[score["label"]]])"""
    return Snippet("Classification with several labels", code)


def _regression(model: _Model, is_pair: bool) -> Snippet:
    code = f"""\
from transformers import pipeline

score = {model.pipeline("text-classification", ', function_to_apply="none"')}
inputs = {_inputs(is_pair)}
print([round(result["score"], 2) for result in score(inputs)])"""
    return Snippet("Scores of pairs" if is_pair else "Scores", code)


def _cross_encoder(model: _Model) -> Snippet:
    query, *passages = _SEARCH
    code = f"""\
from sentence_transformers import CrossEncoder

model = CrossEncoder({literal(model.name)}{model.custom_code})
passages = {_list(map(literal, passages))}
for result in model.rank({literal(query)}, passages):
    print(passages[result["corpus_id"]], round(float(result["score"]), 2))"""
    return Snippet("Reranking", code, ("sentence-transformers",))


def _zero_shot(model: _Model) -> Snippet:
    code = f"""\
from transformers import pipeline

classify = {model.pipeline("zero-shot-classification")}
topics = ["料理", "スポーツ", "天気"]
result = classify({literal(_TEXTS[0])}, topics, hypothesis_template="話題は{{}}である。")
print({{topic: round(score, 2) for topic, score in zip(result["labels"], result["scores"])}})"""
    return Snippet("Zero-shot classification", code)


def _token_classification(model: _Model) -> list[Snippet]:
    code = f"""\
from transformers import pipeline

tag = {model.pipeline("token-classification", ', aggregation_strategy="simple"')}
text = {literal(_ENTITIES)}
for entity in tag(text):
    span = text[entity["start"] : entity["end"]]
    print(span.strip(), entity["entity_group"], round(float(entity["score"]), 2))"""
    return [Snippet("Named entities", code)]


def _question_answering(model: _Model) -> list[Snippet]:
    record = model.record
    length = record["max_length"] if record else model.config["max_position_embeddings"]
    unanswerable = """
    if output.start_logits[0, 0] + output.end_logits[0, 0] > score:
        return ""  # no answer in the passage"""
    code = f"""\
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

name = {literal(model.name)}
tokenizer = AutoTokenizer.from_pretrained(name{model.custom_code})
model = AutoModelForQuestionAnswering.from_pretrained(name{model.custom_code})

def answer(question, passage):
    options = {{"truncation": "only_second", "max_length": {length}, "return_offsets_mapping": True}}
    inputs = tokenizer(question, passage, return_tensors="pt", **options)
    spans = inputs.pop("offset_mapping")[0].tolist()
    outside = torch.tensor([part != 1 for part in inputs.sequence_ids()])
    with torch.inference_mode():
        output = model(**inputs)
    # The best first token up to each token, then the best last token.
    best, first = output.start_logits[0].masked_fill(outside, -torch.inf).cummax(0)
    score, last = (best + output.end_logits[0].masked_fill(outside, -torch.inf)).max(0)\
{unanswerable if record and record["unanswerable"] else ""}
    return passage[spans[first[last]][0] : spans[last][1]].strip()

passage = {literal(_PASSAGE)}
for question in {_list(map(literal, _QUESTIONS))}:
    print(question, answer(question, passage))"""
    return [Snippet("Question answering", code)]


def _multiple_choice(model: _Model) -> list[Snippet]:
    question, choices = _CHOICES
    code = f"""\
from transformers import AutoModelForMultipleChoice, AutoTokenizer

name = {literal(model.name)}
tokenizer = AutoTokenizer.from_pretrained(name{model.custom_code})
model = AutoModelForMultipleChoice.from_pretrained(name{model.custom_code})
question, choices = {literal(question)}, {_list(map(literal, choices))}
inputs = tokenizer([question] * len(choices), choices, padding=True, return_tensors="pt")
scores = model(**{{key: value[None] for key, value in inputs.items()}}).logits[0].softmax(-1).tolist()
print({{choice: round(score, 2) for choice, score in zip(choices, scores)}})"""
    return [Snippet("Multiple choice", code)]


def _encoder(model: _Model) -> list[Snippet]:
    texts = _list(map(literal, _SEARCH))
    if model.sentence_transformers:
        code = f"""\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({literal(model.name)}{model.custom_code})
embeddings = model.encode({texts})
print(model.similarity(embeddings, embeddings).numpy().round(2))"""
        return [Snippet("Sentence embeddings", code, ("sentence-transformers",))]
    code = f"""\
from transformers import AutoModel, AutoTokenizer

name = {literal(model.name)}
tokenizer = AutoTokenizer.from_pretrained(name{model.custom_code})
model = AutoModel.from_pretrained(name{model.custom_code})
inputs = tokenizer({literal(_SEARCH[0])}, return_tensors="pt")
print(model(**inputs).last_hidden_state.shape)  # (texts, tokens, hidden size)"""
    return [Snippet("Hidden states", code)]


def _list(items: Iterable[str]) -> str:
    return _in_brackets("[", items, "]")


def _dict(items: Iterable[str]) -> str:
    return _in_brackets("{", items, "}")


def _in_brackets(opening: str, items: Iterable[str], closing: str) -> str:
    """A literal on one line, or one item a line if that is long."""
    parts = list(items)
    line = f"{opening}{', '.join(parts)}{closing}"
    if len(line) <= 60:
        return line
    return "\n".join([opening, *(f"    {part}," for part in parts), closing])


_BY_HEAD: dict[str, Callable[[_Model], list[Snippet]]] = {
    MASKED_LM.suffix: _fill_mask,
    SEQUENCE_CLASSIFICATION.suffix: _text_classification,
    TOKEN_CLASSIFICATION.suffix: _token_classification,
    QUESTION_ANSWERING.suffix: _question_answering,
    MULTIPLE_CHOICE.suffix: _multiple_choice,
    ENCODER.suffix: _encoder,
}
