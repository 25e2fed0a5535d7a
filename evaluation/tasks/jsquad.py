"""JSQuAD (Kurihara et al. 2022): the answer to a question is a span of a paragraph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_jp_modernbert.training.finetuning.data.squad import answer_start, squad_rows
from llm_jp_modernbert.training.finetuning.qa import Question, QuestionAnswering

from .jglue import PublicSplits


@dataclass(frozen=True)
class Jsquad(PublicSplits):
    """Attributes as in `FineTuning`, and:

    Attributes:
        max_length: maximum tokens of an input; the model's own limit applies as well.
        stride: tokens that two windows share.
        longest_answer: maximum tokens of an answer.
    """

    max_length: int = 8192
    stride: int = 128
    longest_answer: int = 30

    name = "jsquad"
    hub_task = "question-answering"
    metric = "f1"
    metrics = ("exact_match", "f1")
    config = "JSQuAD"
    files = "jsquad-v1.*/{split}-v1.*.json"

    def head_task(self) -> QuestionAnswering:
        return QuestionAnswering(stride=self.stride, longest_answer=self.longest_answer)

    def read(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """Questions of a file in the layout of the Hub's rows."""
        return squad_rows(path)

    def parse(self, row: dict[str, Any]) -> Question:
        """Checks the question, and finds its first answer in the paragraph."""
        question, context = row["question"], row["context"]
        texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
        if not isinstance(question, str) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise ValueError("expected a question, and answers that are texts")
        start = answer_start(context, texts[0], starts[0])
        return Question(question, context, tuple(texts), start)

    def group(self, example: Any) -> str:
        return str(example.context)
