"""Runs the code blocks of pages and writes their outputs into the pages.

    python docs/run_blocks.py --model quickstart-model docs/how-to/resume.md docs/explanation/packing.md
    python docs/run_blocks.py --model quickstart-model --check docs/how-to/*.md docs/explanation/*.md

A block of bash or Python is run if a block of text follows it, which holds its standard output. All blocks of a page
run in one temporary directory, with a model of `llm-jp-modernbert quickstart` as `quickstart-model` and the texts that
trained it as `texts.jsonl`. Python blocks share their variables. The Japanese page gets the same outputs.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

WITH_OUTPUT = re.compile(
    r"^```(bash|python)\n((?:(?!```).*\n)*)```\n\n```text\n((?:(?!```).*\n)*)(?=```$)", re.MULTILINE
)


@contextlib.contextmanager
def working_directory(model: Path) -> Iterator[Path]:
    """A temporary directory with the model and the texts, entered."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(model, folder / "quickstart-model")
        texts = files("llm_jp_modernbert.quickstart") / "corpus/train.jsonl"
        (folder / "texts.jsonl").write_text(texts.read_text("utf-8"), "utf-8")
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


def run(language: str, code: str, names: dict[str, Any]) -> str:
    """Standard output of a block."""
    if language == "python":
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(code, names)
        return output.getvalue()
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{code}\n{done.stdout}{done.stderr}")
    return done.stdout


def outputs(page: str, model: Path) -> list[str]:
    """Outputs of the blocks of a page."""
    names: dict[str, Any] = {}
    with working_directory(model) as folder:
        texts = [run(language, code, names) for language, code, _ in WITH_OUTPUT.findall(page)]
    lines = [[line.rstrip() for line in text.replace(f"{folder}/", "").splitlines()] for text in texts]
    return ["".join(f"{line}\n" for line in text).strip("\n") + "\n" for text in lines]


def with_outputs(page: str, texts: list[str]) -> str:
    """The page with other outputs."""
    remaining = iter(texts)

    def replaced(match: re.Match[str]) -> str:
        return match[0][: match.start(3) - match.start()] + next(remaining)

    return WITH_OUTPUT.sub(replaced, page)


def main() -> int:
    """Rewrites or checks the pages that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model of `llm-jp-modernbert quickstart`")
    parser.add_argument("--check", action="store_true", help="print differences instead of writing")
    parser.add_argument("pages", type=Path, nargs="+")
    options = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "100", "NO_COLOR": "1"}
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    different = False
    for english in (page for page in options.pages if not page.name.endswith(".ja.md")):
        texts = outputs(english.read_text("utf-8"), options.model.resolve())
        for page in filter(Path.exists, (english, english.with_suffix(".ja.md"))):
            before = page.read_text("utf-8")
            after = with_outputs(before, texts)
            different |= before != after
            if options.check:
                sys.stdout.writelines(difflib.unified_diff(before.splitlines(True), after.splitlines(True), str(page)))
            else:
                page.write_text(after, "utf-8")
    return int(options.check and different)


if __name__ == "__main__":
    sys.exit(main())
