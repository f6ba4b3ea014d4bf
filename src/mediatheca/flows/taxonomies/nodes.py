"""A stored taxonomy as something documents can be compared with, its versions, and the nodes it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mediatheca.flows.retrievers import RetrieverPlans
from mediatheca.flows.taxonomies.config import EnrichmentField, InputMapping, TaxonomyConfig
from mediatheca.flows.taxonomies.ways import with_way
from mediatheca.kernel.errors import ConflictError, NotFoundError, ValidationError
from mediatheca.kernel.hierarchy import Forest, HierarchyError, forest_of, with_prefixes
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.taxonomies import InputMap, Node, Side, TaxonomyView
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import ReadTx, Record

KIND = "taxonomy"
PREFIX = "tax"
SEEN_NODES = "nodes"
"""The kind of the row of `taxonomy_runs` that lists the paths documents were seen to carry."""


def versioned(body: Mapping[str, Any]) -> dict[str, Any]:
    """What of a taxonomy's body belongs to its version."""
    return {name: body[name] for name in ("config", "labels", "enriched", "nodes", "ready", "inference")}


def body_of(tx: ReadTx, record: Record, version: int | None) -> dict[str, Any]:
    """The body in a version; None: in the newest one.

    Raises:
        NotFoundError: there is no such version.
    """
    if version is None or version == record.body["version"]:
        return record.body
    row = tx.row("taxonomy_versions", {"taxonomy_id": record.id, "version": version})
    if row is None:
        raise NotFoundError("taxonomy version", f"{record.id}@{version}")
    return {**record.body, **row["body"], "version": version}


def read_view(
    database: Database, plans: RetrieverPlans, scope: Scope, ident: str, version: int | None = None
) -> TaxonomyView:
    """A taxonomy, by id or name, ready to be compared with.

    Raises:
        NotFoundError: no such taxonomy, or no such version of it.
        ConflictError: it is not ready, or something it is made of is gone; the message says what to do.
    """
    with database.read(scope) as tx:
        return view_of(tx, plans, tx.get(KIND, ident), version)


def view_of(tx: ReadTx, plans: RetrieverPlans, record: Record, version: int | None = None) -> TaxonomyView:
    """The same of a record that was read."""
    body, scope = body_of(tx, record, version), tx.scope
    collections = tx.resources("collection")
    _check_ready(record, body)
    config = TaxonomyConfig.model_validate(body["config"])
    common: dict[str, Any] = {
        "taxonomy_id": record.id, "name": record.name, "version": body["version"], "top_k": config.top_k
    }  # fmt: skip
    if config.shape == "carried" and config.path_field:
        return TaxonomyView(**common, carried=config.path_field, separator=config.path_separator)
    maker = _Sides(plans, scope, record, collections)
    if config.shape == "labels":
        return TaxonomyView(**common, side=maker.side(_one_side(config, body)), separator=config.path_separator)
    return TaxonomyView(**common, forest=stored_forest(body), nodes=maker.nodes(body["nodes"], config))


def _check_ready(record: Record, body: Mapping[str, Any]) -> None:
    if body["ready"]:
        return
    inference = body.get("inference") or {}
    if inference.get("status") == "failed":
        raise ConflictError(
            f"taxonomy '{record.name}' is not ready: its hierarchy could not be inferred: {inference.get('error')}; "
            "make a version with hierarchical_nodes, or with another strategy"
        )
    raise ConflictError(
        f"taxonomy '{record.name}' is not ready: its hierarchy is being inferred"
        f" (task '{inference.get('task_id')}'); try again when it has ended"
    )


