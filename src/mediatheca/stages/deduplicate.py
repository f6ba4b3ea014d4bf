"""The `deduplicate` stage."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from mediatheca.kernel.filter_values import fold
from mediatheca.kernel.hits import value_key, write_field
from mediatheca.kernel.near_duplicates import (
    MAX_TEXT,
    Repeats,
    equal_keys,
    similar_hashes,
    similar_texts,
    similar_vectors,
)
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext, stage
from mediatheca.stages._fields import FieldPath, OutputField, rename, require, text_of
from mediatheca.stages._vectors import known_feature, searched_feature, vector_spaces

MAX_COMPARED = 5000
_HEX = re.compile(r"(?:0x)?([0-9a-fA-F]{4,256})")


class Params(BaseModel):
    strategy: Literal["field", "content", "embedding", "perceptual"] = Field(
        "field",
        description="What must be the same: fields, the text nearly, the vector nearly, or the perceptual hash nearly.",
    )
    fields: list[FieldPath] = Field([], max_length=20, description="field: documents are equal when all of these are.")
    content_field: FieldPath | None = Field(None, description="content: the text; not given: the first field with one.")
    feature_uri: str | None = Field(None, description="embedding: the vectors; not given: those of the last search.")
    hash_field: FieldPath = Field("phash", description="perceptual: the field with the hash, in hexadecimal.")
    similarity_threshold: float = Field(0.95, ge=0, le=1, description="How alike two documents must be to be the same.")
    keep: Literal["first", "last"] = Field("first", description="Which of several equal documents stays.")
    case_sensitive: bool = Field(True, description="Texts that differ in case are different.")
    missing: Literal["keep", "collapse"] = Field(
        "keep", description="Documents without a field: all stay, or they count as equal to each other."
    )
    duplicates_field: OutputField = Field(
        "duplicates", description="Where the kept document lists those it stands for."
    )


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    """`field` and a single text for `fields` are accepted; `strategy` follows from what is given."""
    params = dict(raw)
    rename(params, "fields", "field", "dedup_field", "deduplicate_by")
    rename(params, "similarity_threshold", "threshold")
    if isinstance(params.get("fields"), str):
        params["fields"] = [params["fields"]]
    if params.get("strategy") is None and params.get("fields") is None and params.get("content_field") is not None:
        params["strategy"] = "content"
    if params.get("strategy", "field") == "field":
        require(params, "fields", what="the fields by which documents are the same, or strategy content")
    known_feature(params.get("feature_uri"), collections, "feature_uri")
    return params


@stage(
    "deduplicate",
    kind="reduce",
    params=Params,
    per_document=False,
    use_cases=("Show each item once", "Drop reposts and near copies"),
    icon="copy-minus",
    aliases=("dedup",),
    example={"strategy": "field", "fields": ["source_object_id"]},
    prepare=_prepare,
)
async def deduplicate(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Keep one of several equal documents, in their order: equal by fields, text, vector or perceptual hash.

    The one that stays lists the ids of the others. Documents without the field stay unless `missing` says otherwise.
    """
    compared = hits
    if params.strategy != "field" and len(hits) > MAX_COMPARED:
        ctx.limit("compared_documents", len(hits), MAX_COMPARED)
        compared = hits[:MAX_COMPARED]
    ordered = compared if params.keep == "first" else compared[::-1]
    repeats = await _repeats(ordered, params, ctx)
    standing: dict[int, list[str]] = defaultdict(list)
    for place, original in enumerate(repeats):
        if original is not None:
            standing[original].append(ordered[place].document_id)
    for original, ids in standing.items():
        write_field(ordered[original], params.duplicates_field, ids)
    gone = {id(ordered[place]) for place, original in enumerate(repeats) if original is not None}
    ctx.metadata.update(strategy=params.strategy, removed=len(gone), kept=len(hits) - len(gone))
    return [hit for hit in hits if id(hit) not in gone]


async def _repeats(hits: Sequence[Hit], params: Params, ctx: StageContext) -> Repeats:
    if params.strategy == "field":
        return equal_keys([_key(hit, params) for hit in hits])
    if params.strategy == "perceptual":
        return await _by_hash(hits, params, ctx)
    if params.strategy == "embedding":
        return await _by_vector(hits, params, ctx)
    texts = [text_of(hit, params.content_field) for hit in hits]
    cut = max((len(text) for text in texts), default=0)
    if cut > MAX_TEXT:
        ctx.limit("compared_characters", cut, MAX_TEXT)
    _tell_missing(sum(1 for text in texts if not text), params.content_field or "a text field", ctx)
    # a few milliseconds for a hundred texts: not on the event loop
    found = await asyncio.to_thread(
        similar_texts, texts, params.similarity_threshold, ignore_case=not params.case_sensitive
    )
    if params.missing == "keep":
        return found
    empty = equal_keys([None if text else "" for text in texts])
    return [one if one is not None else other for one, other in zip(found, empty, strict=True)]


def _key(hit: Hit, params: Params) -> bytes | None:
    values = [read_field(hit, name) for name in params.fields]
    if params.missing == "keep" and any(value is None for value in values):
        return None
    return value_key(values if params.case_sensitive else [_folded(value) for value in values])


def _folded(value: Any) -> Any:
    if isinstance(value, list):
        return [_folded(item) for item in value]
    return fold(value) if isinstance(value, str) else value


async def _by_vector(hits: Sequence[Hit], params: Params, ctx: StageContext) -> Repeats:
    uri = params.feature_uri or searched_feature(ctx)
    if uri is None:
        ctx.degrade("there is no feature to compare by: no search ran before", "give feature_uri")
        return [None] * len(hits)
    repeats: Repeats = [None] * len(hits)
    spaces = await vector_spaces(hits, uri, ctx.collections, ctx)
    for space in spaces:
        found = await asyncio.to_thread(similar_vectors, space.matrix, params.similarity_threshold)
        for place, original in enumerate(found):
            if original is not None:
                repeats[space.rows[place]] = space.rows[original]
    _tell_missing(len(hits) - sum(len(space.rows) for space in spaces), f"a vector for '{uri}'", ctx)
    return repeats


async def _by_hash(hits: Sequence[Hit], params: Params, ctx: StageContext) -> Repeats:
    """Hashes of different lengths come from different methods and are never the same."""
    by_bits: dict[int, dict[int, int]] = defaultdict(dict)
    for place, hit in enumerate(hits):
        value = read_field(hit, params.hash_field)
        found = _HEX.fullmatch(value) if isinstance(value, str) else None
        if found is not None:
            by_bits[len(found[1]) * 4][place] = int(found[1], 16)
    repeats: Repeats = [None] * len(hits)
    for bits, hashes in by_bits.items():
        places = list(hashes)
        # every hash with every other: not on the event loop
        found_of = await asyncio.to_thread(similar_hashes, list(hashes.values()), bits, params.similarity_threshold)
        for number, original in enumerate(found_of):
            if original is not None:
                repeats[places[number]] = places[original]
    _tell_missing(len(hits) - sum(map(len, by_bits.values())), f"a hash in '{params.hash_field}'", ctx)
    return repeats


def _tell_missing(count: int, what: str, ctx: StageContext) -> None:
    if count:
        ctx.metadata["not_compared"] = count
        ctx.warn(f"{count} documents do not have {what} and were not compared")
