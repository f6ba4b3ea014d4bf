"""What follows from a configuration: references resolved and checked, where the labels are, and the nodes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from mediatheca.flows.taxonomies.config import (
    CONFIG,
    EnrichmentField,
    HierarchicalNode,
    InputMapping,
    Loc,
    TaxonomyConfig,
    wire_config,
)
from mediatheca.kernel.errors import BadRequestError, NotFoundError, ValidationError
from mediatheca.kernel.filter_tree import SYSTEM_ALIASES
from mediatheca.kernel.hierarchy import HierarchyError, forest_of
from mediatheca.kernel.inputs import parse_input_schema
from mediatheca.stores.db.tx import ReadTx, Record

_ALWAYS = frozenset({"metadata", "document_id", *SYSTEM_ALIASES})
"""Fields that every document may have."""


def settle(tx: ReadTx, config: TaxonomyConfig, inferred: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    """The stored parts of a taxonomy that belong to its version.

    Args:
        inferred: collection → the one above it, where a strategy has found that; None: it is not known yet.

    Raises:
        NotFoundError: a retriever or collection that is named does not exist here.
        ValidationError: parts do not fit each other, or the nodes make no hierarchy; a circle is named.
        BadRequestError: a field is mapped that the collection to be classified does not have.
    """
    config = _resolved(tx, config)
    made: dict[str, Any] = {"labels": [], "enriched": "", "nodes": [], "ready": True, "inference": None}
    if config.shape == "labels":
        made |= _label_side(tx, config)
    elif config.shape == "nodes":
        waiting = config.inference_strategy is not None and inferred is None
        made["ready"] = not waiting
        parents, specs = _parents(tx, config, inferred or {})
        made["nodes"] = _nodes(tx, config, parents, specs, complete=not waiting)
    hierarchy = config.hierarchy
    if made["nodes"] and hierarchy:
        nodes = [_as_spec(entry) for entry in made["nodes"]]
        config = config.model_copy(update={"hierarchical_nodes": nodes})
    return {**made, "config": wire_config(config)}


def _resolved(tx: ReadTx, config: TaxonomyConfig) -> TaxonomyConfig:
    """With ids in the place of names."""
    changes: dict[str, Any] = {}
    if config.retriever_id:
        changes["retriever_id"] = tx.get("retriever", config.retriever_id).id
    if config.source_collection is not None:
        ident = tx.get("collection", config.source_collection.collection_id).id
        changes["source_collection"] = config.source_collection.model_copy(update={"collection_id": ident})
    changes["inference_collections"] = [tx.get("collection", ident).id for ident in config.inference_collections]
    changes["cluster_ids"] = [tx.get("cluster", ident).id for ident in config.cluster_ids]
    return config.model_copy(update=changes)


# ---- one side


def _label_side(tx: ReadTx, config: TaxonomyConfig) -> dict[str, Any]:
    """Labels are what the retriever searches. A source collection that it does not search is the one to classify."""
    retriever = tx.get("retriever", config.retriever_id or "")
    searched = _searched(retriever)
    check_retriever(retriever, config.input_mappings, CONFIG)
    source = config.source_collection.collection_id if config.source_collection else ""
    if not source or source in searched:
        return {"labels": [source] if source else searched}
    enriched = tx.get("collection", source)
    check_paths(enriched, config.input_mappings, (*CONFIG, "input_mappings"))
    return {"labels": searched, "enriched": enriched.id}


def _searched(retriever: Record) -> list[str]:
    if retriever.body.get("inference_only") or not retriever.body["collection_ids"]:
        message = f"retriever '{retriever.name}' searches no collection, so it finds no labels; name another one"
        raise ValidationError.at((*CONFIG, "retriever_id"), message, "value_error")
    return list(retriever.body["collection_ids"])


def check_retriever(retriever: Record, mappings: Sequence[InputMapping], where: Loc) -> None:
    """A retriever can be given what the mappings give it.

    Raises:
        ValidationError: an input that it does not have, one that it needs and does not get, or a taxonomy inside it.
    """
    if any(_stage_id(stage) == "taxonomy_enrich" for stage in retriever.body["stages"]):
        message = (
            f"retriever '{retriever.name}' classifies what it finds itself (taxonomy_enrich); name one that does not"
        )
        raise ValidationError.at((*where, "retriever_id"), message, "circular")
    fields = parse_input_schema(retriever.body.get("input_schema") or {}).fields
    given = [mapping.input_key for mapping in mappings]
    unknown = [(n, key) for n, key in enumerate(given) if fields and key not in fields]
    if unknown:
        number, key = unknown[0]
        message = f"retriever '{retriever.name}' has no input '{key}'; it has: {', '.join(fields)}"
        raise ValidationError.at((*where, "input_mappings", number, "input_key"), message, "unknown")
    missing = [name for name, entry in fields.items() if entry.required and not entry.has_default and name not in given]
    if missing:
        message = f"retriever '{retriever.name}' needs the input '{missing[0]}'; map a field of the document to it"
        raise ValidationError.at((*where, "input_mappings"), message, "missing")


def _stage_id(stage: Any) -> str:
    return str((stage.get("config") or {}).get("stage_id") or stage.get("stage_id") or "")


def check_paths(collection: Record, mappings: Sequence[InputMapping], where: Loc) -> None:
    """The documents of a collection have what the mappings read.

    Raises:
        BadRequestError: a field that its schema does not know, with the nearest names; or no such vectors.
    """
    known = list((collection.body.get("output_schema") or {}).get("properties") or {})
    for number, mapping in enumerate(mappings):
        place = f"{'.'.join(map(str, where[1:]))}.{number}.path"
        if mapping.source_type == "payload" and known:
            head = (mapping.path or "").partition(".")[0]
            if head not in known and head not in _ALWAYS:
                close = difflib.get_close_matches(head, known, 3, 0.5)
                hint = f"did you mean {' or '.join(repr(name) for name in close)}?" if close else "name one of them"
                raise BadRequestError(
                    f"{place}: the documents of collection '{collection.name}' have no field '{mapping.path}'; "
                    f"{hint} fields: {', '.join(known[:50])}"
                )


# ---- nodes


def _parents(
    tx: ReadTx, config: TaxonomyConfig, inferred: Mapping[str, str | None]
) -> tuple[dict[str, str | None], dict[str, HierarchicalNode]]:
    """Collection → the one above it, and what was said of it: what is said explicitly wins over what was inferred."""
    parents: dict[str, str | None] = dict(inferred)
    for child, parent in (config.hierarchy or {}).items():
        above = tx.get("collection", parent).id if parent else None
        if above is not None:
            parents.setdefault(above, None)
        parents[tx.get("collection", child).id] = above
    specs: dict[str, HierarchicalNode] = {}
    for node in config.hierarchical_nodes:
        ident = tx.get("collection", node.collection_id).id
        specs[ident] = node
        if node.parent_collection_id:
            parents[ident] = tx.get("collection", node.parent_collection_id).id
        else:
            parents.setdefault(ident, None)
    return parents, specs


def _nodes(
    tx: ReadTx,
    config: TaxonomyConfig,
    parents: Mapping[str, str | None],
    specs: Mapping[str, HierarchicalNode],
    *,
    complete: bool,
) -> list[dict[str, Any]]:
    """Every node with what it has from those above it, parents first."""
    if not parents and not complete:
        return []
    try:
        forest = forest_of(parents)
    except HierarchyError as error:
        if not complete:  # a parent may yet be inferred
            return []
        raise ValidationError.at((*CONFIG, "hierarchical_nodes"), str(error), "hierarchy") from error
    found: dict[str, dict[str, Any]] = {}
    for ident, parent in forest.parents.items():
        found[ident] = _node(tx, config, ident, specs.get(ident), found[parent] if parent else None)
    return list(found.values())


def _node(
    tx: ReadTx, config: TaxonomyConfig, ident: str, spec: HierarchicalNode | None, above: Mapping[str, Any] | None
) -> dict[str, Any]:
    collection = tx.find("collection", ident)
    if collection is None:
        raise NotFoundError("collection", ident)
    own = spec or HierarchicalNode(collection_id=ident)
    inherited = above or {
        "retriever_id": config.retriever_id,
        "input_mappings": [entry.model_dump(mode="json", exclude_none=True) for entry in config.input_mappings],
    }
    where = (*CONFIG, "hierarchical_nodes", collection.name)
    named = own.retriever_id or inherited["retriever_id"]
    if not named:
        raise ValidationError.at(
            (*where, "retriever_id"), "is required: on the node, above it, or on config", "missing"
        )
    retriever = tx.get("retriever", named)
    mappings = own.input_mappings
    given = [entry.model_dump(mode="json", exclude_none=True) for entry in mappings] if mappings else None
    made = given or list(inherited["input_mappings"])
    if not made:
        raise ValidationError.at(
            (*where, "input_mappings"), "is required: on the node, above it, or on config", "missing"
        )
    if collection.id not in _searched(retriever):
        message = f"retriever '{retriever.name}' does not search collection '{collection.name}'; name one that does"
        raise ValidationError.at((*where, "retriever_id"), message, "value_error")
    check_retriever(retriever, [InputMapping.model_validate(entry) for entry in made], where)
    return {
        "node_id": collection.id,
        "parent_id": above["node_id"] if above else None,
        "label": own.label or collection.name,
        "summary": own.summary,
        "keywords": own.keywords,
        "retriever_id": retriever.id,
        "input_mappings": made,
        "enrichment_fields": [
            field.model_dump(mode="json", exclude_none=True) for field in own.enrichment_fields or ()
        ],
        "min_score": own.min_score,
    }


def _as_spec(entry: Mapping[str, Any]) -> HierarchicalNode:
    return HierarchicalNode(
        collection_id=entry["node_id"],
        parent_collection_id=entry["parent_id"],
        label=entry["label"],
        summary=entry["summary"],
        keywords=entry["keywords"],
        retriever_id=entry["retriever_id"],
        enrichment_fields=[EnrichmentField.model_validate(field) for field in entry["enrichment_fields"]] or None,
        input_mappings=None,
        min_score=entry["min_score"],
    )


def references(body: Mapping[str, Any]) -> set[str]:
    """Ids of the retrievers and collections that a version uses."""
    config = body["config"]
    found = {config.get("retriever_id") or "", body["enriched"], *body["labels"]}
    for entry in body["nodes"]:
        found |= {entry["node_id"], entry["retriever_id"]}
    return found - {""}
