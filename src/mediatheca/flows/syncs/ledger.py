"""What is known of every file of a source, and what each file of a listing needs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

from mediatheca.connectors import Entry
from mediatheca.flows.removal import cuts
from mediatheca.flows.syncs.config import Reconcile
from mediatheca.flows.syncs.failures import Failure, rests
from mediatheca.flows.syncs.filters import FileFilter
from mediatheca.kernel import clock
from mediatheca.stores.db.tx import ReadTx, Row, Tx

Decision: TypeAlias = Literal["take", "verified", "skipped", "drifted", "failed"]
SYNCED, DUPLICATE, MISSING = "synced", "duplicate", "missing"
"""Of an item: it is its object's source; another file has the same content and the object; it is gone at the source."""
_OPEN = ("dlq_id", "item_id", "etag", "exhausted", "disposal_reason", "resolved_at", "last_seen_at",
         "last_reattempt_at", "retry_count")  # fmt: skip


def item_id(sync_id: str, key: str) -> str:
    """The id of a file in a sync: the same in every run."""
    return hashlib.sha256(f"{sync_id}\x1f{key}".encode()).hexdigest()[:48]


@dataclass(frozen=True, slots=True)
class Step:
    """A file, and what is to be done with it."""

    entry: Entry
    item_id: str
    decision: Decision
    known: Row | None = None
    failure: Row | None = None


@dataclass(frozen=True)
class Rules:
    """What decides about a file."""

    filters: FileFilter
    reconcile: Reconcile | None
    full: bool

    def decide(
        self, entry: Entry, known: Row | None, failed: Row | None, *, object_gone: bool, now: datetime
    ) -> Decision:
        if not self.filters.passes(entry):
            drifts = self.reconcile is not None and self.reconcile.on_filter_drift
            return "drifted" if known is not None and drifts else "skipped"
        if entry.size == 0 or "\0" in entry.key:  # no database keeps such a name
            return "skipped"
        if known is not None and known["status"] != MISSING and unchanged(known, entry) and not object_gone:
            return "verified"
        if known is not None and not object_gone and self.reconcile is not None and not self.reconcile.on_update:
            return "skipped"
        if known is None and not self.full and self.filters.too_old(entry):
            return "skipped"
        if rests(failed, entry, now, full=self.full):
            return "skipped"
        return "failed" if entry.unreadable else "take"


def unchanged(known: Row, entry: Entry) -> bool:
    """Whether a file is the one that was taken: by its ETag, where the store has one, else by size and time."""
    if known["etag"] or entry.etag:
        return bool(known["etag"] == entry.etag[:255])
    return bool(known["size_bytes"] == entry.size and known["modified_at"] == entry.modified)


def steps(tx: ReadTx, sync_id: str, entries: Sequence[Entry], rules: Rules) -> Iterator[Step]:
    """What each file of a page needs."""
    idents = [item_id(sync_id, entry.key) for entry in entries]
    known = _by_item(tx, "sync_items", idents)
    failed = _by_item(tx, "sync_failures", idents, _OPEN)
    doubtful = [
        row
        for ident, entry in zip(idents, entries, strict=True)
        if (row := known.get(ident)) and (rules.full or row["status"] == MISSING or not unchanged(row, entry))
    ]
    gone = _objects_gone(tx, doubtful)
    now = clock.now()
    for ident, entry in zip(idents, entries, strict=True):
        row, failure = known.get(ident), failed.get(ident)
        lost = row is not None and row["object_id"] in gone
        decision = rules.decide(entry, row, failure, object_gone=lost, now=now)
        yield Step(entry, ident, decision, None if lost and decision == "take" else row, failure)


def _by_item(tx: ReadTx, table: str, idents: Sequence[str], columns: Sequence[str] = ()) -> dict[str, Row]:
    rows = (row for cut in cuts(idents) for row in tx.rows(table, {"item_id": cut}, columns=columns))
    return {row["item_id"]: row for row in rows}


def _objects_gone(tx: ReadTx, known: Sequence[Row]) -> set[str]:
    """Objects that somebody has deleted since."""
    wanted = sorted({row["object_id"] for row in known})
    there = {ident for cut in cuts(wanted) for ident in tx.column("objects", "object_id", {"object_id": cut})}
    return set(wanted) - there


@dataclass
class Changes:
    """What a group of files came to, to be written down in one transaction."""

    seen: list[str] = field(default_factory=list)
    """Items that were met and are as they were."""
    taken: list[Row] = field(default_factory=list)
    """Rows of the ledger, new or changed."""
    failures: list[Failure] = field(default_factory=list)
    known_failures: dict[str, Row] = field(default_factory=dict)
    drifted: list[Row] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    """Objects to be processed."""
    stats: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, number: int = 1) -> None:
        self.stats[name] = self.stats.get(name, 0) + number


def ledger_row(sync_id: str, step: Step, entry: Entry, content_hash: str, object_id: str, status: str) -> Row:
    """What is known of a file from now on. `entry`: as it was when it was read."""
    now = clock.now()
    return {
        "item_id": step.item_id, "sync_id": sync_id, "source_key": entry.key, "etag": entry.etag[:255],
        "size_bytes": entry.size, "modified_at": entry.modified, "content_hash": content_hash, "object_id": object_id,
        "status": status, "seen": 0, "created_at": now, "updated_at": now,
    }  # fmt: skip


def write(tx: Tx, changes: Changes, number: int) -> None:
    """Write the ledger of a group. `number`: of the run."""
    for cut in cuts(changes.seen):
        tx.update("sync_items", {"item_id": list(cut)}, {"seen": number})
    held: set[str] = set()
    for cut in cuts([row["item_id"] for row in changes.taken]):
        held.update(tx.column("sync_items", "item_id", {"item_id": list(cut)}))
    fresh = []
    for row in changes.taken:
        if row["item_id"] in held:
            values: dict[str, Any] = {key: value for key, value in row.items() if key not in ("item_id", "created_at")}
            tx.update("sync_items", {"item_id": row["item_id"]}, {**values, "seen": number})
        else:
            fresh.append({**row, "seen": number})
    tx.insert("sync_items", fresh)


def look_again(tx: Tx, object_ids: Sequence[str]) -> None:
    """Files that shared these objects by their content no longer do: the next run takes them as new."""
    for cut in cuts(object_ids):
        tx.delete("sync_items", {"object_id": list(cut), "status": DUPLICATE})
