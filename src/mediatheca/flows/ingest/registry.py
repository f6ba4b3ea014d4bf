"""What a batch did not make documents of: failed, skipped and filtered items, and dropped parts of items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mediatheca.flows.ingest.items import Failure, SourceObject
from mediatheca.flows.ingest.sources import LeftOut
from mediatheca.flows.ingest.work import Result, Work
from mediatheca.flows.removal import cuts
from mediatheca.kernel import clock
from mediatheca.kernel.ids import new_uuid
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx

MAX_DROPPED = 1_000
"""Dropped parts of one item that are listed one by one; the rest is one entry."""
_MAX_REASON = 2_000
_RESOURCE = ("timeout", "memory")
"""Phases in which an item failed at a limit of this installation."""


def record_items(tx: Tx, work: Work, result: Result) -> tuple[int, list[Row]]:
    """Put what came of a chunk on the list; what was listed of the same items before goes. Returns how many failures
    it replaced that were not marked as retried, and the failures of now."""
    items = {source.item_id: source for source in work.sources}
    entries = [_failed(items[failure.item_id], failure) for failure in result.failures]
    entries += [_left_out(entry) for entry in (*work.fetched.left_out, *result.left_out)]
    entries += list(_dropped(result))
    replaced, rows = _replace(tx, work.chunk, work.collection, entries)
    return replaced, [row for row in rows if row["outcome"] == "failed"]


def record_death(tx: Tx, chunk: Row, collection: Record, reason: str) -> tuple[int, list[Row]]:
    """All items of a chunk have failed, for a reason of its own: as `record_items`. The job was repeated before: nobody
    tries them again by himself."""
    common = {"outcome": "failed", "phase": "job", "reason": reason, "error_type": "transient", "what": ""}
    entries: list[Row] = []
    if chunk["document_ids"] is None:
        entries = [{**common, "object_id": unit, "kind": "object"} for unit in chunk["object_ids"]]
    else:  # the list says whose these documents are
        where = {"batch_id": chunk["batch_id"], "collection_id": collection.id, "outcome": "failed"}
        where["source_document_id"] = chunk["document_ids"]
        for row in tx.rows("failed_items", where, columns=("object_id", "source_document_id")):
            entries.append({**common, **row, "kind": "document"})
    return _replace(tx, chunk, collection, entries)


def _replace(tx: Tx, chunk: Row, collection: Record, entries: Sequence[Row]) -> tuple[int, list[Row]]:
    """How many failures went that were not marked as retried, and what is listed now."""
    before, attempts = _forget(tx, chunk), dict[tuple[str, str], int]()
    for row in before:
        key = (row["object_id"], row["source_document_id"])
        attempts[key] = max(row["attempt"], attempts.get(key, 0))
    rows = _insert(tx, chunk, collection, entries, attempts)
    return sum(row["retried_at"] is None for row in before), rows


def _forget(tx: Tx, chunk: Row) -> list[Row]:
    """Take what is listed of the items of a chunk off the list. Returns the failures among it."""
    where: dict[str, Any] = {"batch_id": chunk["batch_id"], "collection_id": chunk["collection_id"]}
    failures: list[Row] = []
    for cut in cuts(chunk["object_ids"]):
        of_these = {**where, "object_id": list(cut)}
        if chunk["document_ids"] is not None:
            of_these["source_document_id"] = chunk["document_ids"]
        failures += tx.rows("failed_items", {**of_these, "outcome": "failed"}, columns=_KEPT)
        tx.delete("failed_items", of_these)
    return failures


_KEPT = ("object_id", "source_document_id", "attempt", "retried_at")


def _insert(
    tx: Tx, chunk: Row, collection: Record, entries: Sequence[Row], attempts: Mapping[tuple[str, str], int]
) -> list[Row]:
    """`attempts`: how often each item has failed before."""
    extractor = collection.body["feature_extractor"]["feature_extractor_id"]
    common = {"batch_id": chunk["batch_id"], "collection_id": collection.id, "tier": chunk["tier"]}
    common |= {"extractor": extractor, "created_at": clock.now()}
    rows: list[Row] = []
    for entry in entries:
        row = {"source_document_id": "", **common, **entry, "item_id": new_uuid()}
        before = [attempts.get((row["object_id"], which), 0) for which in ("", row["source_document_id"])]
        rows.append({**row, "attempt": 1 + max(before)} | {name: _storable(entry[name]) for name in ("reason", "what")})
    for start in range(0, len(rows), 1_000):
        tx.insert("failed_items", rows[start : start + 1_000])
    return rows


def _of(source: SourceObject) -> Row:
    kind = "object" if source.document is None else "document"
    return {"object_id": source.object_id, "source_document_id": source.document_id, "kind": kind}


def _failed(source: SourceObject, failure: Failure) -> Row:
    error = "transient" if not failure.permanent else "resource" if failure.phase in _RESOURCE else "permanent"
    own = {"outcome": "failed", "what": "", "phase": failure.phase, "reason": failure.reason, "error_type": error}
    return {**_of(source), **own}


def _left_out(entry: LeftOut) -> Row:
    kind = "document" if entry.source_document_id else "object"
    own = {"object_id": entry.object_id, "source_document_id": entry.source_document_id, "kind": kind, "what": ""}
    return {**own, "outcome": entry.outcome, "phase": "source", "reason": entry.reason, "error_type": "permanent"}


def _dropped(result: Result) -> Iterator[Row]:
    counts: dict[str, int] = {}
    for source, dropped in result.dropped:
        counts[source.item_id] = counts.get(source.item_id, 0) + 1
        if counts[source.item_id] <= MAX_DROPPED:
            own = {"kind": dropped.kind[:32], "outcome": "dropped", "what": dropped.what, "reason": dropped.reason}
            phase = "input" if dropped.kind == "document" else "extract"  # the document had nothing to read
            yield {**_of(source), **own, "phase": phase, "error_type": "permanent"}
    for source in {source.item_id: source for source, _ in result.dropped}.values():
        more = counts[source.item_id] - MAX_DROPPED
        if more > 0:
            reason = f"{more} more parts of this item were dropped; the first {MAX_DROPPED} are listed"
            own = {"kind": "more", "outcome": "dropped", "what": str(more), "reason": reason}
            yield {**_of(source), **own, "phase": "extract", "error_type": "permanent"}


def _storable(text: str) -> str:
    """What an extractor said may hold what no database takes: NUL, halves of surrogate pairs."""
    return text[:_MAX_REASON].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


# ---- reading


def failed_count(tx: ReadTx, where: Row) -> int:
    """Items that have failed and are not being tried again."""
    return tx.count("failed_items", {**where, "outcome": "failed", "retried_at": None})


def dropped_counts(tx: ReadTx, batch_id: str) -> Row:
    """Pages and segments that gave no document, with the reasons: `{pages_dropped, pages_dropped_reasons, …}`."""
    found: Row = {}
    for kind, name in (("page", "pages_dropped"), ("segment", "segments_dropped")):
        where = {"batch_id": batch_id, "outcome": "dropped", "kind": kind}
        rows = tx.sums("failed_items", where, (), by=("reason",))
        reasons = {row["reason"]: row["count"] for row in sorted(rows, key=lambda row: -row["count"])[:20]}
        found |= {name: sum(row["count"] for row in rows), f"{name}_reasons": reasons}
    return found


def partial_objects(tx: ReadTx, batch_id: str, limit: int) -> list[Row]:
    """Objects of which a part is missing: `{object_id, collection_id, missing_features}`."""
    where = {"batch_id": batch_id, "outcome": "dropped"}
    rows = tx.rows("failed_items", where, order=("object_id", "item_id"), limit=limit * 20)
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row["object_id"], row["collection_id"])
        entry = found.setdefault(key, {"object_id": key[0], "collection_id": key[1], "missing_features": []})
        if len(entry["missing_features"]) < 20:
            entry["missing_features"].append(row["what"] or row["kind"])
    return list(found.values())[:limit]
