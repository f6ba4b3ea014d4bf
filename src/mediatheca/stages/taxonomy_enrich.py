"""The `taxonomy_enrich` stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field

from mediatheca.kernel.assignments import Assignment, FieldRule, enriched
from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import Leaf
from mediatheca.kernel.hits import derived, identity, write_field
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit, VectorQuery
from mediatheca.stages import CollectionView, FilterParam, StageContext, stage
from mediatheca.stages._fields import FieldPath, OutputField, as_text, rename, text_of
from mediatheca.stages._language import MAX_TIME_MS, Missed, each, split_by, tell_missed
from mediatheca.stages._search_spellings import find_index
from mediatheca.stages._taxonomies import classify
from mediatheca.stages._vectors import searched_feature, vector_spaces

AT_ONCE = 20
EXAMPLES_PER_LABEL = 5
"""How many labelled documents are read for every label that is wanted: several may have the same one."""
SECONDS = MAX_TIME_MS / 1000 * 0.95


class TakenField(BaseModel):
    """One field taken over from the matching labelled document."""

    field_path: FieldPath
    target_field: OutputField | None = None
    merge_mode: Literal["replace", "append"] = "replace"


class Params(BaseModel):
    taxonomy_id: str | None = Field(
        None,
        max_length=200,
        description="A stored taxonomy, by id or name: its mappings and its retriever say how documents are compared.",
    )
    version: int | None = Field(None, ge=1, description="Of the taxonomy; the newest one by default.")
    reference_collection_id: str | None = Field(
        None,
        validation_alias=AliasChoices("reference_collection_id", "reference_collection"),
        description="Without a taxonomy: the collection of labelled documents, by id or name.",
    )
    feature_uri: str | None = Field(None, description="The vectors to compare; not given: those of the last search.")
    content_field: FieldPath | None = Field(None, description="Text of documents that have no such vector.")
    label_field: FieldPath = Field("label", description="The label of a labelled document.")
    parent_field: FieldPath = Field("parent", description="Id or label of the labelled document above it.")
    fields: list[TakenField] = Field([], max_length=50, description="Fields taken over from the best match.")
    top_k: int = Field(3, ge=1, le=50, description="Labels of one document.")
    min_score: float = Field(
        0.0, ge=-1, le=1, validation_alias=AliasChoices("min_score", "min_confidence"), description="Least similarity."
    )
    result_field: OutputField = Field("taxonomy", validation_alias=AliasChoices("result_field", "output_field"))
    include_ancestors: bool = True
    max_depth: int = Field(10, ge=1, le=20, description="Ancestors at most.")
    expand: bool = Field(False, description="One row for every label of a document.")
    when: FilterParam = Field(None, description="Only these documents are classified.")


@dataclass(slots=True)
class _Label:
    """A label, its similarity, and the labelled document that is most alike."""

    id: str
    name: str
    confidence: float
    example: Hit
    ancestors: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "confidence": self.confidence}


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    params = {name: value for name, value in raw.items() if value is not None}
    rename(params, "reference_collection_id", "reference_collection")
    if bool(params.get("reference_collection_id")) == bool(params.get("taxonomy_id")):
        message = (
            "give one of taxonomy_id and reference_collection_id: the taxonomy, or a collection of labelled documents"
        )
        raise ValidationError.at("taxonomy_id", message, "missing")
    entries = params.get("fields", [])
    if isinstance(entries, list):
        params["fields"] = [{"field_path": entry} if isinstance(entry, str) else entry for entry in entries]
    return params


@stage(
    "taxonomy_enrich",
    kind="enrich",
    params=Params,
    use_cases=("Put results into a category tree", "Add ancestors of a category for navigation"),
    icon="tags",
    aliases=("taxonomy",),
    cost_tier="moderate",
    example={"taxonomy_id": "product-categories", "top_k": 1, "min_score": 0.5},
    hard_timeout_ms=MAX_TIME_MS,
    prepare=_prepare,
)
async def taxonomy_enrich(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Label documents by a taxonomy, or by the labelled documents of another collection whose vectors are most alike.

    A taxonomy brings its own input mappings and its own retriever. Else vectors of the same model are compared; a
    document without one is compared by its text. Documents that are like none get no label.
    """
    chosen, skipped = split_by(hits, params.when)
    if not chosen:
        return hits
    if params.taxonomy_id is not None:
        return await _by_taxonomy(hits, chosen, params.taxonomy_id, params, ctx)
    assert params.reference_collection_id is not None
    view = await ctx.collection(params.reference_collection_id)
    vectors, index = await _vectors(chosen, view, params, ctx)
    labels = await _classify(chosen, vectors, view, index, params, ctx)
    if params.include_ancestors:
        await _climb([label for found in labels.values() for label in found], view, params, ctx)
    for hit in chosen:
        _write(hit, labels.get(id(hit), []), params)
    with_label = sum(bool(found) for found in labels.values())
    ctx.metadata.update(labelled=with_label, without_label=len(chosen) - with_label, skipped=skipped)
    return [row for hit in hits for row in _rows(hit, labels.get(id(hit), []), params)]