class _Sides:
    """Makes sides whose retrievers and collections are there."""

    def __init__(self, plans: RetrieverPlans, scope: Scope, record: Record, collections: Sequence[Record]) -> None:
        self._plans = plans
        self._scope = scope
        self._record = record
        self._collections = collections
        self._known = {collection.id for collection in collections}

    def side(self, plain: Side) -> Side:
        gone = [ident for ident in plain.collection_ids if ident not in self._known]
        if gone:
            raise self._unusable(f"its label collection '{gone[0]}' is gone")
        try:
            found = self._plans.get(self._scope, plain.retriever_id)
        except NotFoundError as error:
            raise self._unusable(f"{error.message}: its retriever is gone, or a collection of it") from error
        except ValidationError as error:
            raise self._unusable(f"its retriever '{plain.retriever_id}' can no longer run: {error.message}") from error
        return with_way(plain, found, self._collections)

    def nodes(self, entries: Sequence[Mapping[str, Any]], config: TaxonomyConfig) -> dict[str, Node]:
        return {
            entry["node_id"]: Node(entry["node_id"], entry["label"], self.side(_node_side(entry, config)))
            for entry in entries
        }

    def _unusable(self, reason: str) -> ConflictError:
        return ConflictError(
            f"taxonomy '{self._record.name}' cannot be used: {reason}; make a version of it with another one: "
            f"POST /v1/taxonomies/{self._record.id}/versions"
        )


def _one_side(config: TaxonomyConfig, body: Mapping[str, Any]) -> Side:
    return Side(
        retriever_id=config.retriever_id or "",
        collection_ids=tuple(body["labels"]),
        mappings=tuple(mapping.value() for mapping in config.input_mappings),
        rules=config.rules,
        label_field=config.label_field or "",
        min_score=config.min_score,
        path_field=config.path_field or "",
        separator=config.path_separator,
        parent_field=config.parent_field or "",
    )


def _node_side(entry: Mapping[str, Any], config: TaxonomyConfig) -> Side:
    return Side(
        retriever_id=entry["retriever_id"],
        collection_ids=(entry["node_id"],),
        mappings=mappings_of(entry["input_mappings"]),
        rules=tuple(EnrichmentField.model_validate(field).rule() for field in entry["enrichment_fields"]),
        min_score=entry["min_score"] if entry.get("min_score") is not None else config.min_score,
    )


def mappings_of(raw: Sequence[Mapping[str, Any]]) -> tuple[InputMap, ...]:
    return tuple(InputMapping.model_validate(entry).value() for entry in raw)


def stored_forest(body: Mapping[str, Any]) -> Forest[str]:
    """Of a taxonomy of collections."""
    return forest_of({entry["node_id"]: entry["parent_id"] for entry in body["nodes"]})


# ---- what is shown


def shown_nodes(body: Mapping[str, Any], seen: Sequence[str]) -> list[dict[str, Any]] | None:
    """The nodes as the API shows them, parents first; None for a flat taxonomy.

    Args:
        seen: paths that documents were seen to carry, or that labels have.
    """
    config = TaxonomyConfig.model_validate(body["config"])
    if config.shape == "nodes":
        if not body["nodes"]:
            return []
        labels = {entry["node_id"]: entry["label"] for entry in body["nodes"]}
        return _shown(stored_forest(body), labels.__getitem__)
    if not config.path_field:
        return None
    separator = config.path_separator
    paths = with_prefixes(tuple(path.split(separator)) for path in seen)
    names = {separator.join(path): separator.join(above) if above else None for path, above in paths.items()}
    if not names:
        return []
    try:
        return _shown(forest_of(names), lambda name: name.rpartition(separator)[2])
    except HierarchyError:  # deeper or more than a hierarchy may be: the assignments have them all the same
        return []


def _shown(forest: Forest[str], label: Callable[[str], str]) -> list[dict[str, Any]]:
    return [
        {
            "node_id": node,
            "label": label(node),
            "path": [label(step) for step in forest.chain(node)],
            "parent_id": parent,
            "level": forest.levels[node],
        }
        for node, parent in forest.parents.items()
    ]


def seen_paths(tx: ReadTx, taxonomy_id: str) -> list[str]:
    """The paths that documents were seen to carry."""
    row = tx.row("taxonomy_runs", {"run_id": f"{SEEN_NODES}_{taxonomy_id}"})
    return list(row["body"]["paths"]) if row is not None else []


def version_row(record: Record) -> dict[str, Any]:
    """The row of `taxonomy_versions` that keeps a taxonomy as it is now."""
    body = record.body
    kept = {"taxonomy_id": record.id, "version": body["version"], "body": versioned(body)}
    return {**kept, "created_at": record.updated_at}
