"""Prepare a corpus from a recipe, on this machine or a cluster."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import lock
from llm_jp_modernbert.core.text_files import is_remote

if TYPE_CHECKING:
    from .recipe import CorpusRecipe, ExecutorName, Source
    from .steps import InputFile


def prepare_corpus(
    recipe: CorpusRecipe, executor: ExecutorName = "local", workers: int | None = None
) -> dict[str, Any] | None:
    """Prepares a corpus, or resumes an interrupted preparation.

    Args:
        recipe: the recipe.
        executor: where to run the tasks.
        workers: maximum number of tasks that run at the same time; by default the number of cores of this machine,
            or no limit on a cluster.

    Returns:
        The report; None if jobs were submitted to Slurm.

    Raises:
        UsageError: datatrove is missing, a file cannot be read, or `output_dir` holds something else.
    """
    if importlib.util.find_spec("datatrove") is None:
        raise UsageError('prepare-corpus needs datatrove: pip install "llm-jp-modernbert[corpus]"')
    if executor == "ray" and importlib.util.find_spec("ray") is None:
        raise UsageError('--executor ray needs Ray: pip install "ray[default]"')
    if executor == "slurm" and shutil.which("sbatch") is None:
        raise UsageError("--executor slurm: sbatch was not found. Run the command on a login node of the cluster.")
    from datatrove.io import get_datafolder

    from llm_jp_modernbert.training.data.remote import storage_errors

    from .decontamination import evaluation_sentences
    from .executors import run
    from .layout import MANIFEST, REPORT, WORK
    from .pipelines import SENTENCES, stages

    if recipe.output_dir.startswith("hf://"):
        raise UsageError(
            f"output_dir: {recipe.output_dir}: the Hub would get a commit for each file. Name a directory or an "
            "object store, and publish the result with release-dataset."
        )
    with storage_errors(recipe.output_dir):
        output = get_datafolder(recipe.output_dir)
        output.exists(MANIFEST)
    files = divide(input_files(recipe.sources), recipe.tasks)
    texts = recipe.decontamination
    sentences = evaluation_sentences(texts.texts, texts.min_characters) if texts is not None else []
    is_local = output.is_local()
    if is_local:
        recipe = replace(recipe, output_dir=os.path.abspath(output.path))
    # Object stores have no locks.
    with lock(Path(recipe.output_dir), "prepare-corpus") if is_local else storage_errors(recipe.output_dir):
        _check_same(output, f"{WORK}/inputs.json", recipe, files)
        if not output.exists(MANIFEST):
            with output.open(f"{WORK}/{SENTENCES}", "w") as file:
                json.dump(sentences, file)
            run(stages(recipe, files), recipe, executor, workers)
            if executor == "slurm":
                return None
        with output.open(REPORT, "r", encoding="utf-8") as file:
            report: dict[str, Any] = json.load(file)
            return report


def input_files(sources: list[Source]) -> list[InputFile]:
    """The files of all sources, in the order of the recipe.

    Raises:
        UsageError: a pattern matches no file, or a file type is unsupported.
    """
    from llm_jp_modernbert.training.data.readers import find_files
    from llm_jp_modernbert.training.data.remote import remote_size

    from .steps import InputFile

    files: dict[str, InputFile] = {}
    for source in sources:
        for found in find_files([source.path]):
            # Absolute, since tasks on other machines start in other directories.
            path = found if is_remote(found) else os.path.abspath(found)
            size = remote_size(path) if is_remote(path) else os.path.getsize(path)
            files.setdefault(path, InputFile(path, size, source.name or Path(path).parent.name, source.text_column))
    return list(files.values())


def divide(files: list[InputFile], tasks: int) -> list[list[InputFile]]:
    """Divides files over tasks such that their sizes are about equal: the largest first, each to the smallest task."""
    shares: list[list[InputFile]] = [[] for _ in range(tasks)]
    sizes = [0] * tasks
    for file in sorted(files, key=lambda file: -file.size):
        smallest = sizes.index(min(sizes))
        shares[smallest].append(file)
        sizes[smallest] += file.size
    return shares


def _check_same(output: Any, name: str, recipe: CorpusRecipe, files: list[list[InputFile]]) -> None:
    """Records the recipe and the inputs of a new preparation, or compares them with those of an interrupted one."""
    now: dict[str, Any] = {"recipe": recipe.plain(), "inputs": [[vars(file) for file in task] for task in files]}
    if not output.exists(name):
        if output.exists("") and output.list_files():
            raise UsageError(f"{recipe.output_dir} is not empty. Name a new output_dir.")
        with output.open(name, "w") as file:
            json.dump(now, file)
        return
    with output.open(name, "r") as file:
        before = json.load(file)
    keys = sorted(key for key in now["recipe"] if before["recipe"].get(key) != now["recipe"][key])
    if before["inputs"] != now["inputs"] and not keys:
        keys = ["input files"]
    if keys:
        raise UsageError(
            f"{recipe.output_dir}: was prepared with other settings ({', '.join(keys)}). Name another output_dir."
        )
