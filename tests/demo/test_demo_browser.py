"""The demo in a real browser: every tab as a person uses it, mistakes, and several visitors.

Needs the package playwright and Chromium. `DEMO_SCREENSHOTS` names a directory for pictures of all tabs.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from releases import write_results

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("gradio", reason="gradio is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]

# The name of each tab in English and Japanese, and the element of its result.
TABS = {
    "fill-mask-candidates": ("Fill masks", "穴埋め"),
    "tokens-result": ("Tokens", "トークン"),
    "search-result": ("Search", "検索"),
    "heat-map-result": ("Perplexity", "パープレキシティ"),
    "similarity-result": ("Similarity", "類似度"),
}
SCORES = ("Leaderboard", "リーダーボード")


@pytest.fixture(scope="module")
def names(modernbert: Path, bert: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Models: those that `DEMO_MODELS` names, for pictures, or tiny ones."""
    longer = shutil.copytree(modernbert, tmp_path_factory.mktemp("longer") / "modernbert")
    config = json.loads((longer / "config.json").read_text())
    (longer / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1024}))
    return os.environ.get("DEMO_MODELS", f"{longer} {bert}").split()


@pytest.fixture(scope="module")
def address(names: list[str], modernbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from llm_jp_modernbert.demo.app import launch

    results = write_results(tmp_path_factory.mktemp("results"), modernbert)
    application, address = launch(names, Path(os.environ.get("DEMO_RESULTS", results)))
    yield address
    application.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Any]:
    """Opens the demo as a new visitor, and fails if the page asks other machines or logs an error."""
    contexts, problems = [], []

    def open_page(language: str = "ja-JP", width: int = 1280, scheme: str = "light") -> Any:
        contexts.append(
            browser.new_context(locale=language, viewport={"width": width, "height": 844}, color_scheme=scheme)
        )
        page = contexts[-1].new_page()
        page.on("request", lambda request: request.url.startswith((address, "data:")) or problems.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append("a script of a visitor ran"))
        page.goto(address)
        page.wait_for_selector("#fill-mask-text textarea")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


def open_tab(page: Any, name: str) -> None:
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.is_visible():
        page.get_by_label("More tabs").locator("visible=true").click()
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.click()


def write(page: Any, box: str, text: str) -> None:
    """Types a text with the keyboard; Japanese arrives as from an input method."""
    area = page.locator(f"#{box} textarea, #{box} input").first
    area.click()
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.keyboard.insert_text(text)


def run(page: Any) -> None:
    page.locator("button.primary").locator("visible=true").click()


@pytest.mark.parametrize(
    ("language", "width", "scheme"), [("ja-JP", 1280, "light"), ("en-US", 390, "dark"), ("ja-JP", 390, "light")]
)
def test_every_tab_shows_a_result(visit: Any, language: str, width: int, scheme: str) -> None:
    page = visit(language, width, scheme)
    for result, names in (*TABS.items(), (None, SCORES)):
        open_tab(page, names[language == "ja-JP"])
        if result is None:
            page.wait_for_selector(".leaderboard table")
        else:
            run(page)
            page.wait_for_selector(f"#{result} :is(h3, table)")
        # Nothing leaves the screen to the right.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if folder := os.environ.get("DEMO_SCREENSHOTS"):
            if result == "heat-map-result":
                page.hover(".heat span >> nth=2")
            page.wait_for_timeout(1000)
            name = "leaderboard" if result is None else result.rpartition("-")[0]
            page.screenshot(path=f"{folder}/demo-{name}-{width}-{language[:2]}-{scheme}.png", full_page=True)


def test_clicked_candidates_fill_the_text(visit: Any) -> None:
    page = visit()
    write(page, "fill-mask-text", "今日の[MASK]は[MASK]。")
    run(page)
    candidate = page.locator(".candidate[data-mask='1']").nth(2)
    chosen = candidate.get_attribute("data-text")
    candidate.click()
    page.wait_for_selector(".candidate[data-mask='1'][aria-pressed='true']")
    assert page.locator("#fill-mask-text textarea").input_value() == f"今日の[MASK]は{chosen}。"
    write(page, "fill-mask-text", "別の文")
    page.locator(".candidate").first.click()
    page.get_by_text("もう一度予測してから").wait_for()


