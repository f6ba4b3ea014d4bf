"""The `summarize` stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import AliasChoices, Field, field_validator

from mediatheca.kernel.hits import as_document, derived, value_key, write_field
from mediatheca.kernel.json_schema import check_schema
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import LANGUAGE, CollectionView, StageContext, stage
from mediatheca.stages._answering import DEFAULT_TOKENS, Answer, Asking, Truncation, answer, fit, sources
from mediatheca.stages._fields import FieldPath, as_text, rename
from mediatheca.stages._language import DATA, MAX_TIME_MS, AnswerField, Missed, ModelParams, each, shown, tell_missed
from mediatheca.stages._templates import Templates, per_document

SUMMARY_ID = "summary"
MAX_GROUPS = 50
MAX_PER_DOCUMENT = 100
_PROMPT = "Summarize these documents in a few sentences. Name what they have in common and where they differ."
_PROMPT_EACH = "Summarize this document in two or three sentences."
_SYSTEM = (
    "You write from the documents you are given and from nothing else. Where they are numbered, cite them as [1], [2]. "
    f"{DATA}"
)


class Params(ModelParams):
    prompt: str | None = Field(
        None,
        max_length=50_000,
        description="What to write. {{DOCUMENTS}} is where the documents stand, else they follow.",
    )
    document_template: str | None = Field(
        None, max_length=20_000, description="How a document is written: {{INDEX}} and {{DOC.…}}."
    )
    content_field: FieldPath | None = Field(None, description="The text of a document; not given: all of it.")
    mode: Literal["aggregate", "per_document"] = Field("aggregate", description="One summary, or one a document.")
    group_by: FieldPath | None = Field(None, description="One summary for every value of this field.")
    output_field: AnswerField = "summary"
    include_sources: bool = Field(True, validation_alias=AliasChoices("include_sources", "include_citations"))
    include_metadata: bool = Field(True, description="Tell the model, tokens and truncation beside the summary.")
    max_input_tokens: int = Field(DEFAULT_TOKENS, ge=100, le=128_000)
    truncation_strategy: Truncation = "smart"
    temperature: float = Field(0.3, ge=0, le=2)
    max_output_tokens: int = Field(
        1024, ge=10, le=16_000, validation_alias=AliasChoices("max_output_tokens", "max_tokens")
    )
    output_schema: dict[str, Any] | None = Field(None, description="JSON Schema: the summary is such a value.")
    max_concurrency: int = Field(5, ge=1, le=20)
    document_templates: Templates = frozenset()

    @field_validator("output_schema")
    @classmethod
    def _schema(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            check_schema(value, "output_schema")
        return value


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    params = {name: value for name, value in raw.items() if value is not None}
    rename(params, "output_schema", "schema")
    marked = {name: params.get(name) for name in ("prompt", "document_template")}
    return {**params, "document_templates": per_document(marked, ())}


@stage(
    "summarize",
    kind="reduce",
    params=Params,
    use_cases=("Answer a question from the results", "Digest many documents into one text"),
    icon="text",
    aliases=("llm_generation",),
    cost_tier="expensive",
    needs=(LANGUAGE,),
    example={"prompt": "Answer {{INPUT.query}} from these documents:\n{{DOCUMENTS}}", "max_output_tokens": 300},
    hard_timeout_ms=MAX_TIME_MS,
    prepare=_prepare,
)
async def summarize(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Write one text from all documents, from every group of them, or from each, with a language model.

    The result is one document with the text and its sources, one for every group, or the documents with their
    summaries. No documents make an empty summary and no call. Citations are checked against what the model was given.
    """
    if not hits:
        ctx.metadata.update(summary="", documents_used=0)
        return hits
    if params.mode == "per_document":
        return await _summarize_each(hits, params, ctx)
    groups = _groups(hits, params, ctx)
    outcomes = await each(
        groups,
        lambda group: _summary(group[0], group[1], params, ctx),
        at_once=params.max_concurrency,
        seconds=params.seconds,
    )
    tell_missed(outcomes, "or groups of them were not summarized", ctx)
    made = [outcome for outcome in outcomes if not isinstance(outcome, Missed)]
    ctx.metadata.update(
        summaries=len(made), documents_used=sum(int(hit.payload.get("documents_used", 0)) for hit in made)
    )
    return made


def _groups(hits: Sequence[Hit], params: Params, ctx: StageContext) -> list[tuple[Any, list[Hit]]]:
    if params.group_by is None:
        return [(None, list(hits))]
    groups: dict[bytes, tuple[Any, list[Hit]]] = {}
    for hit in hits:
        value = read_field(hit, params.group_by)
        groups.setdefault(value_key(value), (value, []))[1].append(hit)
    if len(groups) > MAX_GROUPS:
        ctx.limit("groups", len(groups), MAX_GROUPS)
    return list(groups.values())[:MAX_GROUPS]


