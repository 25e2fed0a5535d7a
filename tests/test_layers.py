"""Imports go down the layers of DESIGN, and folders do not import each other in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "llm_jp_modernbert"
FACE = "(public names and commands)"

# From the lowest layer to the highest. A package imports itself and packages of lower layers.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("modeling", "core"),
    ("tokenization",),
    ("inference",),
    ("encoding",),
    ("training",),
    ("training.finetuning",),
    ("training.retrieval",),
    ("evaluation",),
    # Below the cards, which read its records.
    ("adaptation",),
    ("model_cards",),
    ("publishing", "quickstart", "demo"),
    ("model_cards.research",),
    (FACE,),
)
# Imports between packages that the order of the layers would allow.
FORBIDDEN = {("evaluation", "training"), ("evaluation", "training.retrieval")}
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}
# Folders at the top of the repository that are imported as `llm_jp_modernbert.<folder>`.
FOLDERS = ("modeling", "tokenization", "training", "evaluation", "model_cards")


def sources() -> dict[str, Path]:
    """Module name → file, for all code that the layers cover."""
    modules = {}
    for top in (PACKAGE, *FOLDERS):
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if top == PACKAGE else (PACKAGE, *parts)
            modules[".".join(parts).removesuffix(".__init__")] = path
    return modules


def package_of(module: str) -> str:
    """The package of a module, as `LAYERS` names it."""
    below = module.removeprefix(PACKAGE).removeprefix(".")
    matching = [package for package in LEVEL if below == package or below.startswith(f"{package}.")]
    return max(matching, key=len, default=FACE)


def imports(module: str, path: Path, known: dict[str, Path], text: str | None = None) -> Iterator[str]:
    """Modules of this project that a file imports, inside functions and type-checking blocks as well."""
    parent = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8") if text is None else text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parent.split(".")[: len(parent.split(".")) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            names = [f"{origin}.{alias.name}" for alias in node.names]
            names = [name if name in known else origin for name in names]
        yield from (name for name in names if name.split(".")[0] == PACKAGE)


def upward_imports(module: str, path: Path, known: dict[str, Path], text: str | None = None) -> list[str]:
    """Imports of a file that the layers forbid, as readable lines."""
    own = package_of(module)
    forbidden = []
    for imported in imports(module, path, known, text):
        other = package_of(imported)
        if other != own and (LEVEL[other] >= LEVEL[own] or (own, other) in FORBIDDEN):
            forbidden.append(f"{module} ({own}) imports {imported} ({other})")
    return forbidden


def test_imports_go_down_the_layers() -> None:
    known = sources()
    forbidden = [line for module, path in known.items() for line in upward_imports(module, path, known)]
    assert not forbidden, "\n".join(forbidden)


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("training.trainer", "from llm_jp_modernbert import LlmJpModernBertConfig"),
        ("training.trainer", "def f():\n    from llm_jp_modernbert.publishing import release"),
        ("core.results", "from ..training.run import totals"),
        ("evaluation.evaluate", "from ..training.run import totals"),
        ("training.trainer", "from .finetuning import engine"),
        ("modeling.losses", "import llm_jp_modernbert.core.errors"),
        ("core.files", "from llm_jp_modernbert.cli import app"),
        ("model_cards.card", "from .research import findings"),
    ],
)
def test_planted_import_is_found(module: str, statement: str) -> None:
    known = sources()
    name = f"{PACKAGE}.{module}"
    assert upward_imports(name, known[name], known, statement)


def test_folders_import_each_other_in_no_circle() -> None:
    known = sources()
    graph: dict[Path, set[Path]] = {}
    for module, path in known.items():
        if path.name == "__init__.py":
            continue
        targets = (known[name] for name in imports(module, path, known) if name in known)
        graph.setdefault(path.parent, set()).update(
            target.parent for target in targets if target.parent != path.parent and target.name != "__init__.py"
        )
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(str(folder.relative_to(ROOT)) for folder in error.args[1]))


def test_modeling_uses_relative_imports_only() -> None:
    """The Hub carries this folder as custom code."""
    for path in (ROOT / "modeling").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.startswith(PACKAGE), path
