"""Synthetic Japanese documents."""

from __future__ import annotations

import json
import random
from pathlib import Path

WORDS = [
    *("私は", "彼女が", "昨日", "東京で", "買った", "本を", "静かな", "部屋で", "読みながら", "雨の"),
    *("音を", "聞いて", "いた", "犬と", "猫も", "庭に", "出て", "空を", "見上げた"),
]


def sentences(seed: int, count: int = 20) -> str:
    generator = random.Random(seed)
    return "\n".join(f"{''.join(generator.sample(WORDS, 9))}{number}回目。" for number in range(count))


def write(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), "utf-8")