async def _summary(value: Any, hits: Sequence[Hit], params: Params, ctx: StageContext) -> Hit:
    """The one document that stands for a group."""
    texts = fit([_written(hit, n, params, ctx) for n, hit in enumerate(hits, start=1)], *_room(params))
    if len(texts) < len(hits):
        ctx.limit("documents", len(hits), len(texts))
    used = hits[: len(texts)]
    prompt = _prompt(params, "".join(texts), hits[0], {"DOC_COUNT": len(used), "GROUP_VALUE": value}, ctx)
    made = await answer(_asking(prompt, used, params, _row(value, params)), params, ctx)
    return _document(value, hits, used, made, params, ctx)


def _room(params: Params) -> tuple[int, Truncation]:
    return params.max_input_tokens, params.truncation_strategy


def _asking(prompt: str, used: Sequence[Hit], params: Params, document_id: str) -> Asking:
    return Asking(
        prompt,
        used,
        system=_SYSTEM,
        schema=params.output_schema,
        temperature=params.temperature,
        max_tokens=params.max_output_tokens,
        field=params.output_field,
        document_id=document_id,
    )


def _row(value: Any, params: Params) -> str:
    """The id of the made row."""
    return SUMMARY_ID if params.group_by is None else f"{SUMMARY_ID}:{as_text(value)[:200] or 'null'}"


def _written(hit: Hit, number: int, params: Params, ctx: StageContext) -> str:
    template = params.document_template
    if template is None:
        return f"[{number}] {shown(hit, params.content_field)}\n"
    if template not in params.document_templates:
        return f"{template}\n"
    return as_text(ctx.render(template, hit, {"INDEX": number}))


def _prompt(params: Params, documents: str, hit: Hit, names: dict[str, Any], ctx: StageContext) -> str:
    """The prompt with the documents in their place, or behind it."""
    prompt = params.prompt or (_PROMPT_EACH if params.mode == "per_document" else _PROMPT)
    if prompt not in params.document_templates:
        return f"{prompt}\n\nDocuments:\n{documents}"
    written = as_text(ctx.render(prompt, hit, {**names, "DOCUMENTS": documents}))
    return written if documents in written else f"{written}\n\nDocuments:\n{documents}"


def _document(
    value: Any, hits: Sequence[Hit], used: Sequence[Hit], made: Answer, params: Params, ctx: StageContext
) -> Hit:
    """The made row. It stands for no document; its sources name those it was made of."""
    hit = Hit(_row(value, params), "", max(entry.score for entry in hits), {}, {})
    write_field(hit, params.output_field, made.value)
    hit.payload["documents_used"] = len(used)
    if params.group_by is not None:
        hit.payload["group_value"] = value
    if params.include_sources:
        hit.payload["source_document_ids"] = [entry.document_id for entry in used]
        hit.payload["citations"] = sources(used, made.cited)
        # Further pages leave out what has been deleted meanwhile.
        hit.payload["sources"] = [as_document(entry) for entry in used]
        hit.system["_members"] = "sources"
    if params.include_metadata:
        hit.payload["generation"] = _generation(made)
    ctx.metadata["model"] = made.generated.model
    return hit


def _generation(made: Answer) -> dict[str, Any]:
    told = made.generated
    return {
        "model": told.model,
        "input_tokens": told.input_tokens,
        "output_tokens": told.output_tokens,
        "truncated": told.truncated,
        "problem": told.problem or None,
        "unknown_citations": made.unknown,
    }


async def _summarize_each(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Every document gets a summary of its own."""
    chosen = hits[:MAX_PER_DOCUMENT]
    if len(hits) > MAX_PER_DOCUMENT:
        ctx.limit("documents", len(hits), MAX_PER_DOCUMENT)

    async def one(hit: Hit) -> Answer:
        text = "".join(fit([shown(hit, params.content_field)], *_room(params)))
        prompt = _prompt(params, text, hit, {"DOC_COUNT": 1, "INDEX": 1}, ctx)
        return await answer(_asking(prompt, [hit], params, hit.document_id), params, ctx)

    outcomes = await each(chosen, one, at_once=params.max_concurrency, seconds=params.seconds)
    tell_missed(outcomes, "were not summarized", ctx)
    made = []
    for hit, outcome in zip(chosen, outcomes, strict=True):
        row = derived(hit, dict(hit.payload))
        write_field(row, params.output_field, None if isinstance(outcome, Missed) else outcome.value)
        made.append(row)
    ctx.metadata.update(summaries=sum(not isinstance(outcome, Missed) for outcome in outcomes))
    return [*made, *hits[MAX_PER_DOCUMENT:]]
