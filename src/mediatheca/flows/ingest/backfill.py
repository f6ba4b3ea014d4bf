"""Processing what a collection reads from: the objects of its buckets, or the documents of its collections; and what is
made from its own documents. One batch for each bucket, cut where there are very many objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mediatheca.flows.ingest.graph import reads_collections, tiers_of, upstream
from mediatheca.flows.ingest.plan import COLLECTION, MAX_OBJECTS, check_objects, create_batch, submit_batch
from mediatheca.flows.ingest.sources import unit_of
from mediatheca.flows.removal import cuts
from mediatheca.flows.services import JobServices
from mediatheca.flows.tables import tombstones
from mediatheca.kernel.errors import BadRequestError, ConflictError, ValidationError
from mediatheca.kernel.filters import Filter, all_of, parse_filter
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import Cmp, ReadTx, Record, Row, Tx
from mediatheca.stores.documents.base import Scan


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which objects to process; nothing said: all of the sources."""

    include_buckets: Sequence[str] | None = None
    object_ids: Sequence[str] | None = None
    source_filters: Mapping[str, Any] | None = None
    dedup_strategy: str | None = None
    include_collections: Sequence[str] | None = None


def trigger_collection(
    tx: Tx, collection: Record, wanted: Wanted, chunk_size: int, units: Mapping[str, Sequence[str]], **options: Any
) -> list[Row]:
    """Submitted batches over the wanted objects. `units` come of `find_units`; `options` are kept in the body of each
    batch.

    Raises:
        ConflictError: the collection is disabled.
        NotFoundError: a bucket or an object does not exist.
        BadRequestError: there is nothing to process.
    """
    if not collection.body["enabled"]:
        raise ConflictError(f"collection '{collection.id}' is disabled; enable it first")
    if reads_collections(collection):
        found, options["type"] = dict(units), COLLECTION
    else:
        buckets = _buckets(tx, collection, wanted)
        check_objects(tx, buckets, wanted.object_ids or ())
        found = {bucket: _objects(tx, bucket, collection, wanted) for bucket in buckets}
    targets = [record.id for layer in tiers_of(tx, collection) for record in layer]
    options |= {"collection_ids": targets, "dedup_strategy": wanted.dedup_strategy}
    batches = []
    for bucket_id, ids in found.items():
        for cut in _cuts(ids):
            batches.append(submit_batch(tx, create_batch(tx, bucket_id, cut, **options), chunk_size))
    if not batches:
        what = "documents" if reads_collections(collection) else "objects"
        raise BadRequestError(f"the sources of collection '{collection.id}' have no {what} to process; add some first")
    tx.emit("collection.triggered", collection.id, {"batch_ids": [batch["batch_id"] for batch in batches]})
    return batches


def _buckets(tx: ReadTx, collection: Record, wanted: Wanted) -> list[str]:
    if wanted.include_collections:
        message = f"'{collection.id}' reads from buckets; name some of them in include_buckets"
        raise ValidationError.at(("body", "include_collections"), message)
    buckets: list[str] = collection.body["source"]["bucket_ids"]
    if not wanted.include_buckets:
        return buckets
    chosen = {tx.get("bucket", ident).id for ident in wanted.include_buckets}
    return [bucket for bucket in buckets if bucket in chosen]


def _objects(tx: ReadTx, bucket_id: str, collection: Record, wanted: Wanted) -> list[str]:
    if wanted.object_ids is not None:
        where = {"bucket_id": bucket_id}
        return [
            i for cut in cuts(wanted.object_ids) for i in tx.column("objects", "object_id", where | {"object_id": cut})
        ]
    return objects_of(tx, bucket_id, collection.body["source"]["source_filters"], wanted.source_filters)


def objects_of(tx: ReadTx, bucket_id: str, *filters: Any) -> list[str]:
    """The objects of a bucket that pass all filters; with a filter at most `MAX_OBJECTS`, the newest."""
    trees = [tree for tree in (parse_filter(raw, path="source_filters") for raw in filters) if tree is not None]
    if not trees:
        return tx.column("objects", "object_id", {"bucket_id": bucket_id}, order=("object_id",))
    query = ListQuery(limit=MAX_OBJECTS, filter=all_of(*trees), include_total=False)
    return [row["object_id"] for row in tx.page("objects", {"bucket_id": bucket_id}, query).rows]


def _cuts(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + MAX_OBJECTS] for start in range(0, len(ids), MAX_OBJECTS)]


# ---- documents of collections


def find_units(services: JobServices, scope: Scope, collection: Record, wanted: Wanted) -> dict[str, list[str]]:
    """By bucket: the objects that have documents in what the collection reads from; under '' documents that were
    written directly. Nothing for a collection that reads from buckets. Needs no transaction of the caller.

    Raises:
        NotFoundError: a collection in `include_collections` does not exist.
        ValidationError: it is none that the collection reads from; or the filter is none.
    """
    if not reads_collections(collection):
        return {}
    tree = parse_filter(wanted.source_filters, path="source_filters")
    with services.db.read(scope) as tx:
        sources = _sources(tx, collection, wanted)
    units: dict[str, None] = {}
    for source in sources:
        units |= dict.fromkeys(_units_of(services, scope, source, tree))
    if tree is None and not wanted.include_collections:  # objects that the sources hold nothing of any more
        with services.db.read(scope) as tx:
            units |= dict.fromkeys(unit for unit in _counted(tx, collection.id) if unit)
    if wanted.object_ids is not None:
        units = {ident: None for ident in wanted.object_ids if ident in units}
    with services.db.read(scope) as tx:
        return _by_bucket(tx, list(units))


def _sources(tx: ReadTx, collection: Record, wanted: Wanted) -> list[str]:
    sources = upstream(collection)
    if not wanted.include_collections:
        return sources
    chosen = [tx.get("collection", ident).id for ident in wanted.include_collections]
    for ident in chosen:
        if ident not in sources:
            message = f"'{collection.id}' does not read from '{ident}'; it reads from: {', '.join(sources)}"
            raise ValidationError.at(("body", "include_collections"), message)
    return chosen


def _units_of(services: JobServices, scope: Scope, collection_id: str, tree: Filter | None) -> list[str]:
    """From the counters where they say everything; documents are looked at only for a filter, or where some were
    written directly."""
    with services.db.read(scope) as tx:
        table = tx.row("document_tables", {"collection_id": collection_id})
        counted = _counted(tx, collection_id)
        dead = tombstones(tx, collection_id)
    if table is None or not table["committed_seq"]:
        return []
    if tree is None and "" not in counted:
        return counted
    found = services.documents.scan(collection_id, Scan(tree), tombstones=dead)
    return sorted({unit_of(document) for document in found})


def _counted(tx: ReadTx, collection_id: str) -> list[str]:
    """Objects with documents in a collection; '' stands for those that were written directly."""
    where = {"collection_id": collection_id, "documents": Cmp(">", 0)}
    return tx.column("derivations", "object_id", where, order=("object_id",))


def _by_bucket(tx: ReadTx, units: Sequence[str]) -> dict[str, list[str]]:
    buckets: dict[str, str] = {}
    for cut in cuts(units):
        rows = tx.rows("objects", {"object_id": list(cut)}, columns=("object_id", "bucket_id"))
        buckets |= {row["object_id"]: row["bucket_id"] for row in rows}
    found: dict[str, list[str]] = {}
    for unit in units:
        found.setdefault(buckets.get(unit, ""), []).append(unit)
    return found
