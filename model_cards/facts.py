"""What a model card says of a model that follows from its configuration, training and results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llm_jp_modernbert.core.errors import UsageError
from llm_jp_modernbert.evaluation.report.results import READ_OFF

from . import tables
from .markdown import Markdown
from .numbers import about as about_count
from .numbers import percent

if TYPE_CHECKING:
    from .about import About

_LANGUAGES = {"ja": "Japanese", "en": "English", "zh": "Chinese", "ko": "Korean", "code": "source code"}

# Encoders in use have read a thousand tokens and more for each parameter. Below these numbers a model is behind them,
# or no more than a demonstration.
_FEW_TOKENS_PER_PARAMETER, _HARDLY_ANY = 100, 1
# Below so many readings of the average piece of the vocabulary, most pieces are hardly known.
_FEW_TOKENS_PER_PIECE = 10_000
_SMALL = 60e6
# A longer table is folded.
_FEW_ROWS = 12


def facts(about: About) -> dict[str, Any]:
    """All that the template shows beside the facts that were given."""
    parts = parameters(about.config)
    total = sum(parts.values())
    tokens = tokens_seen(about)
    longest = longest_sequence(about)
    positions = int(about.config["max_position_embeddings"])
    return {
        "parameters": total,
        "tokens": tokens,
        "positions": positions,
        # Beyond the lengths of its training a model gives answers, but not good ones.
        "usable": min(positions, longest or positions),
        "languages": _listed([_LANGUAGES.get(code, code) for code in about.languages]),
        "main_language": _LANGUAGES.get(about.languages[0], about.languages[0]) if about.languages else "",
        "mask": about.tokenizer.get("mask_token") or "[MASK]",
        "trust": Markdown(", trust_remote_code=True" if about.format == "native" else ""),
        "architecture": tables.architecture(about, parts),
        "data": tables.data(about),
        "training_table": tables.training(about),
        "recipes": tables.recipes(about),
        "results": tables.results(about),
        "parts_of_results": tables.results(about, parts=True),
        "several_seeds": tables.several_seeds(about),
        "few_parts": sum(bool(row.subset) for row in about.rows) <= _FEW_ROWS,
        "result_notes": tables.result_notes(about),
        "read_off": any(row.settings.get(READ_OFF) for row in about.rows),
        "has_paper_protocol": any(row.protocol == "paper" for row in about.rows),
        "state_table": tables.states(about),
        # The share of the commonest among the held-out tokens tells one choice of them from another.
        "same_held_out": len({_last(stage, "eval_baseline_accuracy") for stage in about.stages}) == 1,
        "findings": tables.findings(about),
        "checkpoint_table": tables.checkpoints(about),
        "example_table": tables.examples(about),
        "limits": limits(about, total, tokens, longest, positions),
        "reproduction": tables.reproduction(about),
    }


def parameters(config: Mapping[str, Any]) -> dict[str, int]:
    """Parameters of the masked language model, by part; tied ones count once.

    Args:
        config: config.json of a ModernBERT model in either format.

    Raises:
        UsageError: it is none.
    """
    import torch

    from llm_jp_modernbert.inference.loading import OUR_MODEL_TYPES
    from llm_jp_modernbert.modeling.configuration_llm_jp_modernbert import LlmJpModernBertConfig
    from llm_jp_modernbert.modeling.modeling_llm_jp_modernbert import LlmJpModernBertForMaskedLM

    if config.get("model_type") not in OUR_MODEL_TYPES:
        raise UsageError(
            f"config.json: model_type {config.get('model_type')!r} is none of {', '.join(OUR_MODEL_TYPES)}."
        )
    try:
        with torch.device("meta"):
            model = LlmJpModernBertForMaskedLM(LlmJpModernBertConfig.from_dict(dict(config)))
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(f"config.json: {' '.join(str(error).split())[:200]}") from error
    found = {"Token embeddings": 0, "Encoder": 0, "Head": 0}
    for name, parameter in model.named_parameters():
        part = "Encoder" if name.startswith("model.") else "Head"
        found["Token embeddings" if "tok_embeddings" in name else part] += parameter.numel()
    return found


def tokens_seen(about: About) -> int | None:
    """Tokens that the model has read, over all stages; None where that is not known of all of them."""
    counts = [stage.get("tokens") for stage in about.stages]
    return sum(map(int, counts)) if counts and None not in counts else None  # type: ignore[arg-type]


def longest_sequence(about: About) -> int | None:
    """Tokens of the longest rows of the training."""
    lengths = [stage["recipe"]["sequence_length"] for stage in about.stages if "sequence_length" in stage["recipe"]]
    return max(map(int, lengths), default=None)


def limits(about: About, total: int, tokens: int | None, longest: int | None, positions: int) -> list[str]:
    """What the model cannot be expected to do, each in a sentence or two, as far as the facts say so."""
    found = []
    if tokens is not None:
        vocabulary = int(about.config["vocab_size"])
        ratio, readings = tokens / total, tokens / vocabulary
        told = (
            f"It has read {about_count(tokens)} tokens, {about_count(ratio)} for each of its {about_count(total)} "
            "parameters; encoders in use have read a thousand and more."
        )
        if ratio < _HARDLY_ANY:
            found.append(
                f"{told} It shows and tests the tools and is not to be relied on: it knows frequent words and "
                "particles, neither facts nor names, and its embeddings tell little about meaning."
            )
        elif ratio < _FEW_TOKENS_PER_PARAMETER:
            found.append(f"{told} Expect it to be behind models of its size in every task.")
        if readings < _FEW_TOKENS_PER_PIECE:
            found.append(
                f"A piece of the vocabulary was read {about_count(readings)} times on average, and most pieces are "
                "much rarer than the average: the model hardly knows them."
            )
    if total < _SMALL:
        found.append(
            f"With {about_count(total)} parameters it is small: larger encoders know more and tell finer differences."
        )
    found += _held_out(about)
    if longest is not None and longest < positions:
        found.append(
            f"It takes {positions:,} tokens but was never trained on more than {longest:,}: beyond that length its "
            "answers get worse."
        )
    if not any(row.value is not None for row in about.rows):
        found.append("Nothing was measured of it yet, neither fill-mask nor any task.")
    languages = _listed([_LANGUAGES.get(code, code) for code in about.languages])
    found += [
        f"It is meant for {languages}. Other languages and other kinds of text than those of its training are read "
        "piece by piece, and understood badly.",
        "It is an encoder: it fills gaps and gives representations, and does not write text. For classification, "
        "search or extraction it has to be fine-tuned; without that, cosines of its embeddings lie close together "
        "and rank better than they separate.",
        "Masks are filled with single pieces of the vocabulary, which need not be whole words, and each mask without "
        "regard to the others.",
        "It repeats what its training texts associate, stereotypes of gender, origin, age or occupation among them, "
        "and states falsehoods as readily as facts. No evaluation of such biases stands behind this card.",
        *about.remarks,
    ]
    return found


def _held_out(about: About) -> list[str]:
    if not about.stages:
        return []
    accuracy = _last(about.stages[-1], "eval_masked_accuracy")
    guess = _last(about.stages[-1], "eval_baseline_accuracy")
    if accuracy is None:
        return []
    than = "" if guess is None else f"; the commonest token alone would be right in {guess:.1%}"
    share = about.stages[-1]["recipe"].get("mlm_probability")
    masked = "" if share is None else f" (with {percent(share)} of the tokens masked)"
    return [f"Of masked tokens in held-out text{masked} its first answer is right in {accuracy:.1%}{than}."]


def _last(stage: Mapping[str, Any], figure: str) -> float | None:
    """The last value of a curve of that stage, or None where it has none."""
    return next((value for value in reversed(stage.get("curve", {}).get(figure, [])) if value is not None), None)


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
