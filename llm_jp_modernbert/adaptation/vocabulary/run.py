"""The course of `vocabulary trim` and `vocabulary extend`."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.core.files import atomic_directory, check_vacant, lock
from llm_jp_modernbert.core.progress import progress_bar
from llm_jp_modernbert.core.terminal import console
from llm_jp_modernbert.core.versions import library_versions
from llm_jp_modernbert.evaluation.encoders.models import EvaluatedModel, ModelName
from llm_jp_modernbert.inference.heads import MASKED_LM, Head
from llm_jp_modernbert.inference.loading import checkpoint_folder
from llm_jp_modernbert.tokenization import check_fits
from llm_jp_modernbert.tokenization.layout import SPACE
from llm_jp_modernbert.tokenization.vocabulary import Vocabulary
from llm_jp_modernbert.training.finetuning.finetune.base import Base, open_base

from .files import TOKENIZER, WEIGHTS, Rows, check_model, parameters, per_token_parameters, write_model
from .measuring import MASKED_SHARE, measure
from .options import NEW_TOKENS, ExtendOptions, TrimOptions, VocabularyOptions
from .record import Change, Record, write_record
from .report import draw, facts, figures, table, write_report, write_rows
from .terms import MIN_COUNT, find_words, read_terms, with_spaces
from .texts import Domain

_PACKAGES = {"matplotlib": "matplotlib", "scipy": "scipy"}
_LIBRARIES = ("llm-jp-modernbert", "transformers", "torch", "tokenizers", "sentencepiece")
_SHOWN = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Changed:
    """A changed vocabulary.

    Attributes:
        backend: the new tokenizer.
        rows: for each of its tokens, the old ones that it comes from.
        uses: uses of each token before (trim), or tokens that each new one saves (extend).
        terms: the new tokens.
        min_count: least uses of a token that stays.
        remarks: lines for the user.
    """

    backend: Tokenizer
    rows: Rows
    uses: npt.NDArray[Any]
    terms: Sequence[str] = ()
    min_count: int = 0
    remarks: list[str] = field(default_factory=list)


def trim(options: TrimOptions) -> Record:
    """Removes the tokens that a domain uses least from the vocabulary of a model, and measures what that costs.

    Args:
        options: the options of the command.

    Returns:
        The record of the new model.

    Raises:
        UsageError: the model, its tokenizer, the texts or an option is unusable. Nothing is written then.

    Example:
        >>> trim(TrimOptions("ORG/NAME", ["corpus/"], Path("smaller"), share=0.5))["after"]["tokens"]
        49787
    """
    if options.size is not None and options.share is not None:
        raise UsageError("--size and --share both set the number of tokens. Give one of them.")
    return _Change(options, "trim").run(_trimmed)


def extend(options: ExtendOptions) -> Record:
    """Adds terms of a domain to the vocabulary of a model, and measures what that costs.

    Args:
        options: the options of the command.

    Returns:
        The record of the new model.

    Raises:
        UsageError: the model, its tokenizer, the texts or an option is unusable, or the texts lack new terms. Nothing
            is written then.

    Example:
        >>> extend(ExtendOptions("ORG/NAME", ["corpus/"], Path("larger"), new_tokens=100))["terms"][:2]
        ['記譜法', '音部記号']
    """
    if options.terms is not None and options.new_tokens is not None:
        raise UsageError("--terms names the new tokens, and --new-tokens is a number to find. Give one of them.")
    return _Change(options, "extend").run(_extended)


def _trimmed(options: TrimOptions, base: Base, vocabulary: Vocabulary, domain: Domain) -> _Changed:
    total = len(vocabulary.pieces)
    size = options.size if options.share is None else round(options.share * total)
    default = 1 if size is None else 0
    min_count = default if options.min_count is None else options.min_count
    counts = domain.counts(base.tokenizer, torch.get_num_threads(), "counting tokens")
    kept = vocabulary.most_used(counts, size, min_count)
    if len(kept) == total:
        raise UsageError(f"all {total:,} tokens stay. Name a smaller --size, or a larger --min-count.")
    return _Changed(vocabulary.trimmed(kept), [(token_id,) for token_id in kept], counts, min_count=min_count)


def _extended(options: ExtendOptions, base: Base, vocabulary: Vocabulary, domain: Domain) -> _Changed:
    remarks: list[str] = []
    threads, size = torch.get_num_threads(), len(vocabulary.pieces)
    number = options.new_tokens or NEW_TOKENS
    named: Sequence[str] = ()
    if options.terms is None:
        candidates = find_words(domain.batches("finding terms"), vocabulary, number)
    else:
        named, known = read_terms(options.terms, vocabulary)
        candidates = dict.fromkeys(with_spaces(named, vocabulary), 0)
        if known:
            remarks.append(f"terms that are tokens already ({len(known):,}): {_some(known)}")
    total = int(domain.counts(base.tokenizer, threads, "counting tokens").sum())
    new = vocabulary.new_pieces(candidates, total)
    together = PreTrainedTokenizerFast(tokenizer_object=vocabulary.extended(new))
    counts = domain.counts(together, threads, "counting new tokens")
    uses = {piece.piece: int(count) for piece, count in zip(new, counts[size:], strict=True)}
    if options.terms is None:
        chosen = [new[place].piece for place in vocabulary.most_saving(new, counts, number, MIN_COUNT)]
    else:
        always = set(named)
        chosen = [piece for piece in uses if piece in always or uses[piece]]
        unused = [piece for piece in chosen if not uses[piece]]
        if unused:
            remarks.append(f"terms that do not occur in the texts ({len(unused):,}): {_some(unused)}")
    if not chosen:
        raise UsageError("--texts: no new term would be used. Add texts, or name terms with --terms.")
    ranked = vocabulary.new_pieces(
        {piece: uses[piece] for piece in sorted(chosen, key=lambda p: (-uses[p], p))}, total
    )
    saved = np.array([uses[piece.piece] * (len(piece.parts) - 1) for piece in ranked])
    rows = [*((token_id,) for token_id in range(size)), *(piece.parts for piece in ranked)]
    terms = [piece.piece for piece in ranked]
    return _Changed(vocabulary.extended(ranked), rows, saved, terms, remarks=remarks)


def _some(names: Sequence[str]) -> str:
    return ", ".join(name.replace(SPACE, "␣") for name in names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


class _Change:
    """The steps of both commands around the choice of tokens."""

    def __init__(self, options: VocabularyOptions, change: Change) -> None:
        missing = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
        if missing:
            raise UsageError(f"vocabulary needs {missing[0]}: pip install 'llm-jp-modernbert[finetune]'.")
        check_vacant(options.out, "--out")
        if not options.texts:
            raise UsageError("--texts: name texts of the domain.")
        self.options, self.change = options, change

    def run(self, choose: Any) -> Record:
        started = time.perf_counter()
        options = self.options
        base = open_base(options.model)
        source = checkpoint_folder(options.model)
        head = check_model(source)
        vocabulary = Vocabulary.of(base.tokenizer)
        check_fits(base.tokenizer, base.config)
        domain = Domain(options)
        with _terminable(), lock(options.out, f"vocabulary {self.change}"):
            changed: _Changed = choose(options, base, vocabulary, domain)
            with atomic_directory(options.out) as folder:
                write_model(source, folder, base.tokenizer, changed.backend, changed.rows)
                record = self._complete(folder, source, head, base, domain, changed, started)
        for line in (*facts(record), *changed.remarks, "", table(record).text(), "", f"The model is in {options.out}"):
            logger.info("%s", line)
        return record

    def _complete(
        self, folder: Path, source: Path, head: Head, base: Base, domain: Domain, changed: _Changed, started: float
    ) -> Record:
        """Measures the models, and writes record, result rows, plot and report."""
        models = [EvaluatedModel(ModelName(str(path), None, self.options.device)) for path in (source, folder)]
        with progress_bar(console(), transient=True) as bar:
            task = bar.add_task("measuring", total=1.0)
            measured, changes = measure(
                models,
                domain.held_out,
                head == MASKED_LM,
                self.options.seed,
                lambda share: bar.update(task, completed=share),
            )
        before, after = (
            figures(
                measurements,
                tokens=len(model.tokenizer),
                parameters=parameters(path),
                weights_bytes=(path / WEIGHTS).stat().st_size,
                tokenizer_bytes=(path / TOKENIZER).stat().st_size,
            )
            for model, path, measurements in zip(models, (source, folder), measured, strict=True)
        )
        record: Record = {
            "schema": 1,
            "change": self.change,
            "base": base.name,
            "base_revision": base.revision,
            "texts": domain.described(),
            "held_out": domain.described_held_out(),
            "min_count": changed.min_count,
            "removed": max(0, before["tokens"] - after["tokens"]),
            "terms": list(changed.terms),
            "before": before,
            "after": after,
            "changes": changes,
            "masked_share": MASKED_SHARE,
            "seed": self.options.seed,
            "seconds": time.perf_counter() - started,
            "versions": library_versions(_LIBRARIES),
        }
        name = self.options.out.resolve().name
        write_record(folder, record)
        write_rows(folder, record, [(base.name, base.revision), (name, models[1].revision)], measured)
        others = [parameters(path) - per_token_parameters(path) for path in (source, folder)]
        draw(folder, record, changed.uses, others)
        write_report(folder, name, record, changed.remarks)
        return record


@contextmanager
def _terminable() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stop(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)
