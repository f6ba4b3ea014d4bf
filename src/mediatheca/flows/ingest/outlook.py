"""Where a batch stands, in the words callers poll for: its place in the queue, its phase of life, what a cancel did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mediatheca.flows.ingest.tiers import UNFINISHED
from mediatheca.stores.db.tx import Cmp, ReadTx, Row

_LIVES = {
    "DRAFT": "accepted", "QUEUED": "queued", "COMPLETED": "indexed", "COMPLETED_WITH_ERRORS": "indexed",
    "FAILED": "failed", "CANCELED": "canceled",
}  # fmt: skip
_SAMPLE = 5
"""Batches that ended last, whose pace is taken for that of those to come."""
_MOST_AHEAD = 1_000


def lifecycle(batch: Row, counts: Mapping[str, Any]) -> str:
    """accepted, queued, admitted (it runs, and nothing of it is done yet), extracting, indexed, failed or canceled."""
    running = "extracting" if counts["processed"] or counts["items_processed"] else "admitted"
    return _LIVES.get(batch["status"], running)


def waiting_items(count: int) -> list[str]:
    """What there is to say while so many items wait for their next attempt, and why a batch does not end."""
    if not count:
        return []
    return [f"{count} item{'s that failed are' if count > 1 else ' that failed is'} tried again automatically"]


def queue_position(tx: ReadTx, batch: Row) -> int | None:
    """1 is next; None where a batch does not wait."""
    return 1 + tx.count("batches", _before(batch)) if batch["status"] == "QUEUED" else None


def _before(batch: Row) -> Row:
    return {"status": "QUEUED", "updated_at": Cmp("<", batch["updated_at"])}


def estimated_wait_minutes(tx: ReadTx, batch: Row) -> float | None:
    """Until a batch that waits begins; None where it does not wait, or nothing is known of the pace."""
    if batch["status"] != "QUEUED":
        return None
    before = _before(batch)
    ahead = [row["batch_id"] for where in ({"status": "PROCESSING"}, before) for row in _ids(tx, where)]
    sums = tx.sums("chunks", {"batch_id": ahead, "status": UNFINISHED}, ("units", "advanced")) if ahead else []
    left = sum(int(row["units"]) - int(row["advanced"]) for row in sums)
    pace = _pace(tx) if left else 1.0
    return round(left / pace / 60, 1) if pace else None


def _ids(tx: ReadTx, where: Row) -> list[Row]:
    return tx.rows("batches", where, columns=("batch_id",), order=("updated_at",), limit=_MOST_AHEAD)


def _pace(tx: ReadTx) -> float:
    """Objects a second; 0 where no batch has ended yet."""
    where = {"status": ["COMPLETED", "COMPLETED_WITH_ERRORS"], "started_at": Cmp("!=", None)}
    rows = tx.rows("batches", where, order=("-completed_at",), limit=_SAMPLE)
    seconds = sum((row["completed_at"] - row["started_at"]).total_seconds() for row in rows)
    ids = [row["batch_id"] for row in rows]
    sums = tx.sums("chunks", {"batch_id": ids}, ("units",)) if ids else []
    return float(sum(int(row["units"]) for row in sums) / max(1e-3, seconds))


def of_task(tx: ReadTx, batch: Row) -> dict[str, Any]:
    """What the task of a batch says beside its progress."""
    return {
        "queue_position": queue_position(tx, batch),
        "estimated_wait_minutes": estimated_wait_minutes(tx, batch),
        "cancellation": cancellation(tx, batch) if batch["status"] == "CANCELED" else None,
    }


def cancellation(tx: ReadTx, batch: Row) -> dict[str, int]:
    """What became of the parts of a batch when it was canceled."""
    groups = tx.sums("chunks", {"batch_id": batch["batch_id"]}, (), by=("status",))
    canceled = sum(row["count"] for row in groups if row["status"] == "CANCELED")
    ended = sum(row["count"] for row in groups) - canceled
    return {
        "canceled": canceled, "already_terminal": ended, "not_found": 0,
        "ray_jobs_requested": canceled, "ray_jobs_accepted": canceled, "ray_jobs_refused": 0,
    }  # fmt: skip
