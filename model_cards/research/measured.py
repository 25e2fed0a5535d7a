"""Write the finished card of a model that was trained and evaluated with this package.

    python -m llm_jp_modernbert.model_cards.research.measured FOLDER --release STAGED --results results \\
        --stage1 runs/small --stage2 runs/small-8k --other-theta runs/small-8k-theta10k \\
        --packed runs/packed-0 --padded runs/padded-0 --packed runs/packed-1 --padded runs/padded-1

`FOLDER/card.json` is written by hand: `name`, `license`, `languages`, `remarks` and the training `commands`. The other
files are generated: `README.md`, `findings.json`, `measured.json` (fill-mask predictions and checkpoints),
`config.json`, `training.json`, `recipe.yaml`, `assets/` with the plots, and `results/` with the results of all
checkpoints, for `llm-jp-modernbert leaderboard --results FOLDER/results`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import join
from tempfile import TemporaryDirectory
from typing import Any

from llm_jp_modernbert.core.checkpoint_names import CheckpointName
from llm_jp_modernbert.core.clean_process import reload_alone
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import atomic_directory, read_json, write_json
from llm_jp_modernbert.core.plots import save, style
from llm_jp_modernbert.core.results import Results, instances_of, model_folder, read_rows, write_rows
from llm_jp_modernbert.evaluation.plots import plot_all
from llm_jp_modernbert.evaluation.report.plots import Measured
from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.publishing.staging import ASSETS, RECIPE, RESULTS, everyday_masks

from .. import commands
from ..facts import EvaluatedCheckpoint, read_config
from ..plots import plot_training
from .findings import Models, findings, learning_curve
from .finished import FINDINGS, MEASURED, write_card

_TOP_PREDICTIONS = 3
# Alignment-uniformity and pseudo-perplexity by context are in the plots of the findings.
_PLOTTED = (("fill-mask", "default"), ("similarity", "default"), ("pseudo-perplexity", "paper"))


@dataclass(frozen=True)
class Sources:
    """Inputs of a finished card; `--help` describes them."""

    release: Path
    results: Path
    stage1: str
    stage2: str
    other_theta: str | None
    packed: list[str]
    padded: list[str]


def write_folder(folder: Path, sources: Sources, command: str) -> Path:
    """Write all files of a finished card except `card.json`; `command` is the command line shown in the card.

    Raises:
        UsageError: an input is missing or contradicts another one.
    """
    if len(sources.packed) != len(sources.padded):
        raise UsageError("--packed and --padded: give the same number of runs, in the same order of seeds.")
    card = read_json(folder / "card.json")
    measured = [Measured(rows, instances) for rows, instances in Results(sources.results).measurements()]
    training = read_json(sources.release / "training.json")
    checkpoints = _checkpoints(measured, sources, training)
    for name in ("config.json", "training.json", RECIPE):
        shutil.copyfile(sources.release / name, folder / name)
    public_names = {
        model: f"{card['name']}@{checkpoint.stage}-step-{checkpoint.step}" for model, checkpoint in checkpoints.items()
    }
    if sources.other_theta is not None:
        stage = read_json(Path(sources.other_theta) / "training.json")["stages"][-1]
        revision = f"{stage['stage']}-theta{_theta(sources.other_theta):.0f}-step-{stage['steps']}"
        public_names[sources.other_theta] = f"{card['name']}@{revision}"
    (folder / ASSETS).mkdir(exist_ok=True)
    for old_plot in (folder / ASSETS).glob("*.png"):
        old_plot.unlink()
    plot_training(training, folder)
    _write_results(public_names, checkpoints, sources, folder)
    written = []
    with style():
        for finding, figure in findings(measured, _models(sources, checkpoints, training)):
            finding = replace(finding, plot=f"{ASSETS}/finding-{finding.key}.png")
            save(figure, folder / f"{finding.plot}")
            written.append(asdict(finding))
    _write_json(folder / FINDINGS, written)
    order = list(public_names)
    rows = [row for result in measured for row in result.rows if os.path.normpath(row.model) in public_names]
    rows.sort(key=lambda row: order.index(os.path.normpath(row.model)))
    tokenizer = load_tokenizer(str(sources.release))
    texts = everyday_masks()
    # The release must give these predictions with transformers alone.
    answers = reload_alone(sources.release, texts, _TOP_PREDICTIONS)["answers"]
    facts = {
        "dtype": str(read_json(sources.release / "config.json").get("dtype", "float32")),
        "tokenizer": {
            "vocabulary_size": len(tokenizer),
            "mask_token": tokenizer.mask_token,
            "model_max_length": tokenizer.model_max_length,
        },
        # A space alone is shown as vocabularies write it.
        "examples": [
            {"text": text, "answers": [(token["token_str"].strip() or "▁", token["score"]) for token in predictions]}
            for text, predictions in zip(texts, answers, strict=True)
        ],
        "evaluated_checkpoints": [
            {
                key: value
                for key, value in (asdict(checkpoint) | {"name": public_names[model]}).items()
                if key != "rows"
            }
            for model, checkpoint in checkpoints.items()
        ],
        "commands": [
            *card.get("commands", []),
            *commands.evaluations(rows),
            f"llm-jp-modernbert release {sources.stage2} --repo ORG/{card['name'].rpartition('/')[2]} \\\n"
            f"    --results {sources.results} --dry-run {sources.release}",
            command,
        ],
    }
    _write_json(folder / MEASURED, facts)
    return write_card(folder)


def _checkpoints(
    measured: Sequence[Measured], sources: Sources, training: dict[str, Any]
) -> dict[str, EvaluatedCheckpoint]:
    """Evaluated checkpoints of both stages in training order, by model name in the results."""
    models = list(dict.fromkeys(os.path.normpath(result.model) for result in measured))
    runs = {"--stage1": sources.stage1, "--stage2": sources.stage2}
    if len(training["stages"]) != len(runs):
        raise UsageError(
            f"{sources.release}: training.json has {len(training['stages'])} stages instead of two. Release the model "
            "of --stage2."
        )
    checkpoints: dict[str, EvaluatedCheckpoint] = {}
    tokens_before = 0
    for (option, run), stage in zip(runs.items(), training["stages"], strict=True):
        steps = {run: int(stage["steps"])} if run in models else {}
        for model in models:
            name = CheckpointName.parse(model)
            # The last checkpoint has the same weights as the run itself.
            if name and (name.origin, name.stage) == (f"{run}/", "checkpoint") and name.step not in steps.values():
                steps[model] = name.step
        if not steps:
            raise UsageError(f"{option} {run}: {sources.results} has no results of this run.")
        for model, step in sorted(steps.items(), key=lambda item: item[1]):
            checkpoints[model] = _checkpoint(model, step, stage, tokens_before)
        tokens_before += stage["tokens"]
    if runs["--stage2"] not in checkpoints:
        raise UsageError(f"--stage2 {sources.stage2}: {sources.results} has no results of its final weights.")
    return checkpoints


def _checkpoint(model: str, step: int, stage: Mapping[str, Any], tokens_before: int) -> EvaluatedCheckpoint:
    curve = stage["curve"]
    points = (dict(zip(curve, values, strict=True)) for values in zip(*curve.values(), strict=True))
    logged = next((point for point in points if point["step"] == step), {})
    tokens = 0 if step == 0 else stage["tokens"] if step == stage["steps"] else logged.get("tokens")
    return EvaluatedCheckpoint(
        model,
        stage["stage"],
        step,
        None if tokens is None else tokens_before + tokens,
        logged.get("eval_loss"),
        logged.get("eval_masked_accuracy"),
    )


def _models(sources: Sources, checkpoints: Mapping[str, EvaluatedCheckpoint], training: Mapping[str, Any]) -> Models:
    other = sources.other_theta
    first_stage = training["stages"][0]
    return Models(
        checkpoints={
            model: f"{checkpoint.stage} step {checkpoint.step:,}" for model, checkpoint in checkpoints.items()
        },
        stage1=[model for model, checkpoint in checkpoints.items() if checkpoint.stage == first_stage["stage"]][-1],
        stage2=sources.stage2,
        other_theta=other,
        boundary=first_stage["recipe"]["sequence_length"],
        thetas=(_theta(sources.stage2), _theta(other)) if other else None,
        packed=[learning_curve(Path(run)) for run in sources.packed],
        padded=[learning_curve(Path(run)) for run in sources.padded],
    )


def _theta(run: str) -> float:
    """RoPE theta of the global layers."""
    return float(read_config(read_json(Path(run) / "config.json")).global_rope_theta)


def _write_results(
    public_names: Mapping[str, str],
    checkpoints: Mapping[str, EvaluatedCheckpoint],
    sources: Sources,
    folder: Path,
) -> None:
    """Copy the results under public names, and plot those of the first checkpoint and of the end of each stage."""
    plotted = {
        next(iter(checkpoints)),
        *{checkpoint.stage: model for model, checkpoint in checkpoints.items()}.values(),
    }
    with TemporaryDirectory() as plot_folder, atomic_directory(folder / RESULTS, replace=True) as kept:
        for path in Results(sources.results).files():
            rows = read_rows(path)
            model = os.path.normpath(rows[0].model) if rows else ""
            if model not in public_names:
                continue
            rows = [replace(row, model=public_names[model]) for row in rows]
            file = Path(rows[0].task) / model_folder(public_names[model]) / path.name
            write_rows(kept / file, rows)
            if model in plotted and (rows[0].task, rows[0].protocol) in _PLOTTED:
                write_rows(Path(plot_folder) / file, rows)
                # Per-example outputs contain texts of the datasets, so they are not published.
                if instances_of(path).is_file():
                    shutil.copyfile(instances_of(path), instances_of(Path(plot_folder) / file))
        if any(Path(plot_folder).iterdir()):
            plot_all(Results(plot_folder), folder / ASSETS)


def _write_json(path: Path, content: Any) -> None:
    write_json(path, content)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m llm_jp_modernbert.model_cards.research.measured",
        description="Write the finished card of a model trained in two stages, with tests of the paper's findings.",
    )
    parser.add_argument("folder", type=Path, help="folder of the card, with a hand-written card.json")
    parser.add_argument("--release", type=Path, required=True, help="output of `release --dry-run`")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="output of `evaluate` (default: results)"
    )
    parser.add_argument(
        "--stage1", type=os.path.normpath, required=True, help="directory of the stage 1 run, as named in the results"
    )
    parser.add_argument(
        "--stage2", type=os.path.normpath, required=True, help="directory of the run initialized from stage 1"
    )
    parser.add_argument(
        "--other-theta", type=os.path.normpath, help="directory of a run like stage 2 with another global_rope_theta"
    )
    parser.add_argument("--packed", action="append", default=[], help="run with packed rows; repeat for each seed")
    parser.add_argument("--padded", action="append", default=[], help="run with padded rows, in the same order")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = vars(parser.parse_args(arguments))
    try:
        folder, command = options.pop("folder"), join([*parser.prog.split(), *arguments])
        print(write_folder(folder, Sources(**options), command))
    except UsageError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
