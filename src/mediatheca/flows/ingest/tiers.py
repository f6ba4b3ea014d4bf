"""Chunks of a batch, tier by tier. A batch's objects are cut into parts, the same for all collections that are joined
by what they read from: a chunk is one part in one collection. It waits until the chunks of its part have ended in every
collection that it reads from. Collections that are not joined have parts, and numbers of parts, of their own.

The unit is the object at every tier, whatever many documents were made of it: so replacing, deleting and retrying an
object mean the same everywhere. Documents that were written directly have no object and stand for themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mediatheca.flows.ingest.graph import edges, families, reads_collections, upstream
from mediatheca.flows.objects.reads import document_counts
from mediatheca.flows.removal import cuts
from mediatheca.kernel import clock
from mediatheca.kernel.ids import new_uuid
from mediatheca.stores.db.tx import Record, Row, Tx

WAITING = "WAITING"
OPEN_CHUNK = ("PENDING", "PROCESSING")
UNFINISHED = (WAITING, *OPEN_CHUNK)
_NOTHING_CAME = ("FAILED", "SKIPPED", "CANCELED")
BACK_OFF_S = (5.0, 30.0)
"""How long an item that failed for the moment (a service that does not answer) waits for its second attempt, for its
third; after that it has failed until somebody retries it."""
MAX_ITEMS = 1_000
"""Documents of the source that one chunk works on, at the weight 1; more only where one object has more."""


def weight(collection: Record) -> int:
    """How much an item costs its extractor, 1 and up."""
    return max(1, int(collection.body["feature_extractor"].get("weight", 1)))


@dataclass(frozen=True, slots=True)
class Again:
    """What is tried once more: object → how many of its items had failed; and only these documents of the source."""

    failed: Mapping[str, int] = field(default_factory=dict)
    document_ids: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @staticmethod
    def of(items: Iterable[Row], *, wholly: bool = False) -> Again:
        """Of rows of `failed_items`; `wholly`: all of their objects, whichever documents failed."""
        failed: dict[str, int] = {}
        documents: dict[str, list[str]] = {}
        for row in items:
            failed[row["object_id"]] = failed.get(row["object_id"], 0) + 1
            if row["source_document_id"] and not wholly:
                documents.setdefault(row["object_id"], []).append(row["source_document_id"])
        return Again(failed, documents)


def add_parts(
    tx: Tx,
    batch_id: str,
    layers: Sequence[Sequence[tuple[int, Record]]],
    object_ids: Sequence[str],
    chunk_size: int,
    again: Again | None = None,
) -> None:
    """The chunks of these objects in collections, given in layers, each with the number of its tier. Those that wait
    for no other are enqueued."""
    waits_for = edges([[record for _, record in layer] for layer in layers])
    entries = [entry for layer in layers for entry in layer]
    first, again = _next_part(tx, batch_id), again or Again()
    ready: list[Row] = []
    waiting: list[Row] = []
    for family in families(waits_for):  # a heavy extractor makes the parts small for those it is joined with alone
        members = [entry for entry in entries if entry[1].id in family]
        size = max(1, chunk_size // max(weight(record) for _, record in members))
        parts = [list(object_ids[start : start + size]) for start in range(0, len(object_ids), size)]
        for tier, record in members:
            for number, part in enumerate(parts, first):
                common = {"batch_id": batch_id, "collection_id": record.id, "tier": tier, "part": number}
                if waits_for[record.id]:
                    waiting.append(_chunk(common, part, WAITING))
                else:
                    ready += [_chunk(common, piece, "PENDING", again) for piece in _pieces(tx, record, part)]
        first += len(parts)
    tx.insert("chunks", waiting)
    tx.insert("chunks", _enqueued(tx, ready))


def _next_part(tx: Tx, batch_id: str) -> int:
    found = tx.rows("chunks", {"batch_id": batch_id}, columns=("part",), order=("-part",), limit=1)
    return found[0]["part"] + 1 if found else 0


def _chunk(common: Row, object_ids: Sequence[str], status: str, again: Again | None = None) -> Row:
    documents = [ident for unit in object_ids for ident in again.document_ids.get(unit, ())] if again else []
    retried = sum(again.failed.get(unit, 0) for unit in object_ids) if again else 0
    own = {"chunk_id": new_uuid(), "object_ids": list(object_ids), "units": len(object_ids), "job_id": None}
    return {
        **common, **own, "status": status, "document_ids": documents or None, "retried": retried,
        "updated_at": clock.now(),
    }  # fmt: skip


def _enqueued(tx: Tx, chunks: list[Row], delay_s: float = 0) -> list[Row]:
    """A job for each."""
    by_batch: dict[str, list[Row]] = {}
    for chunk in chunks:
        by_batch.setdefault(chunk["batch_id"], []).append(chunk)
    for batch_id, group in by_batch.items():
        jobs = [{"chunk_id": chunk["chunk_id"]} for chunk in group]
        ids = tx.enqueue_many("ingest.chunk", jobs, group=batch_id, delay_s=delay_s)
        for chunk, job_id in zip(group, ids, strict=True):
            chunk["job_id"] = job_id
    return chunks


def _pieces(tx: Tx, collection: Record, object_ids: Sequence[str]) -> Iterator[list[str]]:
    """A part cut where its objects have very many documents in what the collection reads from."""
    if not reads_collections(collection):
        yield list(object_ids)
        return
    limit, counts = max(1, MAX_ITEMS // weight(collection)), document_counts(tx, object_ids, upstream(collection))
    piece: list[str] = []
    total = 0
    for unit in object_ids:
        if piece and total + counts.get(unit, 1) > limit:
            yield piece
            piece, total = [], 0
        piece.append(unit)
        total += counts.get(unit, 1)
    yield piece


def end_chunk(tx: Tx, batch: Row, chunk: Row, values: Row, failed: Sequence[Row] = ()) -> None:
    """Write how an open chunk ended, and start what waited for it. What has `failed` for the moment (rows of the list
    of failures) is tried again before, in a chunk of its own that counts these objects instead."""
    if batch["body"].get("dag_edges"):
        # Before the first write: two chunks of a part that end at the same moment must not hold what the other wants.
        tx.rows("chunks", _part(batch, chunk["part"]), columns=("chunk_id",), order=("chunk_id",), hold="update")
    items = [row for row in failed if tried_again(row)]
    units = chunk["units"] - len({row["object_id"] for row in items})
    ended = {**values, "units": units, "updated_at": clock.now()}
    if tx.update("chunks", {"chunk_id": chunk["chunk_id"], "status": OPEN_CHUNK}, ended):
        if items:
            _try_again(tx, chunk, items)
        release(tx, batch, chunk["part"], chunk["collection_id"])


def tried_again(failure: Row) -> bool:
    """Whether an item that failed is tried again by itself."""
    return bool(failure["error_type"] == "transient" and failure["attempt"] <= len(BACK_OFF_S))


def mark_failed(tx: Tx, failures: Iterable[Row]) -> None:
    """Objects among what has failed for good are FAILED, with the reason, unless something came of them. That one has
    not what a collection reads hides no other reason."""
    by_reason: dict[tuple[str, bool], list[str]] = {}
    for row in failures:
        if row["kind"] == "object":
            by_reason.setdefault((row["reason"], row["phase"] == "input"), []).append(row["object_id"])
    for (reason, absent), object_ids in by_reason.items():
        for cut in cuts(sorted(object_ids)):
            where = {"object_id": cut, "status": "PENDING" if absent else ("PENDING", "FAILED")}
            tx.update("objects", where, {"status": "FAILED", "processing_error": reason})


def _try_again(tx: Tx, chunk: Row, items: Sequence[Row]) -> None:
    """A chunk of these items beside the one that they failed in: what waits for the part waits for it, too."""
    again = Again.of(items)
    common = {name: chunk[name] for name in ("batch_id", "collection_id", "tier", "part")}
    delay = BACK_OFF_S[max(row["attempt"] for row in items) - 1]
    tx.insert("chunks", _enqueued(tx, [_chunk(common, sorted(again.failed), "PENDING", again)], delay))
    take_up(tx, items)


def take_up(tx: Tx, items: Iterable[Row]) -> None:
    """These failures stand no more: their items are tried again."""
    for cut in cuts([row["item_id"] for row in items]):
        tx.update("failed_items", {"item_id": cut}, {"retried_at": clock.now()})


def end_unrun(tx: Tx, batch: Row, chunk: Row, status: str, reason: str) -> None:
    """End an open chunk that nobody will run."""
    _give_back(tx, chunk)
    end_chunk(tx, batch, chunk, {"status": status, "error": reason, "retried": 0})


def _give_back(tx: Tx, chunk: Row) -> None:
    """What a chunk would have tried again is on the list of failures as before."""
    for cut in cuts(chunk["object_ids"]):
        again = {"batch_id": chunk["batch_id"], "collection_id": chunk["collection_id"], "object_id": cut}
        tx.update("failed_items", again, {"retried_at": None})


def _part(batch: Row, part: int) -> Row:
    return {"batch_id": batch["batch_id"], "part": part}


def release(tx: Tx, batch: Row, part: int, ended: str) -> None:
    """A chunk of this part has ended in the collection `ended`: start what waited for it alone; what has nothing to
    read, because all it waited for failed, is SKIPPED. In the transaction that ends the chunk."""
    waits_for: Mapping[str, list[str]] = batch["body"].get("dag_edges", {})
    done = [ended]
    while done:
        last = done.pop()
        for ident in [ident for ident, awaited in waits_for.items() if last in awaited]:
            if _released(tx, _part(batch, part), ident, waits_for[ident]):
                done.append(ident)


def _released(tx: Tx, part: Row, ident: str, awaited: Sequence[str]) -> bool:
    """Whether the chunk ended at once, without being run."""
    where: dict[str, Any] = {**part, "collection_id": [ident, *awaited]}
    # Held in one order: of two chunks that end at the same moment the second sees the first.
    rows = tx.rows("chunks", where, order=("chunk_id",), hold="update")
    waiting = [row for row in rows if row["collection_id"] == ident and row["status"] == WAITING]
    before = [row["status"] for row in rows if row["collection_id"] != ident]
    if not waiting or any(status in UNFINISHED for status in before):
        return False
    if before and all(status in _NOTHING_CAME for status in before):
        names = ", ".join(dict.fromkeys(row["collection_id"] for row in rows if row["collection_id"] != ident))
        reason = f"nothing came from {names} for these objects"
        values = {"status": "SKIPPED", "error": reason, "updated_at": clock.now()}
        tx.update("chunks", {"chunk_id": [row["chunk_id"] for row in waiting]}, values)
        return True
    collection = tx.find("collection", ident)
    if collection is None:
        tx.update("chunks", {"chunk_id": [row["chunk_id"] for row in waiting]}, {"status": "CANCELED"})
        return True
    for row in waiting:
        _start(tx, collection, row)
    return False


def _start(tx: Tx, collection: Record, chunk: Row) -> None:
    """Enqueue a chunk that waited, cut to what one job should hold."""
    common = {name: chunk[name] for name in ("batch_id", "collection_id", "tier", "part")}
    first, *others = [_chunk(common, piece, "PENDING") for piece in _pieces(tx, collection, chunk["object_ids"])]
    first["chunk_id"] = chunk["chunk_id"]
    first, *others = _enqueued(tx, [first, *others])
    names = ("status", "object_ids", "units", "job_id", "updated_at")
    tx.update("chunks", {"chunk_id": chunk["chunk_id"]}, {name: first[name] for name in names})
    tx.insert("chunks", others)


def end_unfinished(tx: Tx, where: Mapping[str, Any], status: str, reason: str) -> int:
    """End chunks that have not ended; what runs writes nothing more. Their jobs are cancelled, and what they would have
    tried again is on the list of failures as before. Returns how many."""
    ended, columns = 0, ("chunk_id", "job_id", "batch_id", "collection_id", "object_ids")
    # One that ended while we waited for it may have left another, which tries again what failed in it.
    while rows := tx.rows("chunks", {**where, "status": UNFINISHED}, columns=columns):
        _end(tx, rows, status, reason)
        ended += len(rows)
    return ended


def _end(tx: Tx, rows: Sequence[Row], status: str, reason: str) -> None:
    moment = clock.now()
    for cut in cuts([row["chunk_id"] for row in rows]):
        values = {"status": status, "error": reason, "retried": 0, "updated_at": moment}
        tx.update("chunks", {"chunk_id": cut, "status": UNFINISHED}, values)
    done = {"status": "cancelled", "finished_at": int(moment.timestamp() * 1e6), "lease_token": None}
    for cut in cuts([row["job_id"] for row in rows if row["job_id"]]):
        tx.update("jobs", {"job_id": cut, "status": ["ready", "running"]}, done)
    for row in rows:
        _give_back(tx, row)
