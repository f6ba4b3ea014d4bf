"""A batch is complete when its last chunk is done and the index has passed its last commit: then it is searchable."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from mediatheca.flows.ingest.plan import end_batch, get_batch
from mediatheca.flows.services import Services
from mediatheca.kernel import clock
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db import tables
from mediatheca.stores.db.tx import ReadTx, Row, Tx


def settle_batches(services: Services) -> None:
    """End every batch that is ready to end. Called by the indexer after each round."""
    with services.db.translate(), services.db.engine.connect() as connection, connection.begin():
        batches = tables.batches
        found = connection.execute(select(batches).where(batches.c.status.in_(("QUEUED", "PROCESSING")))).mappings()
        rows = [dict(row) for row in found]
    for row in rows:
        scope = Scope(row["organization_id"], row["namespace_id"])
        with services.db.read(scope) as tx:
            ready = _ready(tx, row["batch_id"], services)
        if ready:
            with services.db.begin(scope) as tx:
                _settle(tx, row["batch_id"], services)


def _ready(tx: ReadTx, batch_id: str, services: Services) -> bool:
    if tx.count("chunks", {"batch_id": batch_id, "status": ["PENDING", "PROCESSING"]}):
        return False
    last: dict[str, int] = {}
    for row in tx.rows("chunks", {"batch_id": batch_id}, columns=("collection_id", "last_seq")):
        last[row["collection_id"]] = max(last.get(row["collection_id"], 0), row["last_seq"])
    # A collection that was deleted meanwhile has nothing to wait for.
    alive = {row["collection_id"] for row in tx.rows("document_tables", {"collection_id": list(last)})}
    return all(services.indexer.applied(collection) >= seq for collection, seq in last.items() if collection in alive)


def _settle(tx: Tx, batch_id: str, services: Services) -> None:
    batch = get_batch(tx, batch_id)
    if batch["status"] not in ("QUEUED", "PROCESSING") or not _ready(tx, batch_id, services):
        return
    counts = progress(tx, batch)
    failed = counts["failed"]
    status = "COMPLETED" if not failed else "FAILED" if failed >= counts["total"] else "COMPLETED_WITH_ERRORS"
    if set(counts["chunks"]) == {"CANCELED"}:  # all its collections were deleted
        status = "CANCELED"
    summary: dict[str, int] = {}
    for row in tx.sums("failures", {"batch_id": batch_id}, (), by=("phase",)):
        summary[row["phase"]] = row["count"]
    extra: dict[str, Any] = {"documents_written": counts["written"], "failed_object_count": failed}
    end_batch(tx, batch, status, extra | ({"error_summary": summary} if summary else {}))


def progress(tx: ReadTx, batch: Row) -> dict[str, Any]:
    """Live counters of a batch: objects are counted once per collection they go to."""
    sums = ("fetched", "written", "filtered", "replaced")
    total = tx.sums("chunks", {"batch_id": batch["batch_id"]}, sums)
    counts = {name: int(total[0][name]) if total else 0 for name in sums}
    counts["failed"] = tx.count("failures", {"batch_id": batch["batch_id"]})  # a retried success is no failure
    by_status = {
        r["status"]: r["count"] for r in tx.sums("chunks", {"batch_id": batch["batch_id"]}, (), by=("status",))
    }
    targets = max(1, len(batch["body"].get("collection_ids", [])))
    everything = batch["object_count"] * targets
    started = batch.get("started_at") or batch["created_at"]
    ended = batch.get("completed_at") or clock.now()
    elapsed = max(1e-3, (ended - started).total_seconds())
    rate = counts["fetched"] / elapsed
    left = max(0, everything - counts["fetched"])
    return {
        **counts,
        "total": everything,
        "processed": min(everything, counts["fetched"]),
        "percent": round(100 * min(1.0, counts["fetched"] / everything), 1) if everything else 100.0,
        "items_per_second": round(rate, 1),
        "eta_seconds": round(left / rate, 1) if rate > 0 and left else 0 if not left else None,
        "chunks": by_status,
    }
