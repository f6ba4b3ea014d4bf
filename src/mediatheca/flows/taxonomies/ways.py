"""How a side is compared: joined with all labels at once where its retriever is one search by vectors, else one run of
the retriever for every document; and the reason, which the taxonomy tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.retrieve import Plan
from mediatheca.flows.retrieve.plan import PlannedStage
from mediatheca.flows.retrievers import Compiled
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.filters import all_of
from mediatheca.kernel.taxonomies import InputMap, Join, Side
from mediatheca.stages import CollectionView
from mediatheca.stages._search_params import Params, Search
from mediatheca.stages._search_spellings import find_index
from mediatheca.stores.db.tx import Record

_SENTINEL = "\x02mapped input\x03"
_WHOLE_TEXT = ("text_extractor",)
"""Extractors whose documents hold the text that was embedded in the field `text`."""
MAX_LABELS = 100_000
"""Label documents that are held in memory to be compared at once; above, the index is asked for every document."""


def with_way(side: Side, found: Compiled, collections: Sequence[Record]) -> Side:
    """The side, with the join that its retriever amounts to, or the reason why it is none."""
    join = _join(found.plan, side)
    if isinstance(join, str):
        return replace(side, join=None, reason=join)
    stored = {record.id: name for record in collections if (name := _stored(record, join))}
    return replace(side, join=replace(join, stored=stored), reason="the retriever is one search by vectors")


def _join(plan: Plan, side: Side) -> Join | str:
    if len(plan.stages) != 1 or plan.stages[0].stage.stage_id != "feature_search":
        return "the retriever has more stages than one feature_search"
    stage = plan.stages[0]
    inputs = stage.inputs
    mapping = next((entry for entry in side.mappings if {entry.input_key} == inputs), None)
    if mapping is None or mapping.source == "literal":
        return f"the search reads {', '.join(sorted(inputs)) or 'no inputs'}; a join needs one that is of the document"
    if stage.pre.tree is not None or stage.post.given or len(stage.tree.places) != 1:
        return "its filters or other parameters hold templates"
    params = _params(stage, mapping)
    if isinstance(params, str):
        return params
    return _of_search(plan, stage, params, side, mapping)


def _params(stage: PlannedStage, mapping: InputMap) -> Params | str:
    """The parameters, with a mark where the mapped input stands."""
    mark: Any = _SENTINEL if mapping.source == "payload" else [_SENTINEL]
    try:
        params = Params.model_validate(stage.tree.render({"INPUT": {mapping.input_key: mark}}))
    except (MediathecaError, ValueError):
        return "its parameters depend on the input"
    if len(params.searches) != 1:
        return "it fuses several searches"
    if params.searches[0].query.value != mark:
        return "the input is a part of the query and not the whole of it"
    return params


def _of_search(plan: Plan, stage: PlannedStage, params: Params, side: Side, mapping: InputMap) -> Join | str:
    search = params.searches[0]
    reason = _unfit(params, search, mapping)
    if reason:
        return reason
    views = _views(plan, params, search, side)
    if len(views) != 1:
        return f"it searches {len(views)} collections" if views else "it does not search the collection of the labels"
    index = find_index(views[0], search.feature_uri)
    if index is None or index.sparse or index.multi:
        return "its vectors are sparse, or several for each document"
    final = params.final_top_k if "final_top_k" in params.model_fields_set else search.top_k
    return Join(
        collection_id=views[0].collection_id,
        index=index,
        mapping=mapping,
        depth=min(search.top_k, final),
        floor=search.min_score,
        keep=all_of(stage.pre.fixed, params.filters, search.filters),
        task=search.query.embedding_task,
    )


def _unfit(params: Params, search: Search, mapping: InputMap) -> str:
    """Why a search cannot be done as a join; empty: it can."""
    wanted = "text" if mapping.source == "payload" else "vector"
    if search.query.input_mode != wanted:
        return f"its query is a {search.query.input_mode}, and the mapping gives a {wanted}"
    if search.lexical:
        return "it searches for words"
    if search.query_preprocessing is not None or params.query_preprocessing is not None:
        return "it cuts the query into pieces"
    if params.group_by is not None or params.natural_language is not None:
        return "it groups its results, or filters them in words"
    return ""


def _views(plan: Plan, params: Params, search: Search, side: Side) -> list[CollectionView]:
    """The collections that are searched, as far as they hold labels of this side."""
    named = search.collection_identifiers or params.collection_identifiers
    found = [v for v in plan.collections if named is None or v.collection_id in named or v.name in named]
    return [view for view in found if view.collection_id in side.collection_ids]


def _stored(record: Record, join: Join) -> str:
    """The vectors of a collection that stand for the mapped field; empty: there are none."""
    indexes = [index for index in stored_vectors(record.body) if not (index.sparse or index.multi)]
    if join.mapping.source == "vector":
        return _named_vector(record, indexes, join)
    same = [index for index in indexes if _alike(index, join.index)]
    return same[0].name if same and _embedded_field(record.body, join.mapping.path) else ""


def _named_vector(record: Record, indexes: Sequence[VectorIndex], join: Join) -> str:
    wanted = join.mapping.path or join.index.feature_uri
    view = CollectionView(record.id, record.name, tuple(indexes), {})
    index = find_index(view, wanted)
    if index is None or index.dimensions != join.index.dimensions:
        return ""
    known = index.model and join.index.model
    return index.name if not known or _alike(index, join.index) else ""


def _alike(one: VectorIndex, other: VectorIndex) -> bool:
    """Vectors of the same weights compare."""
    key = (one.model, one.weights, one.dimensions, one.metric)
    return bool(one.model) and key == (other.model, other.weights, other.dimensions, other.metric)


def _embedded_field(body: Mapping[str, Any], path: str) -> bool:
    """Whether the vectors of a collection were made of just this field of its documents."""
    extractor = body["feature_extractor"]
    sources = (extractor.get("inputs") or {}).get("text") or []
    if len(sources) != 1 or extractor["feature_extractor_name"] not in _WHOLE_TEXT:
        return False
    if path == "text":
        return True
    if (extractor.get("parameters") or {}).get("split_by", "none") != "none":
        return False  # a piece of the field was embedded
    passed = {entry["target_path"]: entry["source_path"] for entry in extractor.get("field_passthrough") or ()}
    copied = bool(extractor.get("include_all_source_fields")) and path == sources[0] and path not in passed
    return copied or passed.get(path) == sources[0]
