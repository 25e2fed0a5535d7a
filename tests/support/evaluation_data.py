"""Small datasets in the official layouts, with original sentences."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from llm_jp_modernbert.evaluation.data.options import Options
from llm_jp_modernbert.evaluation.tasks.registry import select
from llm_jp_modernbert.evaluation.tasks.task import Task

SUBJECTS = ["猫", "犬", "先生", "学生", "母", "弟", "医者", "鳥"]
PLACES = ["駅", "学校", "公園", "図書館", "海", "山", "病院", "庭"]
VERBS = ["行く", "着く", "集まる", "向かう"]
WORDS = [*SUBJECTS, "が", *PLACES, "に", *VERBS, "。"]


def make_task(selector: str, options: Options) -> Task:
    """The task that a value of `--tasks` selects."""
    (constructor,) = select(selector)
    return constructor(options)


def sentence(drawn: random.Random) -> str:
    """A sentence from a small vocabulary."""
    return f"{drawn.choice(SUBJECTS)}が{drawn.choice(PLACES)}に{drawn.choice(VERBS)}。"


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes a JSON-lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_data(folder: Path) -> Path:
    """Writes JSTS, JNLI, JCoLA, JCommonsenseQA, MARC-ja, JSQuAD, JaQuAD and NER with a few dozen examples each."""
    drawn = random.Random(0)
    for split, size in (("train", 60), ("valid", 20)):
        pairs = [(sentence(drawn), sentence(drawn)) for _ in range(size)]
        common = [{"sentence1": first, "sentence2": second} for first, second in pairs]
        grades = [5.0 * len(set(first) & set(second)) / len(set(first) | set(second)) for first, second in pairs]
        write_lines(
            folder / f"jsts-v1.3/{split}-v1.3.json",
            [{**row, "label": grade} for row, grade in zip(common, grades, strict=True)],
        )
        labels = ["entailment", "neutral", "neutral", "contradiction"]
        write_lines(
            folder / f"jnli-v1.3/{split}-v1.3.json",
            [{**row, "label": labels[number % 4]} for number, row in enumerate(common)],
        )
        write_lines(
            folder / f"in_domain_{split}-v1.0.json",
            [
                {"uid": number, "label": int(number % 5 > 0), "sentence": text}
                for number, (text, _) in enumerate(pairs)
            ],
        )
        write_lines(
            folder / f"marc_ja-v1.0/{split}-v1.0.json",
            [
                {"sentence": text, "label": ["positive", "negative"][number % 2]}
                for number, (text, _) in enumerate(pairs)
            ],
        )
        write_lines(
            folder / f"jcommonsenseqa-v1.3/{split}-v1.3.json",
            [
                {
                    "question": f"{text}それはどこか。",
                    **{f"choice{place}": name for place, name in enumerate(PLACES[:5])},
                    "label": number % 5,
                }
                for number, (text, _) in enumerate(pairs)
            ],
        )
        write_squad(folder / f"jsquad-v1.3/{split}-v1.3.json", drawn, size // 2)
    write_squad(folder / "jaquad_train_0000.json", drawn, 12)
    sentences = []
    for number in range(80):
        text = sentence(drawn)
        place = next(place for place in PLACES if f"が{place}に" in text)
        begin = text.index(f"が{place}に") + 1
        entity = {"name": place, "span": [begin, begin + len(place)], "type": "施設名"}
        sentences.append({"curid": str(number), "text": text, "entities": [entity]})
    (folder / "ner.json").write_text(json.dumps(sentences, ensure_ascii=False), encoding="utf-8")
    return folder


def write_squad(path: Path, drawn: random.Random, articles: int) -> Path:
    """Writes articles of two paragraphs with four sentences and one question each."""
    content = []
    for number in range(articles):
        paragraphs = []
        for part in range(2):
            sentences = [sentence(drawn) for _ in range(4)]
            context = "".join(sentences)
            answer = sentences[2][: sentences[2].index("が")]
            start = len(sentences[0] + sentences[1])
            question = {
                "id": f"{path.stem}-{number}-{part}",
                "question": "三つ目の文は誰の話か。",
                "answers": [{"text": answer, "answer_start": start}],
            }
            paragraphs.append({"context": context, "qas": [question]})
        content.append({"title": f"記事{number}", "paragraphs": paragraphs})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"data": content}, ensure_ascii=False), encoding="utf-8")
    return path
