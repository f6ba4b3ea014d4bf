"""The `llm_filter` stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from pydantic import AliasChoices, Field

from mediatheca.kernel.hits import write_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import LANGUAGE, CollectionView, FilterParam, StageContext, stage
from mediatheca.stages._answering import DEFAULT_TOKENS, Asking, answer, fit, numbered, plain, sources
from mediatheca.stages._fields import FieldPath, as_text, rename
from mediatheca.stages._language import (
    DATA,
    MAX_TIME_MS,
    AnswerField,
    Missed,
    ModelParams,
    each,
    query_of,
    shown,
    split_by,
    tell_missed,
)
from mediatheca.stages._media import first_media
from mediatheca.stages._templates import Templates, per_document

MAX_REPORTED = 100
TOKENS_PER_VERDICT = 24
TOKENS_PER_REASON = 80
_SYSTEM = (
    "You decide which documents meet a criterion. Decide about every document by its id, once. keep: true when it "
    f"meets the criterion. {DATA}"
)


class Params(ModelParams):
    criteria: str | None = Field(
        None,
        max_length=20_000,
        validation_alias=AliasChoices("criteria", "prompt"),
        description="Which documents stay; not given: those relevant to INPUT.query. With output_field: the question.",
    )
    include_reasoning: bool = Field(
        False,
        validation_alias=AliasChoices("include_reasoning", "explanation"),
        description="Ask for a reason for every decision.",
    )
    include_media: bool = Field(False, description="Show the document's picture or video too, one document a prompt.")
    content_field: FieldPath | None = Field(None, description="The text; not given: the whole document.")
    batch_size: int = Field(10, ge=1, le=50, description="Documents in one prompt; 1 is the most exact.")
    max_concurrency: int = Field(5, ge=1, le=20, description="Prompts at once.")
    on_parse_error: Literal["keep", "drop"] = Field("keep", description="What happens to a document without a verdict.")
    when: FilterParam = Field(None, description="Only these documents are judged; the others stay.")
    output_field: AnswerField | None = Field(
        None, description="Write an answer to the prompt, made of all documents, into this field and keep them all."
    )
    document_templates: Templates = frozenset()


@dataclass(frozen=True, slots=True)
class _Batch:
    criteria: str
    hits: Sequence[Hit]


@dataclass(frozen=True, slots=True)
class _Verdict:
    keep: bool
    reason: str | None


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    params = {name: value for name, value in raw.items() if value is not None}
    rename(params, "criteria", "prompt", "criterion")
    return {**params, "document_templates": per_document(params.get("criteria"), ("criteria",))}


@stage(
    "llm_filter",
    kind="filter",
    params=Params,
    use_cases=("Keep only documents that answer a criterion in words", "Drop results that merely look relevant"),
    icon="brain",
    writes=True,
    cost_tier="expensive",
    needs=(LANGUAGE,),
    example={"criteria": "The document describes an animal in the wild.", "include_reasoning": True},
    hard_timeout_ms=MAX_TIME_MS,
    prepare=_prepare,
)
async def llm_filter(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Keep the documents that meet a criterion, judged by a language model, in their order and with their scores.

    What was decided about a document, and why, stands in its field `llm_filter`: `{passed, explanation}`.

    With `output_field` it answers instead: one answer to the prompt, made of all documents, is written into that field
    of every document, and all are kept.
    """
    if params.output_field is not None:
        return await _answered(hits, params, params.output_field, ctx)
    chosen, skipped = split_by(hits, params.when)
    batches = _batches(chosen, params, ctx)
    if not batches:
        return hits
    verdicts = await _judge(batches, params, ctx)
    kept = []
    for hit in hits:
        verdict = verdicts.get(id(hit))
        if verdict is None or verdict.keep:
            kept.append(hit)
        if verdict is not None:
            hit.scores["llm_filter"] = told = {"passed": verdict.keep, "explanation": verdict.reason}
            write_field(hit, "llm_filter", told)
    ctx.metadata.update(judged=len(verdicts), kept=len(kept), removed=len(hits) - len(kept), skipped=skipped)
    return kept


def _batches(hits: Sequence[Hit], params: Params, ctx: StageContext) -> list[_Batch]:
    """Documents under the same criterion, together."""
    criteria = params.criteria
    if criteria is None:
        query = query_of(ctx)
        criteria = f"The document is relevant to: {query}" if query else ""
    if not criteria.strip():
        ctx.warn("there is no criterion: every document was kept")
        ctx.metadata["reason"] = "no criterion"
        return []
    if criteria in params.document_templates:
        return [_Batch(as_text(ctx.render(criteria, hit)), [hit]) for hit in hits]
    size = 1 if params.include_media else params.batch_size
    return [_Batch(criteria, hits[at : at + size]) for at in range(0, len(hits), size)]


