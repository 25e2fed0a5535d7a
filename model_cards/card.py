"""Model cards: YAML metadata and a body rendered from templates.

`templates/model_card.md` holds what all cards share; `masked_lm.md` and `finetuned.md` fill in its blocks.

A card states the given facts and nothing else; equal facts give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import yaml

from llm_jp_modernbert.core.references import is_repository
from llm_jp_modernbert.core.results import READ_OFF, dataset_slug
from llm_jp_modernbert.evaluation.tasks.fill_mask import FillMaskPublishedTokenizer
from llm_jp_modernbert.evaluation.tasks.registry import task_class
from llm_jp_modernbert.inference.heads import SEQUENCE_CLASSIFICATION

from . import adapted, commands, finetuned, formatting, retrieval, serving, tables
from .facts import SEARCH_TASKS, count_parameters
from .usage import snippets

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData

    from llm_jp_modernbert.core.results import Row

    from .facts import ModelFacts


# Tasks of sentence-transformers models on the Hub.
_PIPELINE_TAGS = {
    "embedding": "sentence-similarity",
    "reranking": "text-ranking",
    "sparse": "feature-extraction",
    "late-interaction": "feature-extraction",
}
_TAGS: dict[str, tuple[str, ...]] = {
    "classification": ("text-classification",),
    "multi-label-classification": ("text-classification", "multi-label-classification"),
    "regression": ("text-classification", "regression"),
    "reranking": ("reranker",),
    "ner": ("token-classification", "named-entity-recognition"),
    "qa": ("question-answering", "extractive-qa"),
    "multiple-choice": ("multiple-choice",),
    "embedding": ("feature-extraction", "dense"),
    "sparse": ("sparse-encoder", "sparse", "splade"),
    "late-interaction": ("multi-vector", "colbert", "late-interaction"),
    "encoder": ("feature-extraction",),
}


def model_card(facts: ModelFacts) -> ModelCard:
    """Render a model card.

    Raises:
        UsageError: the configuration is not that of a ModernBERT model, or two results contradict each other.
    """
    import jinja2
    from huggingface_hub import ModelCard

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        # Everything that a template prints is escaped unless it is `Markdown`.
        finalize=formatting.text,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name in ("code", "fence", "html_text", "in_japanese", "in_words", "literal", "number", "percent", "target"):
        environment.filters[name] = getattr(formatting, name)
    environment.filters |= {"markdown": formatting.Markdown, "share": finetuned.share}
    name = "retrieval.md" if facts.task in SEARCH_TASKS else "finetuned.md"
    name = "masked_lm.md" if facts.task == "fill-mask" else name
    body = environment.get_template(name).render(
        facts=facts,
        tables=tables,
        adapted=adapted,
        finetuned=finetuned,
        retrieval=retrieval,
        serving=serving,
        scores=finetuned.scores(facts),
        snippets=snippets(facts),
        parameters=sum(count_parameters(facts.config, facts.head).values()) + facts.exports.other_parameters,
        positions=facts.positions,
        usable_length=min(facts.positions, facts.longest_row or facts.positions),
        trust_remote_code=formatting.Markdown(", trust_remote_code=True" if facts.format == "native" else ""),
        has_read_off_values=any(row.settings.get(READ_OFF) for row in facts.rows),
        reproduction=commands.reproduction(facts),
    )
    return ModelCard(f"---\n{_metadata(facts).to_yaml()}\n---\n\n{body}")


def _template(name: str) -> str:
    return files("llm_jp_modernbert.model_cards").joinpath("templates", name).read_text("utf-8")


def eval_result_files(facts: ModelFacts) -> dict[str, str]:
    """Results on Hub datasets in the Hub's `.eval_results/*.yaml` format: content by path, one file per dataset."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    from huggingface_hub.file_download import REGEX_COMMIT_HASH

    entries: dict[str, list[EvalResultEntry]] = {}
    for row in finetuned.published(facts):
        repository, _ = _hub_dataset(row.dataset)
        if (
            not _has_value(row)
            or row.subset
            or repository is None
            or not REGEX_COMMIT_HASH.match(row.dataset_revision)
        ):
            continue
        entry = EvalResultEntry(
            dataset_id=repository,
            task_id=f"{row.task}-{row.metric}",
            value=row.value,
            dataset_revision=row.dataset_revision,
            source_url=facts.source.url if facts.source else None,
            source_name=facts.source.name if facts.source else None,
            notes=_conditions(row, facts),
        )
        entries.setdefault(repository, []).append(entry)
    return {
        f".eval_results/{repository.replace('/', '--')}.yaml": yaml.safe_dump(
            eval_result_entries_to_yaml(of_dataset), allow_unicode=True, sort_keys=False
        )
        for repository, of_dataset in entries.items()
    }


