"""`llm-jp-modernbert prepare-corpus`: filters, deduplicates and splits a corpus."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer


def prepare_corpus(
    recipe: Annotated[str, typer.Argument(help="Name of a packaged recipe, or path of a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Keys to change. Values are YAML.", metavar="[KEY=VALUE]…")
    ] = None,
    executor: Annotated[
        Literal["local", "slurm", "ray"], typer.Option(help="Where to run the tasks of the recipe.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(help="Maximum number of tasks at the same time. By default all cores, or no limit.", min=1),
    ] = None,
) -> None:
    """Filters, deduplicates and splits a corpus. Run the command again to resume an interrupted job.

    Recipes: `japanese-web` and `japanese-books`. Needs `pip install "llm-jp-modernbert[corpus]"`.

    Examples:

    * `llm-jp-modernbert prepare-corpus japanese-web data="pages/*.jsonl.gz" output_dir=corpus tasks=8 --workers 8`

    * `llm-jp-modernbert prepare-corpus my-recipe.yaml --executor slurm`
    """
    from llm_jp_modernbert.training.corpora.prepare import prepare_corpus as run
    from llm_jp_modernbert.training.corpora.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    report = run(loaded, executor, workers)
    if report is None:
        print(f"Submitted. The corpus is complete when {loaded.output_dir} contains manifest.json.")
        return
    _print(report, loaded.output_dir)


def _print(report: dict[str, Any], output_dir: str) -> None:
    from llm_jp_modernbert.training.corpora.layout import PAGE

    print(f"{report['documents_read']:,} documents read")
    for step in report["steps"]:
        print(f"{step['name']}: {step['documents']:,} documents, {step['characters']:,} characters")
    for split, counts in report["splits"].items():
        print(f"{split}: {counts['documents']:,} documents, {counts['characters']:,} characters in {output_dir}")
    if not any(counts["documents"] for counts in report["splits"].values()):
        print(f"No document is left. {output_dir}/{PAGE} shows samples of what each step removed.")