async def _judge(batches: Sequence[_Batch], params: Params, ctx: StageContext) -> dict[int, _Verdict]:
    """A verdict for every document, by identity."""
    found = await each(
        batches,
        lambda batch: _ask(batch, params, ctx),
        at_once=params.max_concurrency,
        seconds=params.seconds,
    )
    default = params.on_parse_error == "keep"
    verdicts, unjudged, without = {}, [], 0
    for batch, outcome in zip(batches, found, strict=True):
        for number, hit in enumerate(batch.hits, start=1):
            verdict = None if isinstance(outcome, Missed) else outcome.get(str(number))
            if isinstance(outcome, Missed):
                unjudged.append(outcome)
            elif verdict is None:
                without += 1
            verdicts[id(hit)] = verdict or _Verdict(default, None)
    if without:
        word = "kept" if default else "dropped"
        ctx.warn(f"the model gave no verdict on {without} documents; they were {word} (on_parse_error)")
    total = sum(len(batch.hits) for batch in batches)
    tell_missed([*unjudged, *range(total - len(unjudged))], "were not judged", ctx)
    _report(batches, verdicts, ctx)
    ctx.metadata.update(without_verdict=without, not_judged=len(unjudged), batches=len(batches))
    return verdicts


async def _ask(batch: _Batch, params: Params, ctx: StageContext) -> dict[str, _Verdict]:
    """Verdicts by number. What the model says about anything else is not listened to; the first word counts."""
    documents = [
        {"id": str(number), "document": shown(hit, params.content_field)}
        for number, hit in enumerate(batch.hits, start=1)
    ]
    prompt = f"Criterion: {batch.criteria}\n\nDocuments, one a line:\n" + "\n".join(
        orjson.dumps(document).decode() for document in documents
    )
    each_takes = TOKENS_PER_VERDICT + (TOKENS_PER_REASON if params.include_reasoning else 0)
    request = params.request(
        prompt,
        system=_SYSTEM,
        schema=_schema([document["id"] for document in documents], params.include_reasoning),
        files=await first_media(batch.hits[0], ctx) if params.include_media else (),
        temperature=0.0,
        max_tokens=200 + each_takes * len(documents),
        cache=True,
    )
    made = await ctx.outside.language.generate(request)
    ctx.metadata["model"] = made.model
    if made.problem:
        ctx.warn(f"an answer of the model could not be read: {made.problem}")
        return {}
    verdicts: dict[str, _Verdict] = {}
    for entry in made.value["decisions"]:
        verdicts.setdefault(entry["id"], _Verdict(entry["keep"], entry.get("reason")))
    return verdicts


def _schema(ids: Sequence[str], reasons: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {"id": {"type": "string", "enum": list(ids)}, "keep": {"type": "boolean"}}
    if reasons:
        properties = {"id": properties["id"], "reason": {"type": "string"}, "keep": properties["keep"]}
    entry = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    decisions = {"type": "array", "items": entry}
    return {
        "type": "object",
        "properties": {"decisions": decisions},
        "required": ["decisions"],
        "additionalProperties": False,
    }


def _report(batches: Sequence[_Batch], verdicts: dict[int, _Verdict], ctx: StageContext) -> None:
    judged = [hit for batch in batches for hit in batch.hits]
    ctx.metadata["decisions"] = [
        {"document_id": hit.document_id, "keep": verdicts[id(hit)].keep, "reason": verdicts[id(hit)].reason}
        for hit in judged[:MAX_REPORTED]
    ]


async def _answered(hits: list[Hit], params: Params, output_field: str, ctx: StageContext) -> list[Hit]:
    """Answer the prompt from the documents, and write the answer on each of them."""
    question = params.criteria or query_of(ctx)
    if question in params.document_templates:
        question = as_text(ctx.render(question, hits[0]))
    texts = fit(plain(hits, params.content_field), DEFAULT_TOKENS, "smart")
    if len(texts) < len(hits):
        ctx.limit("documents", len(hits), len(texts))
    used = hits[: len(texts)]
    asking = Asking(f"{question}\n\nDocuments:\n{numbered(texts)}", used, field=output_field)
    made = await answer(asking, params, ctx)
    for hit in hits:
        write_field(hit, output_field, made.value)
    found = sources(used, made.cited)
    ctx.metadata.update(model=made.generated.model, answer=made.value, sources=found, documents_used=len(used))
    ctx.side["answer"] = {"text": made.value, "field": output_field, "citations": found}
    return hits
