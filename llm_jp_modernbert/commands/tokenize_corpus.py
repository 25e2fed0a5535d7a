"""`llm-jp-modernbert tokenize-corpus`: tokenizes a corpus ahead of time."""

from __future__ import annotations

from llm_jp_modernbert.core.terminal import quiet_libraries
from llm_jp_modernbert.training.data.tokenize_corpus import TokenizeOptions
from llm_jp_modernbert.training.data.tokenize_corpus import tokenize_corpus as run

from .options import takes


@takes(TokenizeOptions)
def tokenize_corpus(options: TokenizeOptions) -> None:
    """Tokenizes a corpus ahead of time, into Arrow files. Run the command again to resume an interrupted job.

    Examples:

    * `llm-jp-modernbert tokenize-corpus "corpus/*.jsonl.gz" --tokenizer my-tokenizer --out corpus-tokenized`
    """
    quiet_libraries()
    totals = run(options)["totals"]
    line = f"{totals['documents']:,} documents, {totals['characters']:,} characters, {totals['tokens']:,} tokens"
    print(f"{line} in {options.out}")
    if totals["broken_rows"] or totals["blank_rows"]:
        print(f"skipped {totals['broken_rows']:,} unreadable and {totals['blank_rows']:,} blank rows")