async def _by_taxonomy(
    hits: list[Hit], chosen: Sequence[Hit], taxonomy: str, params: Params, ctx: StageContext
) -> list[Hit]:
    view = await ctx.taxonomy(taxonomy, params.version)
    given = params.model_fields_set
    rules = [FieldRule(r.field_path, r.target_field or r.field_path, r.merge_mode) for r in params.fields]
    found = await classify(
        chosen,
        view,
        ctx,
        top_k=params.top_k if "top_k" in given else view.top_k,
        min_score=params.min_score if "min_score" in given else None,
        rules=rules if "fields" in given and rules else None,
        seconds=SECONDS,
    )
    labels = {id(hit): assignments for hit, assignments in zip(chosen, found, strict=True)}
    for hit in chosen:
        hit.payload, _ = enriched(hit.payload, labels[id(hit)], "best_match", tree=False)
        write_field(hit, params.result_field, _assigned(labels[id(hit)], params))
    with_label = sum(map(bool, found))
    ctx.metadata.update(labelled=with_label, without_label=len(chosen) - with_label, skipped=len(hits) - len(chosen))
    ctx.metadata.update(taxonomy_id=view.taxonomy_id, taxonomy_version=view.version)
    return [row for hit in hits for row in _expanded(hit, labels.get(id(hit), []), params)]


def _assigned(found: Sequence[Assignment], params: Params) -> dict[str, Any]:
    """The same form of answer for the nodes of a taxonomy."""
    shown = [
        {"id": entry.node.node_id, "name": entry.node.label, "confidence": entry.node.score, "path": entry.path}
        for entry in found
    ]
    above = found[0].tiers[:-1] if found and params.include_ancestors else ()
    return {
        "primary": {name: shown[0][name] for name in ("id", "name", "confidence")} if shown else None,
        "all": shown,
        "ancestors": [
            {"id": tier.node_id, "name": tier.label, "level": level}
            for level, tier in enumerate(above[-params.max_depth :])
        ],
        "path": " > ".join(found[0].path) if found else None,
    }


def _expanded(hit: Hit, found: Sequence[Assignment], params: Params) -> list[Hit]:
    """The document; with `expand` once for every label."""
    if not params.expand or len(found) < 2:
        return [hit]
    made = []
    for number, entry in enumerate(found):
        row = derived(hit, dict(hit.payload), row=str(number))
        write_field(row, params.result_field, _assigned([entry], params))
        made.append(row)
    return made


async def _vectors(
    hits: Sequence[Hit], view: CollectionView, params: Params, ctx: StageContext
) -> tuple[dict[int, Vector], VectorIndex]:
    """The vector of each hit by identity, and the index of the labelled documents to search with it.

    Raises:
        ValidationError: the two collections have no vectors of one model.
    """
    index = _reference_index(view, params.feature_uri or searched_feature(ctx))
    found = await _stored(hits, view, index, ctx)
    if index.model and "text" in index.modalities:
        for hit in hits:
            text = "" if id(hit) in found else text_of(hit, params.content_field)
            if text:
                found[id(hit)] = await ctx.embed(index, text=text, task="retrieval_document")
    without = sum(id(hit) not in found for hit in hits)
    if without:
        ctx.warn(f"{without} documents have neither a vector nor a text to compare; they got no label")
    return found, index


def _reference_index(view: CollectionView, uri: str | None) -> VectorIndex:
    index = find_index(view, uri) if uri else view.vectors[0] if len(view.vectors) == 1 else None
    if index is None:
        known = ", ".join(entry.feature_uri for entry in view.vectors) or "none"
        message = f"'{view.name}' has no vectors '{uri or '?'}'; it has: {known}"
        raise ValidationError.at("feature_uri", message, "unknown")
    return index


