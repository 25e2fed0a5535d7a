"""`llm-jp-modernbert evaluate`: measures encoders."""

from __future__ import annotations

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.evaluation.options import EvaluateOptions

from .options import takes


@takes(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> None:
    """Measures encoders and stores every value with the settings that it depends on.

    Finished measurements are skipped, so an interrupted command resumes when it is run again. Several GPUs share the
    grid of a fine-tuning task under `accelerate launch -m llm_jp_modernbert.evaluation.evaluate`.

    Examples:

    * `llm-jp-modernbert evaluate my-model llm-jp/llm-jp-modernbert-base --tasks fill-mask,pseudo-perplexity`

    * `llm-jp-modernbert evaluate my-model --tasks retrieval,similarity --data-dir data --protocol paper`

    * `llm-jp-modernbert evaluate my-model --tasks jsts,jnli,jcola --data-dir data --seed 0 --seed 1`

    * `llm-jp-modernbert evaluate bm25 embedder reranker --candidates bm25 --tasks retrieval:jsquad --data-dir data`

    * `llm-jp-modernbert evaluate ours=runs/stage1 base=llm-jp/llm-jp-modernbert-base --tasks similarity`

    * `llm-jp-modernbert evaluate my-model --text "朝ごはんを[MASK]ました。"`
    """
    if options.revision is not None and len(options.models) > 1:
        raise UsageError("--revision requires a single model; use ORG/NAME@REVISION for several.")
    from rich.console import Console

    from llm_jp_modernbert.core.terminal import quiet_libraries
    from llm_jp_modernbert.evaluation.evaluate import evaluate as run
    from llm_jp_modernbert.evaluation.evaluate import models_of
    from llm_jp_modernbert.evaluation.report.leaderboard import show
    from llm_jp_modernbert.evaluation.report.side_by_side import show_texts

    quiet_libraries()
    console = Console()
    if options.text:
        show_texts(models_of(options), options.text, console).raise_any("predictions")
        return
    rows, failures = run(options)
    if rows:
        show(rows, console)
        console.print(f"Results are in {options.out}.", soft_wrap=True)
    failures.raise_any("measurements")
