"""The `rag_prepare` stage."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from mediatheca.kernel.hits import write_field
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, Need, StageContext, stage
from mediatheca.stages import _tokens as tokens
from mediatheca.stages._fields import FieldPath, OutputField, as_text, text_of
from mediatheca.stages._templates import Templates, per_document

CONTEXT_ID = "rag_context"
MAX_CHARACTERS = 2_000_000
"""Of all texts together, before they are cut: 128,000 tokens never need more."""
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_TITLE = ("title", "metadata.title", "name", "filename", "metadata.name")
_URL = ("url", "metadata.url", "source_url", "metadata.source_url")


class Citation(BaseModel):
    style: Literal["numbered", "bracketed", "footnote", "none"] = Field(
        "numbered", description="[1]; the document's id in brackets; ¹; nothing."
    )
    include_title: bool = True
    include_url: bool = False


class Params(BaseModel):
    max_tokens: int = Field(8000, ge=100, le=128_000, description="Of the whole context, separators included.")
    tokenizer: Literal[
        "cl100k_base", "o200k_base", "o200k_harmony", "p50k_base", "r50k_base", "gpt2"
    ] = Field("cl100k_base", description="p50k_base, r50k_base and gpt2 are counted by cl100k_base.")  # fmt: skip
    truncation_strategy: Literal["priority_truncate", "proportional", "drop_last"] = Field(
        "priority_truncate",
        description="priority_truncate: in order, the last one cut to fit; proportional: every document cut alike; "
        "drop_last: whole documents only.",
    )
    output_mode: Literal["single_context", "formatted_list"] = Field(
        "single_context", description="One document with everything, or the documents with their formatted text."
    )
    document_template: str | None = Field(
        None, description="How a document is written: {{CONTEXT.INDEX}}, {{CONTEXT.CITATION}} and {{DOC.…}}."
    )
    content_field: FieldPath | None = Field(None, description="The text; not given: the first field with one.")
    separator: str = Field("\n", max_length=1000, description="Between documents.")
    citation: Citation = Citation()
    context_field: OutputField = "rag_context"
    citations_field: OutputField = "citations"
    formatted_content_field: OutputField = "formatted_content"
    document_templates: Templates = frozenset()


@dataclass(slots=True)
class _Part:
    """One document's text in the context."""

    hit: Hit
    index: int
    text: str
    tokens: int = 0
    cut: bool = False


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    params = {key: value for key, value in raw.items() if value is not None}
    templates = per_document(params.get("document_template"), ("document_template",))
    return {**params, "document_templates": templates}


