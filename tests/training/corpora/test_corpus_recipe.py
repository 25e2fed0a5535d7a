"""Corpus recipes: the packaged ones load, and mistakes are reported in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.training.corpora.prepare import prepare_corpus
from llm_jp_modernbert.training.corpora.recipe import Range, Source, load_recipe, shipped

GIVEN = ["data=texts.jsonl", "output_dir=out"]


@pytest.mark.parametrize("name", shipped())
def test_packaged_recipe_loads(name: str) -> None:
    recipe = load_recipe(name, [*GIVEN])
    assert recipe.sources == [Source("texts.jsonl")]
    assert recipe.filters


def test_overrides_change_single_keys() -> None:
    recipe = load_recipe("japanese-web", [*GIVEN, "filters.kana.min=0.2", "tasks=4"])
    assert recipe.filters["kana"] == Range(min=0.2)
    assert recipe.filters["latin"] == load_recipe("japanese-web", [*GIVEN]).filters["latin"]
    assert recipe.tasks == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tusks=4", "unknown key tusks"),
        ("filters.kanaa.min=1", "unknown key filters.kanaa. Did you mean kana?"),
        ("filters.kana.low=1", "unknown key filters.kana.low"),
        ("data=[{path: a, nme: b}]", "unknown key data.0.nme"),
        ("tasks=many", "tasks: Input should be a valid integer"),
        ("tasks=0", "tasks: Input should be greater than or equal to 1"),
        ("near_duplicates.bands=0", "near_duplicates.bands: Input should be greater"),
        ("decontamination={texts: [a], share: 2}", "decontamination.share: Input should be less than or equal to 1"),
        ("validation_share=1", "validation_share: Input should be less than 1"),
        ("filters.kana.min=2", "filters.kana: no text is in this range"),
        ("filters.kana.max=-0.1", "filters.kana: no text is in this range"),
        ("filters.characters={min: 200, max: 100}", "filters.characters: no text is in this range"),
        ("normalization=NFD", "normalization: Input should be"),
        ("output_dir=''", "output_dir is not set"),
        ("data=[]", "data is not set"),
        ("tasks", "give key=value"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe("japanese-web", [*GIVEN, override])


def test_missing_datatrove_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datatrove", None)
    recipe = load_recipe("japanese-web", ["data=a.jsonl", f"output_dir={tmp_path / 'out'}"])
    with pytest.raises(UsageError, match=r'pip install "llm-jp-modernbert\[corpus\]"'):
        prepare_corpus(recipe)
