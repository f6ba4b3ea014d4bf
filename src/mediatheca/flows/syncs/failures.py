"""Files that could not be taken: one row each, kept until they are taken, and told afterwards as resolved.

A file is tried three times in a run (once, where trying again cannot help). Then it rests: it is tried again when it
has changed, when it was put back by hand, or a day later, and given up after a week.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from mediatheca.connectors import Entry
from mediatheca.kernel import clock
from mediatheca.kernel.ids import new_id
from mediatheca.stores.db.tx import Row, Tx

REST = timedelta(hours=24)
KEPT = timedelta(days=7)
GIVEN_UP = "not_taken_within_seven_days"
MARKED = "marked_failed"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a file was not taken, after so many attempts."""

    item_id: str
    entry: Entry
    kind: str
    message: str
    attempts: int


def rests(row: Row | None, entry: Entry, now: datetime, *, full: bool) -> bool:
    """Whether a file that has failed is left alone for now."""
    if row is None or row["resolved_at"] is not None or not row["exhausted"] or row["etag"] != entry.etag[:255]:
        return False
    if row["disposal_reason"] == MARKED:
        return True
    if full:
        return False
    tried = row["last_reattempt_at"] or row["last_seen_at"]
    return row["disposal_reason"] is not None or now - tried < REST


def record(tx: Tx, sync_id: str, job_id: str, failures: Sequence[Failure], known: Mapping[str, Row]) -> None:
    """Write down what failed. `known`: the rows there are, by item."""
    now = clock.now()
    fresh = []
    for failure in failures:
        values: dict[str, Any] = {
            "sync_job_id": job_id, "error_type": failure.kind, "error_message": failure.message[:2000],
            "etag": failure.entry.etag[:255], "exhausted": True,
        }  # fmt: skip
        row = known.get(failure.item_id)
        if row is None:
            values |= {"dlq_id": new_id("dlq"), "sync_id": sync_id, "item_id": failure.item_id}
            values |= {"source_key": failure.entry.key, "retry_count": failure.attempts, "disposal_reason": None}
            values |= {"created_at": now, "last_seen_at": now, "last_reattempt_at": None}
            fresh.append({**values, "requeued_at": None, "resolved_at": None})
            continue
        again = row["exhausted"] and row["resolved_at"] is None and row["etag"] == failure.entry.etag[:255]
        values["retry_count"] = failure.attempts + (row["retry_count"] if again else 0)
        values |= {"last_reattempt_at": now} if again else {"last_seen_at": now, "last_reattempt_at": None}
        values["disposal_reason"] = GIVEN_UP if again and now - row["last_seen_at"] > KEPT else None
        tx.update("sync_failures", {"item_id": failure.item_id}, {**values, "resolved_at": None})
    tx.insert("sync_failures", fresh)


def resolve(tx: Tx, item_ids: Sequence[str]) -> None:
    """These were taken after all."""
    if item_ids:
        where = {"item_id": list(item_ids), "resolved_at": None}
        tx.update("sync_failures", where, {"resolved_at": clock.now(), "exhausted": False})


def requeue(tx: Tx, sync_id: str, error_types: Sequence[str] | None) -> int:
    """Let the next run try what rests; how many."""
    where: dict[str, Any] = {"sync_id": sync_id, "exhausted": True, "resolved_at": None}
    where |= {"error_type": list(error_types)} if error_types else {}
    values = {"exhausted": False, "retry_count": 0, "disposal_reason": None, "requeued_at": clock.now()}
    return tx.update("sync_failures", where, values)


def mark_failed(tx: Tx, sync_id: str, error_types: Sequence[str]) -> int:
    """Never try these again, unless they change or are put back; how many."""
    where = {"sync_id": sync_id, "resolved_at": None, "error_type": list(error_types)}
    return tx.update("sync_failures", where, {"exhausted": True, "disposal_reason": MARKED})