@stage(
    "rag_prepare",
    kind="apply",
    params=Params,
    use_cases=("Fill the context of a language model, with citations", "Keep a prompt within its token budget"),
    icon="file-text",
    neutral=True,
    needs=(Need("tokenizer"),),
    example={"max_tokens": 4000, "citation": {"style": "numbered", "include_title": True}},
    prepare=_prepare,
)
async def rag_prepare(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Write the documents down for a language model: formatted, numbered for citation, within a budget of tokens.

    single_context gives one document with the whole text and its citations; formatted_list gives every document its
    formatted text. No model is called. What was cut or left out is told in `limits`.
    """
    tokens.require_tokenizer()
    encoding = tokens.encoding_for(params.tokenizer)
    if encoding != params.tokenizer:
        ctx.warn(f"the vocabulary of {params.tokenizer} is not carried here: tokens were counted by {encoding}")
    parts = _parts(hits, params, ctx)
    # megabytes of text take longer than a millisecond: not on the event loop
    kept, before = await asyncio.to_thread(_fit, parts, params, encoding)
    context = params.separator.join(part.text for part in kept)
    used = tokens.count([context], encoding)[0]
    if before > params.max_tokens:
        ctx.limit("max_tokens", before, params.max_tokens)
    cut = sum(part.cut for part in kept)
    citations = [_cite(part, params) for part in kept]
    ctx.metadata.update(
        tokenizer=encoding,
        total_tokens=used,
        documents_included=len(kept),
        documents_truncated=cut,
        documents_dropped=len(hits) - len(kept),
    )
    if not hits:
        ctx.metadata.update({"context": "", "citations": []})
        return hits
    if params.output_mode == "formatted_list":
        return [_formatted(part, params) for part in kept]
    return [_context(hits, context, citations, used, params)]


def _parts(hits: Sequence[Hit], params: Params, ctx: StageContext) -> list[_Part]:
    """The formatted documents, up to the number of characters that can matter."""
    parts: list[_Part] = []
    left = MAX_CHARACTERS
    for index, hit in enumerate(hits, start=1):
        text = _format(hit, index, params, ctx)
        if len(text) > left:
            ctx.limit("characters", sum(len(part.text) for part in parts) + len(text), MAX_CHARACTERS)
            text = text[:left]
        if left == 0:
            break
        left -= len(text)
        parts.append(_Part(hit, index, text))
    return parts


def _format(hit: Hit, index: int, params: Params, ctx: StageContext) -> str:
    marker = _marker(hit, index, params)
    template = params.document_template
    if template is None:
        text = text_of(hit, params.content_field)
        return f"{marker} {text}\n" if marker else f"{text}\n"
    if template not in params.document_templates:
        return template
    return as_text(ctx.render(template, hit, {"INDEX": index, "CITATION": marker}))


def _marker(hit: Hit, index: int, params: Params) -> str:
    return {
        "numbered": f"[{index}]",
        "bracketed": f"[{hit.document_id}]",
        "footnote": str(index).translate(_SUPERSCRIPT),
        "none": "",
    }[params.citation.style]


def _fit(parts: list[_Part], params: Params, encoding: str) -> tuple[list[_Part], int]:
    """The parts within the budget, and how many tokens all of them would have had."""
    glue = tokens.count([params.separator], encoding)[0]
    for part, count in zip(parts, tokens.count([part.text for part in parts], encoding), strict=True):
        part.tokens = count
    before = sum(part.tokens for part in parts) + glue * max(0, len(parts) - 1)
    if before > params.max_tokens and params.truncation_strategy == "proportional":
        _shrink(parts, params.max_tokens - glue * (len(parts) - 1), encoding)
    kept = _take(parts, params, glue, encoding)
    return _check(kept, params, encoding), before


def _shrink(parts: list[_Part], budget: int, encoding: str) -> None:
    """Every part loses the same share."""
    total = sum(part.tokens for part in parts)
    for part in parts:
        _cut(part, max(0, budget) * part.tokens // total if total else 0, encoding)


def _cut(part: _Part, allowed: int, encoding: str) -> None:
    if part.tokens > allowed:
        part.text, part.cut = tokens.cut(part.text, allowed, encoding), True
        part.tokens = tokens.count([part.text], encoding)[0]


def _take(parts: list[_Part], params: Params, glue: int, encoding: str) -> list[_Part]:
    """Parts in order while they fit; the first that does not is cut, or the last one was the last."""
    kept: list[_Part] = []
    left = params.max_tokens
    for part in parts:
        room = left - (glue if kept else 0)
        if part.tokens > room:
            if params.truncation_strategy == "drop_last" or room <= 0:
                break
            _cut(part, room, encoding)
            kept.extend([part] if part.text else [])
            break
        left = room - part.tokens
        kept.append(part)
    return kept


def _check(kept: list[_Part], params: Params, encoding: str) -> list[_Part]:
    """Texts that are joined can have more tokens than apart, by one or two: the last is shortened until all fits."""
    while kept and params.output_mode == "single_context":
        over = tokens.count([params.separator.join(part.text for part in kept)], encoding)[0] - params.max_tokens
        if over <= 0:
            break
        last = kept[-1]
        if params.truncation_strategy == "drop_last" or last.tokens <= over:
            kept = kept[:-1]
        else:
            _cut(last, last.tokens - over, encoding)
    return kept


def _cite(part: _Part, params: Params) -> dict[str, Any]:
    hit = part.hit
    made: dict[str, Any] = {
        "index": part.index,
        "citation": _marker(hit, part.index, params),
        "document_id": hit.document_id,
        "collection_id": hit.collection_id,
        "score": hit.score,
        "truncated": part.cut,
    }
    if params.citation.include_title:
        made["title"] = _first(hit, _TITLE)
    if params.citation.include_url:
        made["url"] = _first(hit, _URL)
    return made


def _first(hit: Hit, paths: Sequence[str]) -> str | None:
    found = (read_field(hit, path) for path in paths)
    return next((value for value in found if isinstance(value, str) and value), None)


def _formatted(part: _Part, params: Params) -> Hit:
    write_field(part.hit, params.formatted_content_field, part.text)
    write_field(part.hit, "token_count", part.tokens)
    if params.citation.style != "none":
        write_field(part.hit, params.citations_field, [_cite(part, params)])
    return part.hit


def _context(hits: Sequence[Hit], context: str, citations: list[dict[str, Any]], used: int, params: Params) -> Hit:
    """The one document; it stands for none, and its citations name those it shows."""
    made = Hit(CONTEXT_ID, "", max(hit.score for hit in hits), {}, {})
    write_field(made, params.context_field, context)
    write_field(made, params.citations_field, citations if params.citation.style != "none" else [])
    write_field(made, "token_count", used)
    write_field(made, "document_count", len(citations))
    return made
