"""The `cross_compare` stage."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, field_validator

from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.hits import derived, write_field
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext, stage
from mediatheca.stages._comparing import (
    Match,
    Mode,
    Pieces,
    exact_matches,
    fuzzy_matches,
    gather,
)
from mediatheca.stages._fields import FieldPath, OutputField, given, rename, require
from mediatheca.stages._vectors import searched_feature, vector_spaces

MAX_SOURCES = 50
MAX_SOURCE_PIECES = 1000
MAX_REFERENCE_PIECES = 5000
_WHAT = "the collection to compare with, by id or name"
_URL = ("url", "metadata.url", "source_url", "metadata.source_url")
_ELEMENTS = {"raw": "text", "lines": "line", "labels": "label", "list": "item"}
Tier = Literal["exact", "fuzzy", "semantic", "visual"]


class Classification(BaseModel):
    min_score: float = Field(ge=0, le=1)
    label: str = Field(min_length=1, max_length=256)


class Params(BaseModel):
    reference_collection_id: str | None = Field(None, description="The collection to compare with, by id or name.")
    source_field: FieldPath = "content"
    reference_field: FieldPath = "content"
    extraction_mode: Mode = Field("raw", description="Compare whole texts, lines, labels, or the entries of a list.")
    match_tiers: list[Tier] = Field(
        ["exact", "fuzzy"], min_length=1, description="Tried in order; the first match wins."
    )
    fuzzy_threshold: float = Field(0.75, ge=0, le=1)
    semantic_threshold: float = Field(0.85, ge=0, le=1)
    visual_threshold: float = Field(0.55, ge=0, le=1)
    classifications: list[Classification] = Field(
        [
            Classification(min_score=0.95, label="exact_match"),
            Classification(min_score=0.85, label="close_match"),
            Classification(min_score=0.65, label="partial_match"),
            Classification(min_score=0, label="no_match"),
        ],
        max_length=20,
        description="The label of a match by its score.",
    )
    no_match_label: str = Field("no_match", min_length=1, max_length=256)
    output_mode: Literal["findings", "enrich"] = Field(
        "findings", description="One document for each thing compared, or the documents with their findings."
    )
    output_field: OutputField = Field("comparison_results", description="enrich: where the findings go.")
    include_visual_comparison: bool = Field(False, description="Adds the tier visual.")
    semantic_index: str | None = Field(None, description="Feature URI or index for semantic; not given: one both have.")
    dinov2_index: str | None = Field(None, description="Feature URI or index of shapes, for visual.")
    siglip_index: str | None = Field(None, description="Feature URI or index of meanings, for visual.")
    dinov2_weight: float = Field(0.7, ge=0, le=1)
    siglip_weight: float = Field(0.3, ge=0, le=1)
    reference_limit: int = Field(200, ge=1, le=1000, description="Reference documents read.")
    reference_doc_type: str | None = Field(None, description="Only references of this type.")
    source_doc_type_filter: str | None = Field(None, description="Only documents of this type are compared.")
    doc_type_field: FieldPath = Field("doc_type", description="The field that holds the type.")
    source_location_field: FieldPath = Field("start_time", description="Where in the source a finding is.")
    filter_generic_labels: bool = Field(
        True, description="labels: leave out labels that say nothing (object, image, …)."
    )

    @field_validator("classifications")
    @classmethod
    def _descending(cls, value: list[Classification]) -> list[Classification]:
        return sorted(value, key=lambda entry: -entry.min_score)

    @property
    def tiers(self) -> list[str]:
        visual = ["visual"] if self.include_visual_comparison else []
        return list(dict.fromkeys([*self.match_tiers, *visual]))


@dataclass(slots=True)
class _Element:
    """One thing that is compared: a piece of a document, or a document without text."""

    source: Hit
    row: int
    text: str | None
    match: Match | None = None
    tier: str | None = None
    signals: dict[str, float] = field(default_factory=dict)


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    params = dict(raw)
    rename(params, "reference_collection_id", "reference_collection", "target_collection_id")
    require(params, "reference_collection_id", what=_WHAT)
    return params


@stage(
    "cross_compare",
    kind="apply",
    params=Params,
    use_cases=("Check a document against a reference collection", "Find reused or conflicting passages"),
    icon="git-compare",
    cost_tier="moderate",
    example={
        "reference_collection_id": "approved_claims",
        "extraction_mode": "lines",
        "match_tiers": ["exact", "fuzzy"],
    },
    hard_timeout_ms=30_000,
    prepare=_prepare,
)
async def cross_compare(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Compare the documents with those of a reference collection, and tell what matches how well.

    Tiers: exact (the same text but for case and blanks), fuzzy (similar characters), semantic and visual (the stored
    vectors of whole documents, so only with extraction_mode raw). Without a match a finding is labelled no_match. At
    most 50 documents are compared, the rest pass unchanged.
    """
    if not hits:
        return hits
    view = await ctx.collection(given(params.reference_collection_id, "reference_collection_id", _WHAT))
    references = await _references(view, params, ctx)
    chosen = [hit for hit in hits if _is_compared(hit, params)]
    if len(chosen) > MAX_SOURCES:
        ctx.limit("compared_documents", len(chosen), MAX_SOURCES)
    sources = chosen[:MAX_SOURCES]
    elements = await _elements(sources, references, view, params, ctx)
    findings: dict[int, list[dict[str, Any]]] = {id(hit): [] for hit in sources}
    for element in elements:
        findings[id(element.source)].append(_finding(element, references, params))
    labels = Counter(entry["classification"] for found in findings.values() for entry in found)
    ctx.metadata.update(compared=len(sources), references=len(references), findings=len(elements), classes=dict(labels))
    return [made for hit in hits for made in _shown(hit, findings.get(id(hit)), params)]


