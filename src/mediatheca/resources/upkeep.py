"""Looking after collections: which source objects have no document, and whether the indexes are whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from mediatheca.api.deps import OrgWriter, Read, answer
from mediatheca.api.lists import listed
from mediatheca.flows.ingest.graph import reads_collections, upstream
from mediatheca.flows.ingest.plan import OPEN
from mediatheca.flows.removal import cuts
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ValidationError
from mediatheca.stores.db.listing import Page, decode_cursor, encode_cursor
from mediatheca.stores.db.tx import Cmp, ReadTx, Record, Row

router = APIRouter(tags=["collections"])
_PIECE = 500
"""Object ids of one statement."""


@router.get("/collections/{identifier}/reconciliation", operation_id="reconcile_collection", response_model=None)
def reconcile(
    identifier: str, tx: Read, limit: Annotated[int, Query(ge=1, le=1000)] = 100, cursor: str | None = None
) -> Response:
    """Objects against documents: every object of the sources, those that gave documents, and why others did not.

    The counts are of everything; the discrepancies come by object id, a page at a time.
    """
    collection = tx.get("collection", identifier)
    after = _position(cursor)
    objects = missing = 0
    wanted: list[str] = []
    for ids in _source_objects(tx, collection):
        where = {"collection_id": collection.id, "object_id": ids, "documents": Cmp(">", 0)}
        produced = set(tx.column("derivations", "object_id", where))
        absent = [ident for ident in ids if ident not in produced]
        objects, missing = objects + len(ids), missing + len(absent)
        wanted += [ident for ident in absent if ident > after][: limit + 1 - len(wanted)]
    shown, more = wanted[:limit], len(wanted) > limit
    made = tx.sums("derivations", {"collection_id": collection.id}, ("documents",))
    found = _reasons(tx, collection.id, shown)
    body = {
        "collection_id": collection.id,
        "source_object_count": objects,
        "produced_object_count": objects - missing,
        "document_count": int(made[0]["documents"]),
        "delta": missing,
        "discrepancies": found,
        "discrepancies_truncated": more,
    }
    page = Page([], missing, 0, limit, encode_cursor({"k": shown[-1]}) if more else None)
    return answer(listed(page, found, **body))


def _position(cursor: str | None) -> str:
    after = decode_cursor(cursor).get("k") if cursor else ""
    if not isinstance(after, str):
        raise ValidationError.at("cursor", "is not a cursor of this list", "cursor")
    return after


def _source_objects(tx: ReadTx, collection: Record) -> Iterator[list[str]]:
    """The ids of the sources' objects in their order, a piece at a time: there may be millions. Of collections: those
    that have documents in them."""
    table, of_source = "objects", {"bucket_id": collection.body["source"]["bucket_ids"]}
    if reads_collections(collection):
        table, of_source = "derivations", {"collection_id": upstream(collection), "documents": Cmp(">", 0)}
    last = ""
    while True:
        where = {**of_source, "object_id": Cmp(">", last)}
        rows = tx.rows(table, where, columns=("object_id",), order=("object_id",), limit=_PIECE)
        if not rows:
            return
        yield list(dict.fromkeys(row["object_id"] for row in rows))
        last = rows[-1]["object_id"]


def _reasons(tx: ReadTx, collection_id: str, object_ids: list[str]) -> list[dict[str, Any]]:
    found = []
    for cut in cuts(object_ids):
        where = {"collection_id": collection_id, "object_id": cut}
        tried = set(tx.column("derivations", "object_id", where))
        known = tx.rows("failed_items", {**where, "outcome": "failed"}, order=("created_at",))
        failures = {row["object_id"]: row["reason"] for row in known}
        queued = _queued(tx, cut)
        for row in tx.rows("objects", {"object_id": cut}, order=("object_id",)):
            reason = _reason(row, failures, queued, tried)
            age = (clock.now() - row["created_at"]).total_seconds()
            shown = {"object_id": row["object_id"], "bucket_id": row["bucket_id"], "status": row["status"]}
            error = failures.get(row["object_id"]) or row["error"]
            found.append({**shown, "reason": reason, "age_seconds": age, "error": error})
    return found


def _queued(tx: ReadTx, object_ids: Any) -> set[str]:
    """Those that are in a batch which has not ended."""
    rows = tx.rows("batch_objects", {"object_id": object_ids})
    batches = {row["batch_id"] for row in rows}
    running = {row["batch_id"] for row in tx.rows("batches", {"batch_id": batches, "status": list(OPEN)})}
    return {row["object_id"] for row in rows if row["batch_id"] in running}


def _reason(row: Row, failures: dict[str, str], queued: set[str], tried: set[str]) -> str:
    ident = row["object_id"]
    if ident in queued:
        return "processing"
    if ident in failures or row["status"] == "FAILED":
        return "failed"
    if row["status"] == "DEACTIVATED":
        return "skipped"
    return "no_document" if ident in tried else "unknown"


@router.post("/namespaces/{identifier}/ensure-indexes", operation_id="ensure_indexes", response_model=None)
def ensure_indexes(identifier: str, caller: OrgWriter, force_rebuild: bool = False) -> Response:
    """Make every collection's index searchable up to its last write; with `force_rebuild` build it anew from the
    documents, which stay searchable meanwhile. Nothing is extracted again."""
    with caller.services.db.read(caller.organization) as tx:  # closed before the slow part
        inner = tx.within(tx.get("namespace", identifier).id)
        fields = {record.id: sorted(record.body["indexed_fields"]) for record in inner.resources("collection")}
    indexer, rebuilt = caller.services.indexer, []
    for collection_id in fields:
        if force_rebuild:
            indexer.rebuild(inner.scope, collection_id)
            rebuilt.append(collection_id)
        indexer.catch_up(inner.scope, collection_id)
    names = [f"{collection_id}.{field}" for collection_id, found in fields.items() for field in found]
    done = {"ensured": names, "created": names, "rebuilt": rebuilt, "skipped": []}
    return answer({"success": True, "namespace_id": inner.scope.namespace_id, "collections": len(fields), **done})
