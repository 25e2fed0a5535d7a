"""Hooks of mkdocs that add the pages made at build: the notebooks of examples/, and the reference.

They exist only in memory, so that nothing generated can be edited or become outdated.
"""

from __future__ import annotations

import atexit
import base64
import inspect
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import nbformat
from griffe import Docstring, DocstringSectionKind
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
TUTORIALS = (
    "fill_mask",
    "classification",
    "entities",
    "search",
    "long_documents",
    "adaptation",
    "pretraining",
    "publishing",
)
FIGURES = ROOT / "model_cards/llm-jp-modernbert-nano/assets"
NAME = "llm-jp-modernbert"
WIDE = "---\nhide: [toc]\n---\n\n"
RECIPES = """# Pre-training recipes

A recipe of `pretrain` is a YAML file with these keys; an unknown key is an error. `key=value` on the command line
overrides one, and `--print-config` prints all values that a run would use.

## Keys of this package

{own}
## Keys of transformers

These keep the meaning that they have in `TrainingArguments` of transformers. The defaults are those of `pretrain`.

{inherited}
## Packaged recipes

{packaged}"""
CORPUS_RECIPES = """# Corpus recipes

A recipe of `prepare-corpus` is a YAML file with these keys; an unknown key is an error. `key=value` on the command
line overrides one.

{tables}
## Keys of filters

Each of {filters} accepts `min` and `max`.

## Packaged recipes

{packaged}"""
RESULTS = """# Result files

`results/<task>/<model>/<protocol>-<key>.json` is an object with `schema` (now {schema}) and `rows`. Each row is one
value with these fields. `….instances.jsonl` next to it has the output of the model for each example.

{rows}"""
MAPPED = ("modeling", "tokenization", "training", "evaluation", "model_cards")


def notebook(path: Path) -> str:
    """A notebook with its stored outputs as Markdown; images become data URIs."""
    stored = nbformat.read(path, as_version=4)
    stored.metadata.language_info = {"name": "python"}
    text, resources = MarkdownExporter().from_notebook_node(stored)
    for name, content in resources["outputs"].items():
        text = text.replace(f"({name})", f"(data:image/png;base64,{base64.b64encode(content).decode()})")
    # Colab's badge is a remote image.
    text = re.sub(r"\[!\[([^]]*)\]\(https://colab[^)]*\)\]", r"[\1]", text)
    text = text.replace("](../docs/", "](../")
    # The language of a link is that of the page. Links to notebooks that are not there become text.
    text = re.sub(r"\]\((\w+)(?:\.ja)?\.ipynb\)", r"](\1.md)", text)
    return re.sub(r"\[([^]]*)\]\((\w+)\.md\)", lambda link: link[0] if has_notebook(link[2]) else link[1], text)


def has_notebook(name: str) -> bool:
    """Whether examples/ has a notebook."""
    return (EXAMPLES / f"{name}.ipynb").is_file()


def source_tree() -> str:
    """A directory with links to the source files under their import names, as setup.py maps them."""
    folder = Path(tempfile.mkdtemp(prefix="llm-jp-modernbert-docs-"))
    atexit.register(shutil.rmtree, folder)
    package = folder / "llm_jp_modernbert"
    package.mkdir()
    for path in [*(ROOT / package.name).iterdir(), *(ROOT / name for name in MAPPED)]:
        (package / path.name).symlink_to(path)
    return str(folder)


def python_api() -> str:
    """The public names, for mkdocstrings to document."""
    import llm_jp_modernbert

    entries = "\n".join(f"::: llm_jp_modernbert.{name}\n" for name in llm_jp_modernbert.__all__)
    return f"# Python API\n\nAll names are imported from `llm_jp_modernbert`.\n\n{entries}"


def commands() -> str:
    """All commands with their options."""
    command = (sys.executable, "-m", "typer", "llm_jp_modernbert.cli", "utils", "docs")
    options = ("--name", NAME, "--title", "Commands")
    text = subprocess.run([*command, *options], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    # The table of contents lists the commands; typer's list truncates their descriptions.
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text)
    return re.sub(rf"^(##+) `{NAME} (.*)`$", r"\1 \2", text, flags=re.MULTILINE)


def descriptions(*documented: type) -> dict[str, str]:
    """Descriptions of the attributes in the docstrings of classes."""
    texts = {}
    for item in documented:
        for section in Docstring(inspect.cleandoc(item.__doc__ or "")).parse("google", warnings=False):
            if section.kind is DocstringSectionKind.attributes:
                texts.update({attribute.name: attribute.description for attribute in section.value})
    return texts