@pytest.mark.parametrize(
    ("tab", "box", "text", "message"),
    [
        ("穴埋め", "fill-mask-text", "", "テキストを入力してください。"),
        ("穴埋め", "fill-mask-text", "今日", "[MASK] がありません。"),
        ("トークン", "tokens-text", "今日" * 5000, "短くしてください。"),
        ("検索", "search-question", "", "テキストを入力してください。"),
        ("検索", "search-document", "猫。" * 40_000, "上限の 60,000 文字を超えています。"),
        ("パープレキシティ", "heat-map-text", "今日" * 5000, "トークンを超えています。"),
        ("類似度", "similarity-text", "一文だけ", "（現在 1 文）"),
    ],
)
def test_mistake_gives_one_clear_line(visit: Any, tab: str, box: str, text: str, message: str) -> None:
    page = visit()
    open_tab(page, tab)
    write(page, box, text)
    run(page)
    alert = page.locator(".alert").first
    alert.wait_for()
    assert message in alert.inner_text()


def test_what_a_visitor_writes_is_text(visit: Any) -> None:
    hostile = '"><img src=x onerror=alert(1)>${alert(2)}{{value}}'
    page = visit()
    for result, box in (("tokens", "tokens-text"), ("search", "search-document"), ("heat-map", "heat-map-text")):
        open_tab(page, TABS[f"{result}-result"][1])
        write(page, box, hostile)
        run(page)
        page.wait_for_selector(f"#{result}-result :is(h3, .alert)")
        assert page.locator(f"#{result}-result img").count() == 0


def test_found_sentence_is_scrolled_to(visit: Any) -> None:
    page = visit()
    open_tab(page, "検索")
    write(page, "search-document", "今日は晴れ。\n" * 3 + "猫がいる。")
    run(page)
    page.locator(".results button").last.click()
    page.wait_for_function("document.activeElement.matches('mark[data-sentence]')")


def test_two_visitors_do_not_mix(visit: Any) -> None:
    first, second = visit(), visit("en-US")
    write(first, "fill-mask-text", "今日は[MASK]。")
    write(second, "fill-mask-text", "[MASK]は猫。")
    run(first)
    run(second)
    for page, before, after in ((first, "今日は", "。"), (second, "", "は猫。")):
        page.wait_for_selector(".candidate")
        chosen = page.locator(".candidate").first.get_attribute("data-text")
        page.locator(".candidate").first.click()
        page.wait_for_selector(".candidate[aria-pressed='true']")
        assert page.locator("#fill-mask-text textarea").input_value() == f"{before}{chosen}{after}"
    write(second, "fill-mask-text", "")
    run(second)
    second.get_by_text("Enter a text first.").wait_for()


def test_visitors_reach_no_files_and_no_other_models(address: str, names: list[str]) -> None:
    for path in ("/etc/passwd", Path(names[0]) / "config.json", Path.cwd() / "setup.py"):
        assert httpx.get(f"{address}gradio_api/file={path}").status_code in (403, 404)
    refused = httpx.post(f"{address}gradio_api/upload", files={"files": b"some bytes"})
    assert refused.status_code == 413
    config = httpx.get(f"{address}config").json()
    assert names[0] not in str(config)
    (similarity,) = (
        number for number, call in enumerate(config["dependencies"]) if "show_4" in str(call.get("api_name"))
    )
    body = {"data": ["en", "org/other", "a\nb"], "fn_index": similarity, "session_hash": "other"}
    httpx.post(f"{address}gradio_api/queue/join", json=body).raise_for_status()
    with httpx.stream("GET", f"{address}gradio_api/queue/data?session_hash=other", timeout=60) as events:
        text = "".join(events.iter_text())
    assert "org/other is not in the list of choices" in text.replace("\\n", "")
