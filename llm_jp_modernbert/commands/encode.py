"""`llm-jp-modernbert encode`: vectors, scores, candidates or labels of many texts."""

from __future__ import annotations

from llm_jp_modernbert.core.terminal import quiet_libraries
from llm_jp_modernbert.encoding.options import EncodeOptions

from .options import takes


@takes(EncodeOptions)
def encode(options: EncodeOptions) -> None:
    """Computes vectors of any number of texts and writes them as Parquet files.

    After an interruption, the same command continues with the unfinished files; the result is the same. Texts beyond
    the model's context are truncated, unreadable rows are reported and skipped.

    Examples:

    * `llm-jp-modernbert encode my-embedder corpus.jsonl --out vectors --id-column id`

    * `llm-jp-modernbert encode my-embedder ORG/DATASET --out vectors --prompt document --precision int8`

    * `llm-jp-modernbert encode my-classifier reviews.csv --out labels --classify`

    To use several processes or GPUs, replace `llm-jp-modernbert encode` by
    `accelerate launch -m llm_jp_modernbert.encoding.encode`, or start the same command several times.
    """
    from llm_jp_modernbert.encoding.encode import encode as run

    quiet_libraries()
    run(options)
