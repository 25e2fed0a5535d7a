"""Navigation, translations and links of the manual, its spelling, and its build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MODEL = "LLM_JP_MODERNBERT_QUICKSTART_MODEL"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not path.name.endswith(".ja.md"))
TRANSLATED = sorted(DOCS.rglob("*.ja.md"))
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
FIGURES = ROOT / "model_cards/llm-jp-modernbert-nano/assets"


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without its Python objects."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
CONFIG: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), Loader)


def leaves(nav: Any) -> list[str]:
    """Pages of a navigation."""
    if isinstance(nav, str):
        return [nav]
    return [page for item in (nav.values() if isinstance(nav, dict) else nav) for page in leaves(item)]


def sections(nav: Any) -> set[str]:
    """Titles of the sections of a navigation."""
    items = [item for item in nav if isinstance(item, dict)] if isinstance(nav, list) else []
    return {title for item in items for title, inner in item.items() for title in {title, *sections(inner)}}


GENERATED = [page for page in leaves(CONFIG["nav"]) if page.startswith("reference/")]


def relative(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


def slugs(text: str) -> set[str]:
    """Anchors of the headings, as pymdownx.slugs makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", unicodedata.normalize("NFC", heading)).strip().lower() for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


def test_navigation_lists_every_page_once() -> None:
    listed = Counter(leaves(CONFIG["nav"]))
    assert listed == Counter([*map(relative, PAGES), *GENERATED])


def test_every_section_and_page_is_in_japanese() -> None:
    assert [relative(page).replace(".ja.md", ".md") for page in TRANSLATED] == [relative(page) for page in PAGES]
    japanese = next(plugin["i18n"] for plugin in CONFIG["plugins"] if "i18n" in plugin)["languages"][1]
    assert set(japanese["nav_translations"]) == sections(CONFIG["nav"])


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_code_and_outputs_are_equal_in_both_languages(page: Path) -> None:
    english, japanese = (FENCED.findall(path.read_text("utf-8")) for path in (page, page.with_suffix(".ja.md")))
    assert english == japanese


@pytest.mark.parametrize("page", [*PAGES, *TRANSLATED], ids=relative)
def test_every_code_block_names_its_language_and_ends(page: Path) -> None:
    fences = re.findall(r"^```(.*)$", page.read_text("utf-8"), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert all(fences[::2])
    assert not any(fences[1::2])


@pytest.mark.parametrize("page", [*PAGES, *TRANSLATED, *ROOT.glob("*.md")], ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    text = FENCED.sub("", page.read_text("utf-8"))
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", text):
        path = (page.parent / target).resolve() if target else page
        is_generated = path.is_relative_to(DOCS) and relative(path) in GENERATED
        is_figure = path.parent == DOCS / "figures" and (FIGURES / path.name).is_file()
        assert path.exists() or is_generated or is_figure, target
        translated = path.with_suffix(".ja.md") if page in TRANSLATED else path
        if anchor and not is_generated:
            assert anchor in slugs((translated if translated.exists() else path).read_text("utf-8"))


def test_no_page_repeats_another() -> None:
    for pages in (PAGES, TRANSLATED):
        texts = [FENCED.sub("", page.read_text("utf-8")) for page in pages]
        paragraphs = Counter(
            item for text in texts for item in set(re.split(r"\n(?=\* )|\n\n", text)) if len(item) > 150
        )
        assert [item for item, count in paragraphs.items() if count > 1] == []


@pytest.mark.slow
def test_manual_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    html = [path.read_text("utf-8") for path in (tmp_path / "site").rglob("*.html")]
    assert len(html) > 2 * len(PAGES)
    # Nothing is fetched from another server.
    assert not any(re.search(r'<(?:script|img|link)[^>]*(?:src|href)="https?://', text) for text in html)


@pytest.mark.slow
def test_spelling() -> None:
    pytest.importorskip("codespell_lib")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    # The tests misspell words on purpose.
    checked = re.compile(r"(?!tests/|model_cards/llm).*\.(md|py|yaml)")
    files = list(filter(checked.fullmatch, tracked))
    options = ["--ignore-words-list", "ative,paria"]
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *options, *files], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.skipif(MODEL not in os.environ, reason=f"takes minutes; {MODEL}=quickstart-model runs it")
def test_code_with_outputs_runs(tmp_path: Path) -> None:
    copies = [Path(shutil.copy(page, tmp_path / page.name)) for page in PAGES]
    command = [sys.executable, DOCS / "run_blocks.py", "--model", os.environ[MODEL], *copies]
    subprocess.run(list(map(str, command)), check=True)
    for page, copy in zip(PAGES, copies, strict=True):
        assert FENCED.sub("", copy.read_text("utf-8")) == FENCED.sub("", page.read_text("utf-8"))
