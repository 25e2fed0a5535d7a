"""Executes the notebooks: writes NAME.ipynb and NAME.ja.ipynb from NAME.py and NAME.ja.py.

    python examples/build.py [NAME …] [--model PATH] [--no-execute]

The code of both languages is the same, so it runs once, in an empty directory with a copy of the quickstart's model.
Without `--model`, each notebook trains that model itself.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if "." not in path.stem and path.stem != "build")
# Outputs look the same on every machine: no progress bars, a fixed width.
ENVIRONMENT = {
    "COLUMNS": "100",
    "TTY_COMPATIBLE": "0",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
# Rates and times, which differ in each run: lines of progress, and the end of a line.
_SPEED = re.compile(r"^.*(, step [\d,]+ of |tokens/s).*\n| in \d+:\d\d:\d\d$", re.MULTILINE)


def read_source(path: Path) -> NotebookNode:
    """The notebook of a source, without outputs; it depends on nothing else."""
    notebook = jupytext.read(path)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{path.name.split('.')[0].replace('_', '-')}-{number}"
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The code cells of a notebook."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execute(notebook: NotebookNode, model: Path | None) -> NotebookNode:
    """Runs a notebook in a temporary directory; returns it with its outputs."""
    with TemporaryDirectory() as folder:
        if model is not None:
            shutil.copytree(model, Path(folder, "quickstart-model"))
        NotebookClient(
            notebook,
            timeout=1800,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
            extra_arguments=["--InteractiveShell.system_raise_on_error=True"],
        ).execute()
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = clean(output.text.replace(f"{folder}/", ""))
    return notebook


def clean(text: str) -> str:
    """Printed text without terminal escapes, trailing spaces and lines that depend on the machine's speed."""
    text = _SPEED.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n")))
    return re.sub(r" +$", "", text, flags=re.MULTILINE)


def main() -> None:
    """Builds the notebooks named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help="default: all")
    parser.add_argument("--model", type=Path, help="directory of a finished quickstart")
    parser.add_argument("--no-execute", action="store_true", help="keep the stored outputs; for changes of the text")
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    for name in options.names:
        if options.no_execute:
            executed = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        else:
            executed = execute(read_source(FOLDER / f"{name}.py"), options.model)
        for file in (name, f"{name}.ja"):
            notebook = read_source(FOLDER / f"{file}.py")
            for cell, done in zip(code_cells(notebook), code_cells(executed), strict=True):
                cell.outputs, cell.execution_count = done.outputs, done.execution_count
            nbformat.write(notebook, FOLDER / f"{file}.ipynb")


if __name__ == "__main__":
    main()