def _is_compared(hit: Hit, params: Params) -> bool:
    wanted = params.source_doc_type_filter
    return wanted is None or read_field(hit, params.doc_type_field) == wanted


async def _references(view: CollectionView, params: Params, ctx: StageContext) -> list[Hit]:
    keep = None
    if params.reference_doc_type is not None:
        keep = parse_filter({"field": params.doc_type_field, "operator": "eq", "value": params.reference_doc_type})
    found = await ctx.scroll(view.collection_id, keep, params.reference_limit + 1)
    if len(found) > params.reference_limit:
        ctx.limit("reference_limit", await ctx.count(view.collection_id, keep), params.reference_limit)
    if not found:
        ctx.warn(f"the reference collection '{view.name}' has no documents to compare with")
    return found[: params.reference_limit]


async def _elements(
    sources: list[Hit], references: list[Hit], view: CollectionView, params: Params, ctx: StageContext
) -> list[_Element]:
    own, known = _pieces(sources, references, params, ctx)
    elements = [_Element(sources[row], row, text) for row, text in zip(own.rows, own.texts, strict=True)]
    whole = _whole_tiers(params, ctx)
    if whole:
        silent = sorted(set(range(len(sources))) - set(own.rows))
        elements = sorted([*elements, *(_Element(sources[row], row, None) for row in silent)], key=lambda e: e.row)
    for tier in params.tiers:
        left = [element for element in elements if element.match is None]
        if tier in whole:
            await _by_vectors(left, sources, references, view, tier, params, ctx)
        elif tier in ("exact", "fuzzy"):
            await _by_text(left, known, tier, params)
    return elements


def _pieces(sources: list[Hit], references: list[Hit], params: Params, ctx: StageContext) -> tuple[Pieces, Pieces]:
    mode, drop = params.extraction_mode, params.filter_generic_labels
    own = gather(sources, params.source_field, mode, MAX_SOURCE_PIECES, drop_generic=drop)
    known = gather(references, params.reference_field, mode, MAX_REFERENCE_PIECES, drop_generic=drop)
    for name, pieces in (("source_pieces", own), ("reference_pieces", known)):
        if pieces.total > len(pieces.texts):
            ctx.limit(name, pieces.total, len(pieces.texts))
    return own, known


def _whole_tiers(params: Params, ctx: StageContext) -> list[str]:
    """The tiers that compare whole documents, where pieces are whole documents."""
    tiers = [tier for tier in params.tiers if tier in ("semantic", "visual")]
    if not tiers or params.extraction_mode == "raw":
        return tiers
    names = " and ".join(tiers)
    ctx.warn(f"{names} compare whole documents and were skipped: extraction_mode is {params.extraction_mode}")
    return []


async def _by_text(elements: list[_Element], known: Pieces, tier: str, params: Params) -> None:
    spoken = [element for element in elements if element.text is not None]
    texts = [element.text or "" for element in spoken]
    if tier == "exact":
        found = exact_matches(texts, known)
    else:
        # seconds of computing at worst: not on the event loop
        found = await asyncio.to_thread(fuzzy_matches, texts, known, params.fuzzy_threshold)
    for element, match in zip(spoken, found, strict=True):
        if match is not None:
            element.match, element.tier = match, tier
            element.signals[tier] = match.score


