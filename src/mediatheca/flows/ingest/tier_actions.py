"""What can be done to one tier of a batch: stop it, or one collection of it; put right what hangs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mediatheca.flows.ingest.plan import change_task, get_batch
from mediatheca.flows.ingest.tiers import OPEN_CHUNK, UNFINISHED, WAITING, end_unfinished, release
from mediatheca.kernel import clock
from mediatheca.kernel.errors import NotFoundError
from mediatheca.stores.db.tx import ReadTx, Row, Tx


def tier_of(batch: Row, number: int) -> list[str]:
    """The collections of a tier. Raises NotFoundError: the batch has no such tier."""
    tiers: list[list[str]] = batch["body"].get("dag_tiers", [])
    if number >= len(tiers):
        raise NotFoundError("tier", str(number))
    return tiers[number]


def cancel_tier(
    tx: Tx, batch: Row, number: int, reason: str, collection_ids: Sequence[str] | None = None
) -> dict[str, int]:
    """Stop a tier, or some collections of it; others go on, and so do the tiers behind it with what is there. How many
    chunks were stopped, and how many had ended.

    Raises:
        NotFoundError: there is no such tier.
    """
    wanted = list(collection_ids or tier_of(batch, number))
    where: dict[str, Any] = {"batch_id": batch["batch_id"], "tier": number, "collection_id": wanted}
    rows = tx.rows("chunks", where, columns=("collection_id", "part", "status"), order=("part",))
    canceled = end_unfinished(tx, where, "CANCELED", reason)
    for collection_id, part in dict.fromkeys(
        (r["collection_id"], r["part"]) for r in rows if r["status"] in UNFINISHED
    ):
        release(tx, batch, part, collection_id)
    tasks = batch["body"].get("tier_tasks") or []
    if canceled and collection_ids is None and len(tasks) > 1:
        change_task(tx, tasks[number], "CANCELED", {"cancel_reason": reason})
    tx.emit("batch.tier_canceled", batch["batch_id"], {"tier_num": number, "collection_ids": wanted, "reason": reason})
    return {"canceled": canceled, "already_terminal": len(rows) - canceled, "not_found": 0 if rows else 1}


def heal_tier(tx: Tx, batch: Row, number: int, action: str) -> dict[str, Any]:
    """`sync_status`: start what waits for nothing any more. `detect_stuck`: enqueue chunks again that have no job.
    `kill_duplicates`: cancel jobs beside the one that a chunk has."""
    tier_of(batch, number)
    where: dict[str, Any] = {"batch_id": batch["batch_id"], "tier": number}
    chunks = tx.rows("chunks", {**where, "status": UNFINISHED}, order=("part", "chunk_id"))
    jobs = tx.rows("jobs", {"group_key": batch["batch_id"], "status": ["ready", "running"]})
    if action == "kill_duplicates":
        return {"jobs_canceled": _cancel(tx, [job["job_id"] for job in _duplicates(chunks, jobs)])}
    if action == "detect_stuck":
        stuck = _stuck(chunks, jobs)
        for chunk in stuck:
            payload = {"chunk_id": chunk["chunk_id"]}
            job_id = tx.enqueue("ingest.chunk", payload, group=batch["batch_id"])
            values = {"job_id": job_id, "status": "PENDING", "updated_at": clock.now()}
            tx.update("chunks", {"chunk_id": chunk["chunk_id"]}, values)
        return {"stuck": len(stuck), "requeued": len(stuck)}
    return {"started": _sync(tx, batch, chunks)}


def _duplicates(chunks: Sequence[Row], jobs: Sequence[Row]) -> list[Row]:
    own = {chunk["chunk_id"]: chunk["job_id"] for chunk in chunks}
    return [job for job in jobs if own.get(job["payload"].get("chunk_id"), job["job_id"]) not in (None, job["job_id"])]


def _cancel(tx: Tx, job_ids: Sequence[str]) -> int:
    done = {"status": "cancelled", "finished_at": int(clock.now().timestamp() * 1e6), "lease_token": None}
    where = {"job_id": list(job_ids), "status": ["ready", "running"]}
    return tx.update("jobs", where, done) if job_ids else 0


def _stuck(chunks: Sequence[Row], jobs: Sequence[Row]) -> list[Row]:
    alive = {job["payload"].get("chunk_id") for job in jobs}
    return [chunk for chunk in chunks if chunk["status"] in OPEN_CHUNK and chunk["chunk_id"] not in alive]


def _sync(tx: Tx, batch: Row, chunks: Sequence[Row]) -> int:
    """Chunks that waited although everything before them had ended."""
    waiting = [chunk for chunk in chunks if chunk["status"] == WAITING]
    for chunk in waiting:
        for awaited in batch["body"].get("dag_edges", {}).get(chunk["collection_id"], ()):
            release(tx, batch, chunk["part"], awaited)
    left = tx.count("chunks", {"chunk_id": [chunk["chunk_id"] for chunk in waiting], "status": WAITING})
    return len(waiting) - left


def find_tier(tx: ReadTx, batch_id: str, bucket_id: str, number: int) -> Row:
    """The batch. Raises NotFoundError: it has no such tier, or there is no such batch."""
    batch = get_batch(tx, batch_id, bucket_id)
    tier_of(batch, number)
    return batch
