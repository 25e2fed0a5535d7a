"""`llm-jp-modernbert evaluate`: measures encoders."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.terminal import quiet_libraries

DEFAULT_TASKS = "fill-mask,pseudo-perplexity,retrieval,alignment-uniformity,similarity"


class DType(str, Enum):
    """Numbers that a model computes with."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Protocol(str, Enum):
    """How an evaluation is done."""

    improved = "improved"
    paper = "paper"


def evaluate(
    models: Annotated[list[str], typer.Argument(help="Directories, repositories, or repositories at ORG/NAME@REV.")],
    tasks: Annotated[str, typer.Option(help="Tasks, parted by commas.")] = DEFAULT_TASKS,
    protocol: Annotated[Protocol, typer.Option(help="The paper's, or what is held to be better.")] = Protocol.improved,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of data in their official layout; by default they are from the Hub.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    seed: Annotated[list[int] | None, typer.Option(help="Seed; repeat it for several runs.", min=0)] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many examples, for a quick look.", min=1)] = None,
    train_file: Annotated[
        list[Path] | None, typer.Option(help="Fine-tune on these files in the place of the task's own; repeatable.")
    ] = None,
    learning_rate: Annotated[
        list[float] | None, typer.Option(help="Of fine-tuning, in the place of the protocol's grid; repeatable.")
    ] = None,
    epochs: Annotated[
        list[int] | None, typer.Option(help="Of fine-tuning, in the place of the grid's; repeatable.", min=1)
    ] = None,
    texts: Annotated[
        list[Path] | None, typer.Option(help="JSON lines of long texts for pseudo-perplexity; repeatable.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="JSON lines of prompts for fill-mask, or ORG/NAME.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Only show what the models put into this text's [MASK]; repeatable.")
    ] = None,
    pooling: Annotated[str, typer.Option(help="auto, mean, cls, or last-K-layers.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a single model's repository.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Such as cpu or cuda:0; by default a GPU if there is one.")
    ] = None,
    dtype: Annotated[DType, typer.Option(help="auto is bfloat16 on a GPU that has it, else float32.")] = DType.auto,
    tokens_per_batch: Annotated[
        int | None, typer.Option(help="Tokens that are read at once; by default 16,384 on a GPU, else 4,096.", min=1)
    ] = None,
) -> None:
    """Measures encoders, whoever made them, and keeps every figure with what it depends on.

    Tasks: fill-mask (fill-mask-published-tokenizer: the same with the `▁` that llm-jp's published tokenizer puts after
    a mask), pseudo-perplexity, retrieval (retrieval:miracl, :jsquad, :jaquad, :beir), alignment-uniformity,
    similarity, jmteb (jmteb:TASK, jmteb-lite); and by fine-tuning jsts, jnli, jcola, jsquad, jcommonsenseqa, marc-ja,
    ner, whose grid several GPUs share under `accelerate launch -m llm_jp_modernbert.evaluation.evaluate`. What is
    measured already is not measured again.

    Examples:

    * `llm-jp-modernbert evaluate my-model llm-jp/llm-jp-modernbert-base --tasks fill-mask,pseudo-perplexity`

    * `llm-jp-modernbert evaluate my-model --tasks retrieval,similarity --data-dir data --protocol paper`

    * `llm-jp-modernbert evaluate my-model --tasks jsts,jnli,jcola --data-dir data --seed 0 --seed 1`

    * `llm-jp-modernbert evaluate my-model --text "朝ごはんを[MASK]ました。"`
    """
    if revision is not None and len(models) > 1:
        raise UsageError("--revision is for a single model; write ORG/NAME@REVISION for several.")
    quiet_libraries()
    from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName
    from llm_jp_modernbert.evaluation.evaluate import Plan
    from llm_jp_modernbert.evaluation.evaluate import evaluate as run
    from llm_jp_modernbert.evaluation.report.side_by_side import show_texts
    from llm_jp_modernbert.evaluation.tasks.task import Options

    named = [ModelName(model, revision, device, dtype.value, tokens_per_batch) for model in models]
    if text:
        show_texts([EvaluatedModel(which) for which in named], text, Console())
        return
    options = Options(
        protocol=protocol.value,
        data_dir=data_dir,
        train_files=tuple(train_file or ()),
        texts=tuple(texts or ()),
        prompts=prompts,
        limit=limit,
        learning_rates=tuple(learning_rate or ()),
        epochs=tuple(epochs or ()),
        pooling=pooling,
    )
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    run(Plan(named, names, options, tuple(seed or (0,)), out), Console())
