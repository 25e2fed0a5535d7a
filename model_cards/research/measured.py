"""The finished card of a model that was trained and measured with this package.

    python -m llm_jp_modernbert.model_cards.research.measured FOLDER --release STAGED --results results \\
        --stage1 runs/small --stage2 runs/small-8k --other-theta runs/small-8k-theta10k \\
        --packed runs/packed-0 --padded runs/padded-0 --packed runs/packed-1 --padded runs/padded-1

`FOLDER/card.json` tells by hand what no file tells: `name`, `license`, `languages`, `remarks`, and as `commands` those
that trained. Everything else in the folder is written: `README.md`, `findings.json`, `measured.json` (filled masks,
states of the training), `config.json`, `training.json`, `recipe.yaml`, `assets/` with the plots, and `results/` with
the rows of all checkpoints, which `llm-jp-modernbert leaderboard --results FOLDER/results` prints.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import join
from tempfile import TemporaryDirectory
from typing import Any

from llm_jp_modernbert.core.clean_process import reload_alone
from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import read_json, write_whole
from llm_jp_modernbert.evaluation.report.plots import Measured, plot_all, save, style
from llm_jp_modernbert.evaluation.report.results import Results, instances_of, model_folder, read_rows, write_rows
from llm_jp_modernbert.inference.loading import load_tokenizer
from llm_jp_modernbert.publishing.staging import ASSETS, RECIPE, RESULTS, everyday_masks

from .. import commands
from ..about import Example, State
from ..plots import plot_training
from . import comparisons
from .findings import Roles, findings
from .finished import FINDINGS, MEASURED, write_card

_CHECKPOINT = re.compile(r"(?P<run>.*)/checkpoint-(?P<step>\d+)")
_TOP = 3
# The course of alignment and of context is in the plots of the findings.
_PLOTTED = (("fill-mask", "improved"), ("similarity", "improved"), ("pseudo-perplexity", "paper"))


@dataclass(frozen=True)
class Sources:
    """Where all is read from.

    Attributes:
        release: what `release --dry-run` wrote.
        results: the folder of `evaluate`.
        stage1: directory of the run; results name it, and its checkpoints, so.
        stage2: of the run that began with it.
        other_theta: of a run like `stage2` with another theta; None for none.
        packed: of runs with packed rows, one for each seed.
        padded: of as many with one document a row.
    """

    release: Path
    results: Path
    stage1: str
    stage2: str
    other_theta: str | None = None
    packed: tuple[str, ...] = ()
    padded: tuple[str, ...] = ()


def write_folder(folder: Path, sources: Sources, command: str) -> Path:
    """Writes all of a finished card but `card.json`.

    Args:
        folder: of the card.
        sources: see there.
        command: that this is, for the card.

    Returns:
        The card's file.

    Raises:
        UsageError: something is missing, or contradicts something else.
    """
    if len(sources.packed) != len(sources.padded):
        raise UsageError("--packed and --padded: name as many runs of either kind, in the order of their seeds.")
    card = read_json(folder / "card.json")
    measured = [Measured(rows, instances) for rows, instances in Results(sources.results).measurements()]
    training = read_json(sources.release / "training.json")
    states = _states(measured, sources, training)
    if _normal(sources.stage2) not in states:
        raise UsageError(f"--stage2 {sources.stage2}: {sources.results} holds no results of that name.")
    for name in ("config.json", "training.json", RECIPE):
        shutil.copyfile(sources.release / name, folder / name)
    public = {model: f"{card['name']}@{state.stage}-step-{state.step}" for model, state in states.items()}
    if sources.other_theta is not None:
        public[_normal(sources.other_theta)] = f"{card['name']}@{_variant(sources.other_theta)}"
    (folder / ASSETS).mkdir(exist_ok=True)
    for plot in (folder / ASSETS).glob("*.png"):
        plot.unlink()
    plot_training(training, folder)
    _write_results(measured, public, states, sources, folder)
    found = []
    with style():
        for finding, draw in findings(measured, _roles(sources, states, training)):
            picture = f"{ASSETS}/finding-{finding.key}.png"
            save(draw(finding), folder / picture)
            found.append(replace(finding, picture=picture))
    _write_json(folder / FINDINGS, [asdict(one) for one in found])
    tokenizer = load_tokenizer(str(sources.release))
    order = list(public)
    ours = [row for one in measured for row in one.rows if _normal(row.model) in public]
    ours.sort(key=lambda row: order.index(_normal(row.model)))
    about = {
        "dtype": str(read_json(sources.release / "config.json").get("dtype", "float32")),
        "tokenizer": {
            "vocabulary_size": len(tokenizer),
            "mask_token": tokenizer.mask_token,
            "model_max_length": tokenizer.model_max_length,
        },
        "examples": [asdict(one) for one in _examples(sources.release)],
        "states": [asdict(replace(state, name=public[model])) for model, state in states.items()],
        "commands": [
            *card.get("commands", []),
            *commands.evaluations(ours),
            f"llm-jp-modernbert release {sources.stage2} --repo ORG/{card['name'].rpartition('/')[2]} \\\n"
            f"    --results {sources.results} --dry-run {sources.release}",
            command,
        ],
    }
    _write_json(folder / MEASURED, about)
    return write_card(folder)


def _states(measured: Sequence[Measured], sources: Sources, training: dict[str, Any]) -> dict[str, State]:
    """The states of both stages that were measured, in their order, by the names that results call them."""
    models = list(dict.fromkeys(_normal(one.rows[0].model) for one in measured))
    found: dict[str, State] = {}
    before = 0
    runs = (sources.stage1, sources.stage2)
    if len(training["stages"]) != len(runs):
        raise UsageError(
            f"{sources.release}: training.json tells of {len(training['stages'])} stages, not of two. Release the "
            "model of --stage2."
        )
    for run, stage in zip(map(_normal, runs), training["stages"], strict=True):
        curve = stage["curve"]
        places = {step: place for place, step in enumerate(curve["step"])}
        steps = {
            model: int(match["step"])
            for model in models
            if (match := _CHECKPOINT.fullmatch(model)) and match["run"] == run
        }
        # The last checkpoint and the run itself have the same weights.
        steps = {model: step for model, step in steps.items() if run not in models or step != stage["steps"]}
        steps |= {run: stage["steps"]} if run in models else {}
        for model, step in sorted(steps.items(), key=lambda one: one[1]):
            of_step = {name: values[places[step]] for name, values in curve.items() if step in places}
            read = stage["tokens"] if step == stage["steps"] else of_step.get("tokens") if step else 0
            found[model] = State(
                model,
                stage["stage"],
                step,
                None if read is None else before + read,
                of_step.get("eval_loss"),
                of_step.get("eval_masked_accuracy"),
                stage["recipe"].get("sequence_length"),
            )
        before += stage["tokens"]
    return found


def _roles(sources: Sources, states: dict[str, State], training: dict[str, Any]) -> Roles:
    thetas = None
    if sources.other_theta is not None:
        thetas = _theta(sources.stage2), _theta(sources.other_theta)
    first = [model for model, state in states.items() if state.stage == training["stages"][0]["stage"]]
    if not first:
        raise UsageError(f"--stage1 {sources.stage1}: {sources.results} holds no results of that name.")
    return Roles(
        states={model: f"{state.stage} step {state.step:,}" for model, state in states.items()},
        stage1=first[-1],
        stage2=_normal(sources.stage2),
        other_theta=None if sources.other_theta is None else _normal(sources.other_theta),
        boundary=training["stages"][0]["recipe"]["sequence_length"],
        thetas=thetas,
        packed=[comparisons.course(Path(run)) for run in sources.packed],
        padded=[comparisons.course(Path(run)) for run in sources.padded],
    )


def _theta(run: str) -> float:
    """Of the global layers of a run's model."""
    config = read_json(Path(run) / "config.json")
    rope = (config.get("rope_parameters") or {}).get("full_attention") or {}
    return float(rope.get("rope_theta", config.get("global_rope_theta")))


