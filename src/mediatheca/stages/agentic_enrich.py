"""The `agentic_enrich` stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import AliasChoices, Field

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.hits import write_field
from mediatheca.kernel.outside import Conversation, Tool
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery
from mediatheca.stages import LANGUAGE, CollectionView, FilterParam, StageContext, stage
from mediatheca.stages._fields import FieldPath, as_text, rename, require
from mediatheca.stages._language import (
    AGENT_STAGE_MS,
    DATA,
    AgentParams,
    AnswerField,
    AnswerSchema,
    Missed,
    ModelParams,
    each,
    shown,
    split_by,
    tell_missed,
)
from mediatheca.stages._templates import Templates, per_document

MAX_DOCUMENTS = 10
MAX_EXAMPLES = 10
MAX_CATEGORIES = 200
SHOWN_CHARACTERS = 500
_TOOLS = ("analyze_content", "query_examples", "get_taxonomy_categories")


class Params(AgentParams):
    system_prompt: str = Field(min_length=1, max_length=50_000, description="What to decide about every document.")
    output_schema: AnswerSchema = Field(description="JSON Schema of the decision.")
    output_field: AnswerField = "metadata.classification"
    content_field: FieldPath | None = Field(None, description="The text of a document; not given: all of it.")
    reference_collection_id: str | None = Field(
        None, description="The collection whose labels get_taxonomy_categories lists."
    )
    label_field: FieldPath = "label"
    example_collection_ids: list[str] = Field(
        [], max_length=10, description="Collections that query_examples searches."
    )
    enabled_tools: list[Literal["analyze_content", "query_examples", "get_taxonomy_categories"]] | None = None
    analysis_provider: str | None = Field(None, max_length=64, description="Another provider for analyze_content.")
    analysis_model: str | None = Field(
        None, max_length=256, validation_alias=AliasChoices("analysis_model", "analysis_model_name")
    )
    max_turns: int = Field(8, ge=1, le=20)
    timeout_seconds: float = Field(60, ge=5, le=300, description="For one document.")
    temperature: float = Field(0.0, ge=0, le=1)
    max_concurrency: int = Field(2, ge=1, le=5)
    when: FilterParam = Field(None, description="Only these documents are worked on.")
    document_templates: Templates = frozenset()


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    params = {name: value for name, value in raw.items() if value is not None}
    rename(params, "output_schema", "schema")
    require(params, "system_prompt", what="what to decide about every document")
    require(params, "output_schema", what="a JSON Schema of the decision")
    if params.get("taxonomy_id") and not params.get("reference_collection_id"):
        message = "a taxonomy cannot be named here; give reference_collection_id, the collection that it is made of"
        raise ValidationError.at("taxonomy_id", message, "not_enabled")
    return {**params, "document_templates": per_document(params["system_prompt"], ("system_prompt",))}


@stage(
    "agentic_enrich",
    kind="enrich",
    params=Params,
    use_cases=("Classify with evidence from examples", "Judge documents that need several looks"),
    icon="bot",
    cost_tier="expensive",
    needs=(LANGUAGE,),
    example={
        "system_prompt": "Decide which team this ticket belongs to. Look at similar tickets first.",
        "output_schema": {"type": "object", "properties": {"team": {"type": "string"}}, "required": ["team"]},
        "example_collection_ids": ["solved tickets"],
    },
    hard_timeout_ms=AGENT_STAGE_MS,
    prepare=_prepare,
)
async def agentic_enrich(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Let a language model decide about each document with tools: look closer, read examples, list the categories.

    At most ten documents. The decision fits a JSON Schema, or stands with its error; tools see what the caller may see.
    """
    chosen, _ = split_by(hits, params.when)
    if params.seconds < params.timeout_seconds and "timeout_seconds" in params.model_fields_set:
        ctx.limit("timeout_seconds", int(params.timeout_seconds), int(params.seconds))
    if len(chosen) > MAX_DOCUMENTS:
        ctx.limit("documents", len(chosen), MAX_DOCUMENTS)
        chosen = chosen[:MAX_DOCUMENTS]
    outcomes = await each(
        chosen, lambda hit: _decide(hit, params, ctx), at_once=params.max_concurrency, seconds=params.seconds
    )
    missed = tell_missed(outcomes, "were not decided", ctx)
    traces, flagged = [], 0
    for hit, outcome in zip(chosen, outcomes, strict=True):
        made = None if isinstance(outcome, Missed) else _value(outcome)
        write_field(hit, params.output_field, made)
        if not isinstance(outcome, Missed):
            flagged += bool(outcome.problem)
            ctx.metadata["model"] = outcome.model
            traces.append({"document_id": hit.document_id, "steps": [dict(step) for step in outcome.steps]})
    if flagged:
        ctx.warn(f"{flagged} decisions do not fit output_schema or ended early; they stand under _raw")
    ctx.metadata.update(
        documents_enriched=len(chosen) - len(missed),
        documents_skipped=len(hits) - len(chosen),
        flagged=flagged,
        reasoning_traces=traces,
    )
    return hits


