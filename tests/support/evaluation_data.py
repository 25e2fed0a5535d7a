"""Small data in the official layouts, of original sentences."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

SUBJECTS = ["猫", "犬", "先生", "学生", "母", "弟", "医者", "鳥"]
PLACES = ["駅", "学校", "公園", "図書館", "海", "山", "病院", "庭"]
VERBS = ["行く", "着く", "集まる", "向かう"]
WORDS = [*SUBJECTS, "が", *PLACES, "に", *VERBS, "。"]


def sentence(drawn: random.Random) -> str:
    """A sentence of a small world."""
    return f"{drawn.choice(SUBJECTS)}が{drawn.choice(PLACES)}に{drawn.choice(VERBS)}。"


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_data(folder: Path) -> Path:
    """JSTS, JNLI, JCoLA, JCommonsenseQA, MARC-ja, JSQuAD, JaQuAD and NER, a few dozen examples each."""
    drawn = random.Random(0)
    for split, size in (("train", 60), ("valid", 20)):
        pairs = [(sentence(drawn), sentence(drawn)) for _ in range(size)]
        common = [{"sentence1": one, "sentence2": other} for one, other in pairs]
        grades = [5.0 * len(set(one) & set(other)) / len(set(one) | set(other)) for one, other in pairs]
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
            [{"uid": number, "label": int(number % 5 > 0), "sentence": one} for number, (one, _) in enumerate(pairs)],
        )
        write_lines(
            folder / f"marc_ja-v1.0/{split}-v1.0.json",
            [
                {"sentence": one, "label": ["positive", "negative"][number % 2]}
                for number, (one, _) in enumerate(pairs)
            ],
        )
        write_lines(
            folder / f"jcommonsenseqa-v1.3/{split}-v1.3.json",
            [
                {
                    "question": f"{one}それはどこか。",
                    **{f"choice{place}": name for place, name in enumerate(PLACES[:5])},
                    "label": number % 5,
                }
                for number, (one, _) in enumerate(pairs)
            ],
        )
        write_squad(folder / f"jsquad-v1.3/{split}-v1.3.json", drawn, size // 2)
    write_squad(folder / "jaquad_train_0000.json", drawn, 12)
    named = []
    for number in range(80):
        text = sentence(drawn)
        place = next(place for place in PLACES if f"が{place}に" in text)
        begin = text.index(f"が{place}に") + 1
        entity = {"name": place, "span": [begin, begin + len(place)], "type": "施設名"}
        named.append({"curid": str(number), "text": text, "entities": [entity]})
    (folder / "ner.json").write_text(json.dumps(named, ensure_ascii=False), encoding="utf-8")
    return folder


def write_squad(path: Path, drawn: random.Random, articles: int) -> Path:
    """Articles of two paragraphs of several sentences, each paragraph with a question."""
    content = []
    for number in range(articles):
        paragraphs = []
        for part in range(2):
            sentences = [sentence(drawn) for _ in range(4)]
            context = "".join(sentences)
            answer = sentences[2][: sentences[2].index("が")]
            start = len(sentences[0] + sentences[1])
            asked = {
                "id": f"{path.stem}-{number}-{part}",
                "question": "三つ目の文は誰の話か。",
                "answers": [{"text": answer, "answer_start": start}],
            }
            paragraphs.append({"context": context, "qas": [asked]})
        content.append({"title": f"記事{number}", "paragraphs": paragraphs})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"data": content}, ensure_ascii=False), encoding="utf-8")
    return path