def _variant(run: str) -> str:
    """The revision of a run with another theta."""
    stage = read_json(Path(run) / "training.json")["stages"][-1]
    return f"{stage['stage']}-theta{_theta(run):.0f}-step-{stage['steps']}"


def _write_results(
    measured: Sequence[Measured],
    public: dict[str, str],
    states: dict[str, State],
    sources: Sources,
    folder: Path,
) -> None:
    """Copies the rows under public names, and draws plots of the first state and of the ends of both stages."""
    shown = {next(iter(states)), *{state.stage: model for model, state in states.items()}.values()}
    with TemporaryDirectory(dir=folder) as aside:
        kept, plotted = Path(aside) / RESULTS, Path(aside) / "plotted"
        for path in Results(sources.results).files():
            found = read_rows(path)
            model = _normal(found[0].model) if found else ""
            if model not in public:
                continue
            rows = [replace(row, model=public[model]) for row in found]
            place = Path(rows[0].task) / model_folder(public[model]) / path.name
            write_rows(kept / place, rows)
            if model in shown and (rows[0].task, rows[0].protocol) in _PLOTTED:
                write_rows(plotted / place, rows)
                # Only the plots need what the model gave for each example, which holds texts of datasets.
                if instances_of(path).is_file():
                    shutil.copyfile(instances_of(path), instances_of(plotted / place))
        shutil.rmtree(folder / RESULTS, ignore_errors=True)
        os.replace(kept, folder / RESULTS)
        if plotted.is_dir():
            plot_all(Results(plotted), folder / ASSETS)


def _examples(release: Path) -> Iterator[Example]:
    """The everyday masks, as transformers alone fills them with the release."""
    texts = everyday_masks()
    for text, answers in zip(texts, reload_alone(release, texts, _TOP)["answers"], strict=True):
        # A blank by itself is shown as vocabularies write it.
        yield Example(text, [(one["token_str"].strip() or "▁", one["score"]) for one in answers])


def _normal(model: str) -> str:
    return os.path.normpath(model)


def _write_json(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see above."""
    parser = argparse.ArgumentParser(
        prog="python -m llm_jp_modernbert.model_cards.research.measured",
        description="Writes the finished card of a model that was trained in two stages, with the paper's findings.",
    )
    parser.add_argument("folder", type=Path, help="holds card.json; all else is written")
    parser.add_argument("--release", type=Path, required=True, help="what `release --dry-run` wrote")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of `evaluate`")
    parser.add_argument("--stage1", required=True, help="directory of the run, as results name it")
    parser.add_argument("--stage2", required=True, help="of the run that began with it")
    parser.add_argument("--other-theta", help="of a run like that of stage 2 with another global_rope_theta")
    parser.add_argument("--packed", action="append", default=[], help="run with packed rows; one for each seed")
    parser.add_argument("--padded", action="append", default=[], help="run with padded rows, in the same order")
    given = vars(parser.parse_args(arguments))
    folder = given.pop("folder")
    sources = Sources(**{**given, "packed": tuple(given["packed"]), "padded": tuple(given["padded"])})
    command = join([*parser.prog.split(), str(folder), *_told(given)])
    try:
        print(write_folder(folder, sources, command))
    except UsageError as error:
        raise SystemExit(f"error: {error}") from error


def _told(given: dict[str, Any]) -> Iterator[str]:
    for name, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                yield from (f"--{name.replace('_', '-')}", str(one))


if __name__ == "__main__":
    main()
