"""`llm-jp-modernbert adapt`: continues the pre-training of a model on the texts of a domain."""

from __future__ import annotations

from llm_jp_modernbert.adaptation.options import AdaptOptions
from llm_jp_modernbert.core.terminal import quiet_libraries

from .options import takes


@takes(AdaptOptions)
def adapt(options: AdaptOptions) -> None:
    """Continues the pre-training of a model on the texts of a domain, and measures it before and after.

    Examples:

    * `llm-jp-modernbert adapt ORG/NAME --train manuals.jsonl.gz --out my-encoder`

    * `llm-jp-modernbert adapt ORG/NAME --train manuals.jsonl.gz --replay "web/*.jsonl.gz" --out my-encoder`

    To use several processes, replace `llm-jp-modernbert adapt` by
    `accelerate launch -m llm_jp_modernbert.adaptation.adapt`.
    """
    from llm_jp_modernbert.adaptation.adapt import adapt as run

    quiet_libraries()
    run(options)
    from accelerate import PartialState

    # A rank that ends while others are connected to it can abort, and the launcher then ends the others as well.
    state = PartialState()
    state.wait_for_everyone()
    state.destroy_process_group()
