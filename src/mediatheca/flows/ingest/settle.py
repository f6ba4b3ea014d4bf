"""A batch is complete when its last chunk is done and the index has passed its last commit: then it is searchable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from mediatheca.flows.ingest.errors import errors_of
from mediatheca.flows.ingest.plan import change_task, end_batch, get_batch
from mediatheca.flows.ingest.progress import progress, tier_tasks
from mediatheca.flows.ingest.tiers import UNFINISHED
from mediatheca.flows.services import Services
from mediatheca.kernel import clock
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db import tables
from mediatheca.stores.db.tx import ReadTx, Row, Tx


def settle_batches(services: Services) -> None:
    """End every batch that is ready to end, and say of which collections all documents are searchable. Called by the
    indexer after each round."""
    with services.db.translate(), services.db.engine.connect() as connection, connection.begin():
        batches = tables.batches
        found = connection.execute(select(batches).where(batches.c.status.in_(("QUEUED", "PROCESSING")))).mappings()
        rows = [dict(row) for row in found]
    for row in rows:
        scope = Scope(row["organization_id"], row["namespace_id"])
        with services.db.read(scope) as tx:
            state = _look(tx, row, services)
        if state.news:
            services.db.run(scope, lambda tx, batch_id=row["batch_id"]: _settle(tx, batch_id, services))  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class _State:
    """How far a batch is."""

    over: bool
    fresh: list[str]
    """Collections of which everything is searchable, and nobody was told yet."""
    tier: int
    """The lowest that has not ended."""
    news: bool


def _look(tx: ReadTx, batch: Row, services: Services) -> _State:
    last: dict[str, int] = {}
    unfinished: dict[str, int] = {}
    for row in tx.rows("chunks", {"batch_id": batch["batch_id"]}, columns=_COLUMNS):
        ident = row["collection_id"]
        last[ident] = max(last.get(ident, 0), row["last_seq"])
        if row["status"] in UNFINISHED:
            unfinished[ident] = min(unfinished.get(ident, row["tier"]), row["tier"])
    # A collection that was deleted meanwhile has nothing to wait for.
    alive = {row["collection_id"] for row in tx.rows("document_tables", {"collection_id": list(last)})}
    behind = {ident for ident, seq in last.items() if ident in alive and services.indexer.applied(ident) < seq}
    told = batch["body"].get("indexed_collections", ())
    fresh = [ident for ident in last if ident in alive and ident not in {*unfinished, *behind, *told}]
    tier = min(unfinished.values(), default=max(0, len(batch["body"].get("dag_tiers", ())) - 1))
    over = not unfinished and not behind
    return _State(over, fresh, tier, news=bool(over or fresh or tier != batch["current_tier"]))


_COLUMNS = ("collection_id", "tier", "status", "last_seq")


def _settle(tx: Tx, batch_id: str, services: Services) -> None:
    batch = get_batch(tx, batch_id)
    if batch["status"] not in ("QUEUED", "PROCESSING"):
        return
    state = _look(tx, batch, services)
    fresh = state.fresh
    if fresh or state.tier != batch["current_tier"]:
        told = [*batch["body"].get("indexed_collections", ()), *fresh]
        batch["body"] = {**batch["body"], "indexed_collections": told}
        values = {"body": batch["body"], "current_tier": state.tier, "updated_at": clock.now()}
        tx.update("batches", {"batch_id": batch_id}, values)
        _tell(tx, batch, fresh)
    if batch["body"].get("tier_tasks") and len(batch["body"].get("dag_tiers", ())) > 1:
        _follow_tasks(tx, batch)
    if state.over:
        _end(tx, batch)


def _tell(tx: Tx, batch: Row, collection_ids: list[str]) -> None:
    tiers = {ident: number for number, tier in enumerate(batch["body"].get("dag_tiers", [])) for ident in tier}
    for ident in collection_ids:
        payload = {"batch_id": batch["batch_id"], "collection_id": ident, "tier": tiers.get(ident, 0)}
        tx.emit("collection.documents.batch_completed", ident, payload)


def _follow_tasks(tx: Tx, batch: Row) -> None:
    """The tasks of the tiers say what their tiers do."""
    for tier in tier_tasks(tx, batch):
        row = tx.row("tasks", {"task_id": tier["task_id"]}) if tier["task_id"] else None
        status = "QUEUED" if tier["status"] == "PENDING" else tier["status"]
        if row is not None and row["status"] != status:
            change_task(tx, row["task_id"], status, {"documents_written": tier["documents_written"]})


def _stopped(tx: Tx, batch: Row) -> bool:
    """Whether somebody stopped a tier; what was canceled because its collection was deleted is nobody's loss."""
    where = {"batch_id": batch["batch_id"], "status": "CANCELED"}
    collections = [row["collection_id"] for row in tx.sums("chunks", where, (), by=("collection_id",))]
    return tx.count("resources", {"kind": "collection", "id": collections}) > 0


_OUTCOME = ("error_summary", "unaccounted_object_count", "cancel_reason")


def _end(tx: Tx, batch: Row) -> None:
    counts = progress(tx, batch)
    failed, lost = counts["failed"], counts["lost"]
    none = not counts["items_processed"] and not counts["filtered"]
    status = "FAILED" if failed and none else "COMPLETED_WITH_ERRORS" if failed or lost else "COMPLETED"
    if set(counts["chunks"]) == {"CANCELED"}:  # all its collections were deleted
        status = "CANCELED"
    elif status == "COMPLETED" and "CANCELED" in counts["chunks"] and _stopped(tx, batch):
        status = "COMPLETED_WITH_ERRORS"
    summary = errors_of(tx, batch["batch_id"]).summary if failed else {}
    batch["body"] = {key: value for key, value in batch["body"].items() if key not in _OUTCOME}  # before a retry
    extra: dict[str, Any] = {"documents_written": counts["written"], "failed_object_count": failed}
    extra |= {"unaccounted_object_count": lost} if lost else {}
    if status == "CANCELED":
        extra["cancel_reason"] = tx.rows("chunks", {"batch_id": batch["batch_id"]}, columns=("error",), limit=1)[0][
            "error"
        ]
    end_batch(tx, batch, status, extra | ({"error_summary": summary} if summary else {}))
    kept = {name: counts[name] for name in ("processed", "total", "percent", "items_per_second", "failed", "written")}
    tx.update("tasks", {"task_id": batch["task_id"]}, {"progress": kept})
