"""The `llm_enrich` stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import AliasChoices, ConfigDict, Field

from mediatheca.kernel.hits import write_field
from mediatheca.kernel.outside import Generated
from mediatheca.kernel.search import Hit
from mediatheca.stages import LANGUAGE, CollectionView, FilterParam, StageContext, stage
from mediatheca.stages._fields import FieldPath, as_text, rename
from mediatheca.stages._language import (
    DATA,
    MAX_TIME_MS,
    AnswerField,
    AnswerSchema,
    Missed,
    ModelParams,
    each,
    shown,
    split_by,
    tell_missed,
)
from mediatheca.stages._media import Media, media_of
from mediatheca.stages._templates import Templates, per_document

MAX_DOCUMENTS = 500
_PROMPT = "Summarize this document in two or three sentences."
_SYSTEM = f"You work on one document and answer with the result alone. {DATA}"


class Params(ModelParams):
    model_config = ConfigDict(populate_by_name=True)

    prompt: str = Field(_PROMPT, max_length=50_000, description="What to write about every document; {{DOC.…}}.")
    output_field: AnswerField = Field("summary", description="Where the result is written.")
    output_schema: AnswerSchema | None = Field(
        None,
        validation_alias=AliasChoices("schema", "output_schema"),
        description="JSON Schema: the result is such a value, or {_raw, _error} where the model did not manage.",
    )
    content_field: FieldPath | None = Field(None, description="The text of a document; not given: all of it.")
    batch_size: int = Field(5, ge=1, le=25, description="Documents worked on at once.")
    max_tokens: int = Field(1000, ge=100, le=16_000, description="Of one result.")
    temperature: float = Field(0.2, ge=0, le=1)
    multimodal_inputs: dict[str, Literal["image", "video", "audio", "pdf"]] = Field(
        {}, max_length=5, description="Fields with a data URI or URL that the model is shown, and what they hold."
    )
    thinking_level: str | None = Field(
        None, max_length=50, description="Accepted and told: how long a model thinks is the provider's setting here."
    )
    use_vcache: bool = Field(
        False, description="Accepted and told: only equal questions at temperature 0 are answered from memory."
    )
    when: FilterParam = Field(None, description="Only these documents are worked on.")
    document_templates: Templates = frozenset()


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    params = {name: value for name, value in raw.items() if value is not None}
    rename(params, "schema", "output_schema")
    return {**params, "document_templates": per_document(params.get("prompt"), ("prompt",))}


@stage(
    "llm_enrich",
    kind="enrich",
    params=Params,
    use_cases=("Extract fields from free text", "Label or summarise every result"),
    icon="sparkles",
    aliases=("llm_enrichment",),
    cost_tier="expensive",
    needs=(LANGUAGE,),
    example={
        "prompt": "Which season does this describe? {{DOC.text}}",
        "output_field": "season",
        "schema": {"type": "object", "properties": {"season": {"type": "string"}}, "required": ["season"]},
    },
    hard_timeout_ms=MAX_TIME_MS,
    prepare=_prepare,
)
async def llm_enrich(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Have a language model write a field of every document: a text, or a value that fits a JSON Schema.

    A document without content is left out of it. What could not be written is null, and the result is degraded.
    """
    _tell_unused(params, ctx)
    chosen, skipped = split_by(hits, params.when)
    chosen = [hit for hit in chosen if params.multimodal_inputs or shown(hit, params.content_field).strip()]
    if len(chosen) > MAX_DOCUMENTS:
        ctx.limit("documents", len(chosen), MAX_DOCUMENTS)
        chosen = chosen[:MAX_DOCUMENTS]
    outcomes = await each(chosen, lambda hit: _ask(hit, params, ctx), at_once=params.batch_size, seconds=params.seconds)
    missed = tell_missed(outcomes, "were not enriched", ctx)
    flagged = 0
    for hit, outcome in zip(chosen, outcomes, strict=True):
        if isinstance(outcome, Missed):
            write_field(hit, params.output_field, None)
            continue
        flagged += bool(outcome.problem)
        write_field(hit, params.output_field, _value(outcome, params))
        ctx.metadata["model"] = outcome.model
    if flagged:
        ctx.warn(f"{flagged} answers do not fit the schema; they stand as they are under _raw")
    ctx.metadata.update(enriched=len(chosen) - len(missed), skipped=skipped, failed=len(missed), flagged=flagged)
    ctx.metadata["without_content"] = len(hits) - skipped - len(chosen)
    return hits


def _tell_unused(params: Params, ctx: StageContext) -> None:
    if params.thinking_level:
        ctx.warn("thinking_level has no effect: how long a model thinks is set where the provider is configured")
    if params.use_vcache:
        ctx.warn("use_vcache has no effect: similar prompts share no answer; equal ones do at temperature 0")


async def _ask(hit: Hit, params: Params, ctx: StageContext) -> Generated:
    files = [
        file
        for name, kind in params.multimodal_inputs.items()
        if (file := await media_of(hit, Media(name, kind), ctx)) is not None
    ]
    prompt = params.prompt
    if prompt in params.document_templates:
        prompt = as_text(ctx.render(prompt, hit))
    else:
        prompt = f"{prompt}\n\nDocument:\n{shown(hit, params.content_field)}"
    request = params.request(
        prompt,
        system=_SYSTEM,
        schema=params.output_schema,
        temperature=params.temperature,
        max_tokens=params.max_tokens,
        files=files,
        cache=True,
    )
    return await ctx.outside.language.generate(request)


def _value(made: Generated, params: Params) -> Any:
    if params.output_schema is None:
        return made.text
    return {"_raw": made.text, "_error": made.problem} if made.problem else made.value
