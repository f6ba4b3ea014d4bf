"""Processing the objects of a collection's sources: one batch for each bucket, cut where there are very many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mediatheca.flows.ingest.plan import MAX_OBJECTS, check_objects, create_batch, submit_batch
from mediatheca.kernel.errors import BadRequestError, ConflictError
from mediatheca.kernel.filters import all_of, parse_filter
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which objects to process; nothing said: all of the sources."""

    include_buckets: Sequence[str] | None = None
    object_ids: Sequence[str] | None = None
    source_filters: Mapping[str, Any] | None = None
    dedup_strategy: str | None = None


def trigger_collection(tx: Tx, collection: Record, wanted: Wanted, chunk_size: int, **options: Any) -> list[Row]:
    """Submitted batches over the wanted objects. `options` are kept in the body of each batch.

    Raises:
        ConflictError: the collection is disabled.
        NotFoundError: a bucket or an object does not exist.
        BadRequestError: there is nothing to process.
    """
    if not collection.body["enabled"]:
        raise ConflictError(f"collection '{collection.id}' is disabled; enable it first")
    buckets = collection.body["source"]["bucket_ids"]
    if wanted.include_buckets:
        chosen = {tx.get("bucket", ident).id for ident in wanted.include_buckets}
        buckets = [bucket for bucket in buckets if bucket in chosen]
    options |= {"collection_ids": [collection.id], "dedup_strategy": wanted.dedup_strategy}
    batches = []
    for bucket_id in buckets:
        for ids in _cuts(_objects(tx, bucket_id, collection, wanted)):
            batches.append(submit_batch(tx, create_batch(tx, bucket_id, ids, **options), chunk_size))
    if not batches:
        raise BadRequestError(
            f"the sources of collection '{collection.id}' have no objects to process; upload some first"
        )
    tx.emit("collection.triggered", collection.id, {"batch_ids": [batch["batch_id"] for batch in batches]})
    return batches


def _objects(tx: ReadTx, bucket_id: str, collection: Record, wanted: Wanted) -> list[str]:
    if wanted.object_ids:
        check_objects(tx, bucket_id, wanted.object_ids)
        return list(dict.fromkeys(wanted.object_ids))
    return objects_of(tx, bucket_id, collection.body["source"]["source_filters"], wanted.source_filters)


def objects_of(tx: ReadTx, bucket_id: str, *filters: Any) -> list[str]:
    """The objects of a bucket that pass all filters; with a filter at most `MAX_OBJECTS`, the newest."""
    trees = [tree for tree in (parse_filter(raw, path="source_filters") for raw in filters) if tree is not None]
    if not trees:
        return tx.column("objects", "object_id", {"bucket_id": bucket_id}, order=("object_id",))
    query = ListQuery(limit=MAX_OBJECTS, filter=all_of(*trees), include_total=False)
    return [row["object_id"] for row in tx.page("objects", {"bucket_id": bucket_id}, query).rows]


def _cuts(ids: list[str]) -> list[list[str]]:
    return [ids[start : start + MAX_OBJECTS] for start in range(0, len(ids), MAX_OBJECTS)]