def table(keys: Iterable[Field[Any]], described: dict[str, str]) -> str:
    """A table of fields of dataclasses with their types, defaults as in JSON, and descriptions."""
    rows = [("key", "type", "default", "description"), ("---",) * 4]
    for key in keys:
        default = key.default if key.default_factory is MISSING else key.default_factory()
        plain = asdict(default) if is_dataclass(default) and not isinstance(default, type) else default
        text = "required" if plain is MISSING else f"`{json.dumps(plain, default=str)}`"
        rows.append((f"`{key.name}`", f"`{getattr(key.type, '__name__', key.type)}`", text, described[key.name]))
    lines = "".join(f"| {' | '.join(' '.join(cell.split()) for cell in row)} |\n" for row in rows)
    return f'<div class="keys" markdown>\n\n{lines}\n</div>\n\n'


def packaged(folder: Path) -> str:
    """The recipes of a folder, each with its comments."""
    return "".join(
        f"### {path.stem}\n\n```yaml\n{path.read_text('utf-8')}```\n\n" for path in sorted(folder.glob("*.yaml"))
    )


def recipes() -> str:
    """All keys of pre-training recipes."""
    from transformers import TrainingArguments

    from llm_jp_modernbert.training.recipe.arguments import PretrainingArguments

    inherited = {key.name: key.metadata.get("help", "") for key in fields(TrainingArguments)}
    described = inherited | descriptions(PretrainingArguments)
    keys = [key for key in fields(PretrainingArguments) if key.init]
    return WIDE + RECIPES.format(
        own=table((key for key in keys if key.name not in inherited), described),
        inherited=table((key for key in keys if key.name in inherited), described),
        packaged=packaged(ROOT / "training/recipes"),
    )


def corpus_recipes() -> str:
    """All keys of corpus recipes."""
    from llm_jp_modernbert.training.corpora import recipe
    from llm_jp_modernbert.training.corpora.measures import MEASURES

    parts = {
        "Keys": recipe.CorpusRecipe,
        "Entries of data": recipe.Source,
        "Keys of near_duplicates": recipe.NearDuplicates,
        "Keys of decontamination": recipe.Decontamination,
        "Keys of slurm": recipe.Slurm,
    }
    tables = "".join(f"## {title}\n\n{table(fields(part), descriptions(part))}\n" for title, part in parts.items())
    return WIDE + CORPUS_RECIPES.format(
        tables=tables,
        filters=", ".join(f"`{name}`" for name in MEASURES),
        packaged=packaged(ROOT / "training/corpora/recipes"),
    )


def results() -> str:
    """The schema of results."""
    from llm_jp_modernbert.core.results import SCHEMA, Measurement, Row, Run

    return WIDE + RESULTS.format(schema=SCHEMA, rows=table(fields(Row), descriptions(Measurement, Run, Row)))


def notebooks() -> list[Path]:
    """The notebooks, those for beginners first."""
    order = {name: number for number, name in enumerate(TUTORIALS)}
    return sorted(
        EXAMPLES.glob("*.ipynb"), key=lambda path: (order.get(path.name.split(".")[0], len(order)), path.name)
    )


PAGES: dict[str, Callable[[], str]] = {
    "reference/python.md": python_api,
    "reference/commands.md": commands,
    "reference/recipes.md": recipes,
    "reference/corpus-recipes.md": corpus_recipes,
    "reference/results.md": results,
    **{f"tutorials/{path.stem}.md": partial(notebook, path) for path in notebooks()},
}


@cache
def generated(name: str) -> str | None:
    """Text of a generated page."""
    return PAGES[name]() if name in PAGES else None


@event_priority(100)  # before mkdocstrings reads its settings
def on_config(config: MkDocsConfig) -> None:
    """Adds the notebooks to the navigation, and the source folder to the settings of mkdocstrings."""
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [source_tree()]
    section = next(item for item in config.nav or [] if isinstance(item, dict) and "Tutorials" in item)
    section["Tutorials"] = [name for name in PAGES if name.startswith("tutorials/") and ".ja." not in name]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the generated pages, and the figures of the nano model."""
    for name in PAGES:
        files.append(File(name, config.docs_dir, config.site_dir, config.use_directory_urls))
    for path in FIGURES.glob("*.png"):
        files.append(File.generated(config, f"figures/{path.name}", abs_src_path=str(path)))


def on_page_read_source(page: Page, config: MkDocsConfig) -> str | None:
    """Text of a page, if it is generated."""
    return generated(page.file.src_uri)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Joins the lines of Japanese paragraphs, which browsers would separate by spaces."""
    if not page.file.src_uri.endswith(".ja.md"):
        return markdown
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    # The next line is not a list, table, heading, quotation or code block.
    parts[::2] = [re.sub(r"(?<=[^\x00-\x7f])\n {0,3}(?=[^\s*|#>`-]|`[^`])", "", part) for part in parts[::2]]
    parts[::2] = [re.sub(r"(?<=[^\s|])\n {0,3}(?=[^\s\x00-\x7f])", "", part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Marks outputs that contain tables, which must not be wrapped."""
    output = re.compile(r'(?<=<div class="language-text) (?=highlight">(?:(?!</pre>).)*───)', re.DOTALL)
    return output.sub(" aligned ", html)