async def _by_vectors(
    elements: list[_Element],
    sources: list[Hit],
    references: list[Hit],
    view: CollectionView,
    tier: str,
    params: Params,
    ctx: StageContext,
) -> None:
    scores = await _cosines(sources, references, view, _features(tier, view, params, ctx), ctx)
    if scores is None or not references:
        ctx.warn(f"the tier {tier} was skipped: sources and references have no vectors of the same model")
        return
    threshold = params.semantic_threshold if tier == "semantic" else params.visual_threshold
    for element in elements:
        best = int(np.argmax(scores[element.row]))
        score = float(scores[element.row, best])
        element.signals[tier] = score
        if score >= threshold:
            element.match, element.tier = Match(best, None, min(1.0, score)), tier


def _features(tier: str, view: CollectionView, params: Params, ctx: StageContext) -> list[tuple[str, float]]:
    """Features and weights of a tier: those named, else those of its kind that both sides have."""
    if tier == "semantic" and params.semantic_index:
        return [(params.semantic_index, 1.0)]
    named = [(params.dinov2_index, params.dinov2_weight), (params.siglip_index, params.siglip_weight)]
    if tier == "visual" and any(name for name, _ in named):
        return [(name, weight) for name, weight in named if name]
    modality = "text" if tier == "semantic" else "image"
    own = {index.feature_uri for other in ctx.collections for index in other.vectors}
    common = [i.feature_uri for i in view.vectors if i.feature_uri in own and modality in i.modalities]
    if tier == "semantic":
        searched = searched_feature(ctx)
        return [(searched if searched in common else uri, 1.0) for uri in common[:1]]
    return [(uri, params.dinov2_weight if "dino" in uri else params.siglip_weight) for uri in common]


async def _cosines(
    sources: list[Hit],
    references: list[Hit],
    view: CollectionView,
    features: list[tuple[str, float]],
    ctx: StageContext,
) -> Any:
    """Similarities, shape (sources, references), weighted over the features that both documents have; None: there are
    none."""
    total = np.zeros((len(sources), len(references)))
    weights = np.zeros_like(total)
    for uri, weight in features:
        for space in await vector_spaces([*sources, *references], uri, [*ctx.collections, view], ctx):
            matrix = space.matrix / np.maximum(np.linalg.norm(space.matrix, axis=1, keepdims=True), 1e-12)
            rows = np.asarray(space.rows)
            left = rows < len(sources)
            block = np.ix_(rows[left], rows[~left] - len(sources))
            total[block] += weight * (matrix[left] @ matrix[~left].T)
            weights[block] += weight
    return None if not weights.any() else np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)


def _finding(element: _Element, references: list[Hit], params: Params) -> dict[str, Any]:
    match = element.match
    reference = references[match.row] if match is not None else None
    score = match.score if match is not None else 0.0
    text = match.text if match is not None else None
    if text is None and reference is not None:
        found = read_field(reference, params.reference_field)
        text = found if isinstance(found, str) else reference.document_id
    urls = [read_field(reference, path) for path in _URL] if reference is not None else []
    return {
        "element_type": _ELEMENTS[params.extraction_mode] if element.text is not None else "document",
        "source_document_id": element.source.document_id,
        "source_content": element.text,
        "source_location": read_field(element.source, params.source_location_field),
        "reference_match": text,
        "reference_document_id": reference.document_id if reference is not None else None,
        "reference_url": next((url for url in urls if isinstance(url, str)), None),
        "match_tier": element.tier,
        "match_score": score,
        "classification": _label(score, params) if match is not None else params.no_match_label,
        "confidence": score,
        "signals": element.signals,
    }


def _label(score: float, params: Params) -> str:
    return next((entry.label for entry in params.classifications if score >= entry.min_score), params.no_match_label)


def _shown(hit: Hit, findings: list[dict[str, Any]] | None, params: Params) -> list[Hit]:
    if findings is None:
        return [hit]
    if params.output_mode == "findings":
        return [derived(hit, finding, row=f"finding{place}") for place, finding in enumerate(findings)]
    best = max((finding["match_score"] for finding in findings), default=0.0)
    counts = dict(Counter(finding["classification"] for finding in findings))
    write_field(hit, params.output_field, {"findings": findings, "best_score": best, "counts": counts})
    return [hit]