def _value(ended: Conversation) -> Any:
    if ended.value is not None and not ended.problem:
        return ended.value
    return {"_raw": ended.text, "_error": ended.problem or "the model did not decide"}


async def _decide(hit: Hit, params: Params, ctx: StageContext) -> Conversation:
    told = params.system_prompt
    if told in params.document_templates:
        told = as_text(ctx.render(told, hit))
    request = params.request(
        f"Document:\n{shown(hit, params.content_field)}",
        system=f"{told}\n\n{DATA}",
        schema=params.output_schema,
        temperature=params.temperature,
    )
    seconds = min(params.timeout_seconds, params.seconds)
    return await ctx.outside.language.converse(
        request, _tools(hit, params, ctx), max_turns=params.max_turns, timeout_s=seconds
    )


def _tools(hit: Hit, params: Params, ctx: StageContext) -> list[Tool]:
    wanted = params.enabled_tools if params.enabled_tools is not None else _TOOLS
    question = {"type": "object", "properties": {"question": {"type": "string"}}, "required": ["question"]}
    query = {"type": "object", "properties": {"query": {"type": "string", "minLength": 1}}, "required": ["query"]}

    async def analyze(arguments: dict[str, Any]) -> Any:
        return await _analyze(hit, arguments["question"], params, ctx)

    async def examples(arguments: dict[str, Any]) -> Any:
        return await _examples(arguments["query"], params, ctx)

    async def categories(arguments: dict[str, Any]) -> Any:
        return await _categories(params, ctx)

    made = []
    if "analyze_content" in wanted:
        made.append(Tool("analyze_content", "Answer a question about the document's content.", question, analyze))
    if "query_examples" in wanted and params.example_collection_ids:
        made.append(Tool("query_examples", "Find examples that were decided before.", query, examples))
    if "get_taxonomy_categories" in wanted and params.reference_collection_id:
        nothing = {"type": "object", "properties": {}}
        made.append(Tool("get_taxonomy_categories", "The categories there are.", nothing, categories))
    return made


async def _analyze(hit: Hit, question: str, params: Params, ctx: StageContext) -> str:
    other = ModelParams(
        provider=params.analysis_provider or (None if params.analysis_model else params.provider),
        model_name=params.analysis_model or (None if params.analysis_provider else params.model_name),
        api_key="" if params.analysis_provider else params.api_key,
    )
    prompt = f"{question}\n\nDocument:\n{shown(hit, params.content_field)}"
    request = other.request(prompt, system=DATA, temperature=0.0, max_tokens=500, cache=True)
    return (await ctx.outside.language.generate(request)).text


async def _examples(query: str, params: Params, ctx: StageContext) -> list[dict[str, Any]]:
    """The nearest documents of the example collections, within what the caller may see."""
    found: list[Hit] = []
    for name in params.example_collection_ids:
        view = await ctx.collection(name)
        index = next((i for i in view.vectors if i.is_answered and "text" in i.modalities), None)
        if index is None:
            found += await ctx.search(view.collection_id, TextQuery(query, MAX_EXAMPLES))
        else:
            vector = await ctx.embed(index, text=query)
            found += await ctx.search(view.collection_id, VectorQuery(index.name, vector, MAX_EXAMPLES))
    found.sort(key=lambda hit: -hit.score)
    return [
        {"score": round(hit.score, 4), "content": shown(hit, None, SHOWN_CHARACTERS)} for hit in found[:MAX_EXAMPLES]
    ]


async def _categories(params: Params, ctx: StageContext) -> list[str]:
    assert params.reference_collection_id is not None
    view = await ctx.collection(params.reference_collection_id)
    values = await ctx.facet(view.collection_id, params.label_field, MAX_CATEGORIES, None)
    return [str(value)[:200] for value, _ in values]