async def _stored(
    hits: Sequence[Hit], view: CollectionView, index: VectorIndex, ctx: StageContext
) -> dict[int, Vector]:
    """The vectors that the documents have, by identity."""
    found: dict[int, Vector] = {}
    for space in await vector_spaces(hits, index.feature_uri, ctx.collections, ctx):
        if (space.index.model, space.index.weights) != (index.model, index.weights):
            raise ValidationError.at(
                "feature_uri",
                f"the vectors of the documents ({space.index.model}) and of '{view.name}' ({index.model}) are of "
                "different models and cannot be compared",
                "weights",
            )
        found.update((id(hits[row]), vector) for row, vector in zip(space.rows, space.vectors, strict=True))
    return found


async def _classify(
    hits: Sequence[Hit],
    vectors: dict[int, Vector],
    view: CollectionView,
    index: VectorIndex,
    params: Params,
    ctx: StageContext,
) -> dict[int, list[_Label]]:
    comparable = [hit for hit in hits if id(hit) in vectors]

    async def one(hit: Hit) -> list[_Label]:
        own = identity(hit)
        exclude = (own[1],) if own[0] == view.collection_id else ()
        limit = params.top_k * EXAMPLES_PER_LABEL
        query = VectorQuery(index.name, vectors[id(hit)], limit, min_score=params.min_score, exclude=exclude)
        return _labels(await ctx.search(view.collection_id, query), params)

    outcomes = await each(comparable, one, at_once=AT_ONCE, seconds=SECONDS)
    tell_missed(outcomes, "were not classified", ctx)
    return {
        id(hit): [] if isinstance(found, Missed) else found for hit, found in zip(comparable, outcomes, strict=True)
    }


def _labels(examples: Sequence[Hit], params: Params) -> list[_Label]:
    """The labels of the nearest examples, each with its best one."""
    found: dict[str, _Label] = {}
    for example in examples:
        name = as_text(read_field(example, params.label_field))
        if name and name not in found:
            found[name] = _Label(example.document_id, name, example.score, example)
    return list(found.values())[: params.top_k]


async def _climb(labels: Sequence[_Label], view: CollectionView, params: Params, ctx: StageContext) -> None:
    """The ancestors of every label, the topmost first. A circle ends where it closes."""
    known: dict[str, Hit | None] = {}
    for label in labels:
        above: list[Hit] = []
        seen, current = {label.id}, label.example
        while len(above) < params.max_depth:
            key = as_text(read_field(current, params.parent_field))
            if not key:
                break
            if key not in known:
                known[key] = await _parent(key, view, params, ctx)
            parent = known[key]
            if parent is None or parent.document_id in seen:
                break
            seen.add(parent.document_id)
            above.append(parent)
            current = parent
        label.ancestors = [
            {"id": hit.document_id, "name": as_text(read_field(hit, params.label_field)), "level": level}
            for level, hit in enumerate(reversed(above))
        ]


async def _parent(key: str, view: CollectionView, params: Params, ctx: StageContext) -> Hit | None:
    found = await ctx.documents(view.collection_id, [key])
    if not found:
        found = await ctx.scroll(view.collection_id, Leaf(params.label_field, "eq", key, True), 1)
    return found[0] if found else None


def _result(found: Sequence[_Label]) -> dict[str, Any]:
    best = found[0] if found else None
    ancestors = best.ancestors if best else []
    names = [entry["name"] for entry in ancestors] + ([best.name] if best else [])
    return {
        "primary": best.as_dict() if best else None,
        "all": [label.as_dict() for label in found],
        "ancestors": ancestors,
        "path": " > ".join(names) or None,
    }


def _write(hit: Hit, found: Sequence[_Label], params: Params) -> None:
    write_field(hit, params.result_field, _result(found))
    for rule in params.fields:
        values = [value for label in found if (value := read_field(label.example, rule.field_path)) is not None]
        if not values:
            continue
        target = rule.target_field or rule.field_path
        if rule.merge_mode == "append":
            own = read_field(hit, target)
            held = own if isinstance(own, list) else [] if own is None else [own]
            write_field(hit, target, [*held, *(value for value in values if value not in held)])
        else:
            write_field(hit, target, values[0])


def _rows(hit: Hit, found: Sequence[_Label], params: Params) -> list[Hit]:
    """The document; with `expand` once for every label."""
    if not params.expand or len(found) < 2:
        return [hit]
    made = []
    for number, label in enumerate(found):
        row = derived(hit, dict(hit.payload), row=str(number))
        write_field(row, params.result_field, {**_result([label]), "all": [label.as_dict()]})
        made.append(row)
    return made