def _metadata(facts: ModelFacts) -> ModelCardData:
    from huggingface_hub import ModelCardData

    task, st = facts.task, facts.exports.sentence_transformers
    is_cross_encoder = st and facts.head is SEQUENCE_CLASSIFICATION
    tags = {
        "modernbert": True,
        "fill-mask": task == "fill-mask",
        "masked-lm": task == "fill-mask",
        **dict.fromkeys(_TAGS.get(task, ()), True),
        "zero-shot-classification": facts.is_nli and facts.takes_pairs,
        "japanese": "ja" in facts.languages,
        "long-context": facts.positions > 4096,
        "sentence-transformers": st,
        "sentence-similarity": st and not is_cross_encoder and task in ("embedding", "fill-mask"),
        "cross-encoder": is_cross_encoder,
        "onnx": bool(facts.exports.onnx),
        "custom_code": facts.format == "native",
    }
    metadata: dict[str, Any] = {
        "language": list(facts.languages) or None,
        "license": facts.license,
        "license_name": facts.license_name,
        "license_link": facts.license_link,
        "library_name": "sentence-transformers" if task in _PIPELINE_TAGS or is_cross_encoder else "transformers",
        "tags": [tag for tag, applies in tags.items() if applies],
        "datasets": list(facts.datasets) or None,
        "base_model": facts.base_model,
        "base_model_relation": "finetune" if facts.base_model else None,
        "pipeline_tag": _PIPELINE_TAGS.get(task, facts.head.pipeline_tag),
    }
    mask = facts.tokenizer.get("mask_token")
    if mask and task == "fill-mask" and "ja" in facts.languages:
        metadata["mask_token"] = mask
        metadata["widget"] = [{"text": f"今日のご飯は{mask}である。"}]
    emissions = [stage.get("emissions_kg") for stage in facts.stages]
    measured = [kilograms for kilograms in emissions if kilograms is not None]
    # Emissions of some stages only would be mistaken for the total.
    if measured and len(measured) == len(emissions):
        hardware = {stage["hardware"]["device"]: None for stage in facts.stages if stage.get("hardware")}
        metadata["co2_eq_emissions"] = {
            "emissions": 1000 * sum(measured),
            "source": "CodeCarbon",
            "training_type": "fine-tuning" if facts.is_continued else "pre-training",
            **({"hardware_used": ", ".join(hardware)} if hardware else {}),
        }
    results = [_eval_result(row, facts) for row in _headlines(finetuned.published(facts))]
    return ModelCardData(**metadata, model_name=facts.name if results else None, eval_results=results or None)


def _has_value(row: Row) -> bool:
    """Whether a result can be stated in JSON, which has neither infinities nor NaN."""
    return row.value is not None and math.isfinite(row.value)


def _headlines(rows: Iterable[Row]) -> list[Row]:
    """The values that represent each measurement in the metadata; the body of the card shows all of them."""
    measurements: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if _has_value(row) and row.task != FillMaskPublishedTokenizer.name:
            key = (row.task, row.dataset, row.dataset_revision, row.protocol, str(row.seed))
            measurements.setdefault(key, []).append(row)
    chosen = []
    for (name, *_), measured in measurements.items():
        highlights = getattr(task_class(name), "highlights", ())
        matching = [row for row in measured if any(highlight.matches(row) for highlight in highlights)]
        chosen += matching or [row for row in measured if not row.subset and row.split != "dev"]
    return chosen


def _eval_result(row: Row, facts: ModelFacts) -> EvalResult:
    from huggingface_hub import EvalResult

    task = task_class(row.selector or row.task)
    _, config = _hub_dataset(row.dataset)
    return EvalResult(
        task_type=task.hub_task if task else _own_task(row, facts) if facts.is_own(row) else row.task,
        dataset_type=dataset_slug(row.dataset),
        dataset_name=row.dataset,
        dataset_config=config,
        dataset_split=row.split or None,
        dataset_revision=row.dataset_revision or None,
        metric_type=row.metric,
        metric_value=row.value,
        metric_name=f"{row.task} {row.metric} ({_conditions(row, facts)})",
        source_name=facts.source.name if facts.source else None,
        source_url=facts.source.url if facts.source else None,
    )


def _own_task(row: Row, facts: ModelFacts) -> str:
    """The Hub's type of the task that a training measured; for search as in the cards of sentence-transformers."""
    if facts.retrieval is None:
        return facts.head.pipeline_tag
    return "semantic-similarity" if row.metric in ("spearman", "pearson") else "information-retrieval"


def _conditions(row: Row, facts: ModelFacts) -> str:
    """Subset, protocol, limit and seed; publications do not state their seeds."""
    limit = row.settings.get("limit")
    seed = "" if facts.source else f"seed {row.seed}"
    return ", ".join(filter(None, (row.subset, f"{row.protocol} protocol", f"limit {limit}" if limit else "", seed)))


def _hub_dataset(name: str) -> tuple[str | None, str | None]:
    """Repository and configuration of `ORG/NAME/CONFIG`; None if the dataset is not on the Hub."""
    parts = name.split("/")
    repository = "/".join(parts[:2])
    if len(parts) > 3 or not is_repository(repository):
        return None, None
    return repository, parts[2] if len(parts) == 3 else None
