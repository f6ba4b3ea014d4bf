"""The `external_web_search` stage."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from mediatheca.kernel.errors import BadRequestError
from mediatheca.kernel.hits import write_field
from mediatheca.kernel.outside import WebResult
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, FilterParam, Need, StageContext, stage
from mediatheca.stages._fields import OutputField
from mediatheca.stages._outside import ask, attempt, chosen, settle
from mediatheca.stages._single_braces import doubled, warn_if_doubled
from mediatheca.stages._templates import Templates, per_document

AT_ONCE = 5
_FIELDS = ("url", "title", "text", "published_date", "author", "score")


class Contents(BaseModel):
    """An older way to ask for texts."""

    text: bool = True
    highlights: bool = False
    summary: bool = False


class Params(BaseModel):
    query: str = Field("{{INPUT.query}}", description="What to search for; with DOC, for each document.")
    num_results: int = Field(10, ge=1, le=100)
    mode: Literal["auto", "append", "enrich", "create"] = Field(
        "auto",
        description="append pages as documents, enrich each document with results, create documents from nothing. "
        "auto: create without documents, enrich where the query mentions DOC, else append.",
    )
    output_field: OutputField = "metadata.web_search"
    use_autoprompt: bool = True
    start_published_date: str | None = Field(None, pattern=r"^\d{4}-\d{2}-\d{2}")
    category: str | None = Field(None, max_length=100)
    include_text: bool = True
    include_domains: list[str] = Field([], max_length=50)
    exclude_domains: list[str] = Field([], max_length=50)
    contents: Contents | None = None
    when: FilterParam = None
    document_templates: Templates = frozenset()
    single_braces: SkipJsonSchema[bool] = False


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    made: dict[str, Any] = {"query": "{{INPUT.query}}", **doubled(raw)}
    return {**made, "document_templates": per_document(made["query"], ("query",)), "single_braces": doubled(raw) != raw}


@stage(
    "external_web_search",
    kind="apply",
    params=Params,
    use_cases=("Add what the web knows to own documents", "Answer questions about recent events"),
    icon="search",
    cost_tier="expensive",
    starts=True,
    aliases=("web_search",),
    hard_timeout_ms=30_000,
    needs=(Need("web_search"),),
    example={"query": "{{INPUT.query}}", "num_results": 5},
    prepare=_prepare,
)
async def external_web_search(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Search the web and add what is found: as documents, or to each document in `metadata.web_search`.

    The service is the operator's choice. If it fails there are no web results and the execution is degraded; the same
    query is asked once, and its answer is kept for an hour.
    """
    warn_if_doubled(params.single_braces, ctx)
    if params.contents is not None and (params.contents.highlights or params.contents.summary):
        ctx.warn("contents.highlights and contents.summary have no effect: of a page its text is given")
    per_hit = bool(params.document_templates)
    if not hits and per_hit:
        return []
    if params.mode == "enrich" or (params.mode == "auto" and per_hit and hits):
        return await _enriched(hits, params, ctx) if hits else []
    if not params.query.strip() or params.query == Params.model_fields["query"].default:
        ctx.warn("the query is empty; nothing was searched for")
        return hits
    try:
        found = await _search(params.query, params, ctx)
    except BadRequestError as error:
        ctx.degrade(error.message, "try again later; the documents are complete without web results")
        return hits
    ctx.metadata["web_results"] = len(found)
    made = [_document(number, page) for number, page in enumerate(found)]
    return made if params.mode == "create" else [*hits, *made]


async def _search(query: str, params: Params, ctx: StageContext) -> list[WebResult]:
    options = {
        "include_domains": params.include_domains,
        "exclude_domains": params.exclude_domains,
        "start_published_date": params.start_published_date,
        "category": params.category,
        "autoprompt": params.use_autoprompt,
        "text": params.include_text if params.contents is None else params.contents.text,
    }
    return await ctx.outside.web.search(query, limit=params.num_results, options=options)


async def _enriched(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    asked = chosen(hits, params.when, ctx)
    if not asked:
        return hits

    def query(hit: Hit) -> str:
        text = ctx.render(params.query, hit) if params.query in params.document_templates else params.query
        if not isinstance(text, str) or not text.strip():
            raise BadRequestError("the query is empty for this document")
        return text.strip()

    async def call(text: str) -> dict[str, Any]:
        found = await _search(text, params, ctx)
        results = [{**_shown(page), "position": number} for number, page in enumerate(found, 1)]
        return {
            "query": text,
            "results": results,
            "num_results": len(results),
            "autoprompt_used": params.use_autoprompt,
        }

    requests = [(hit, attempt(query, hit)) for hit in asked]
    outcomes = await ask(requests, call, at_once=AT_ONCE, on_error="skip")
    return settle(hits, asked, outcomes, lambda hit, value: write_field(hit, params.output_field, value), "skip", ctx)


def _shown(page: WebResult) -> dict[str, Any]:
    values = asdict(page)
    return {name: values[name] for name in _FIELDS}


def _document(number: int, page: WebResult) -> Hit:
    """A page as a document of no collection. Its score falls with its place: services score in ways of their own."""
    ident = hashlib.blake2b(page.url.encode("utf-8", "replace"), digest_size=10).hexdigest()
    shown = _shown(page)
    payload = {
        "url": page.url,
        "title": page.title,
        "content": page.text,
        "metadata": {**shown, "source": "web", "position": number + 1},
    }
    return Hit(f"web_{ident}", "", 1.0 / (number + 1), payload, {})
