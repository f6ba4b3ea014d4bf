"""What follows a write: taxonomies, clusters, alerts and enrichments of the documents that were written.

A consumer of events notes the documents (`follow_ups`, in the transaction that moves its cursor), and a job works
through them, phase by phase. Nothing of it runs inside an ingest: it can neither block nor undo one. Each phase is
recorded when it has ended, so a crash repeats one phase. What runs is in `mediatheca.flows.phases`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any, TypeAlias

import structlog

from mediatheca.flows.services import Services
from mediatheca.jobs.dispatch import Take
from mediatheca.jobs.queue import Job
from mediatheca.jobs.worker import JobCancelledError, Run
from mediatheca.kernel import clock
from mediatheca.kernel.errors import MediathecaError, UnavailableError
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.event_feed import Event
from mediatheca.stores.db.system_tx import SystemTx
from mediatheca.stores.db.tx import LeaseLostError, ReadTx, Record, Row, Tx

log = structlog.get_logger()

JOB = "follow_up"
IDS = 2_000
"""Documents of one follow-up."""
DELAY_S = 2.0
"""Writes of this long are worked on together."""
TURN_S = 60.0
"""So long a job goes on with its collection; then others have their turn, however much is still written to it."""
KEPT_DAYS = 30
OPEN = "open"
_DONE, _FAILED = "done", "failed"
_PROBLEMS = 20
"""Kept of each phase."""


@dataclass(frozen=True, slots=True)
class FollowUp:
    """Documents of one collection that were written, in the order of their writing."""

    follow_id: str
    scope: Scope
    collection: Record
    document_ids: list[str]
    batch_id: str = ""
    """The batch that wrote them; empty: requests did."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a phase did. `problems`: `{what, reason, next_step}` of applications that failed."""

    done: int = 0
    skipped: int = 0
    failed: int = 0
    problems: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Phase:
    """A value, found by discovery. `number` orders the phases; it is stored, so it never changes."""

    number: int
    name: str
    wanted: Callable[[ReadTx, Record], bool]
    """Whether a collection (the record, read in the transaction) has anything for this phase; quick."""
    run: Callable[[Services, Run, FollowUp], Outcome]


Key: TypeAlias = tuple[Scope, str, str]
"""Scope, collection, batch."""


class FollowUps:
    """The consumer of events that notes what was written."""

    name = "follow_ups"
    types = frozenset({"collection.documents.written", "document.created", "document.updated"})

    def __init__(self, phases: Sequence[Phase]) -> None:
        self._phases = tuple(phases)

    def take(self, events: Sequence[Event]) -> Take | None:
        """What an enrichment wrote (its events have a `reason`) is no news."""
        written: dict[Key, dict[str, None]] = {}
        for event in events:
            if self._phases and not event.payload.get("reason"):
                key, ids = _written(event)
                written.setdefault(key, {}).update(dict.fromkeys(ids))
        return (lambda tx: self._note(tx, written)) if any(written.values()) else None

    def _note(self, tx: SystemTx, written: Mapping[Key, Iterable[str]]) -> None:
        for (scope, collection_id, batch_id), ids in written.items():
            inner = tx.for_scope(scope)
            collection = inner.find("collection", collection_id)
            if collection is not None and any(phase.wanted(inner, collection) for phase in self._phases):
                note(inner, collection_id, list(ids), batch_id)


def _written(event: Event) -> tuple[Key, list[str]]:
    if event.type == "collection.documents.written":
        key = (event.scope, event.resource_id, str(event.payload.get("batch_id", "")))
        return key, event.payload.get("document_ids", [])
    return (event.scope, str(event.payload["collection_id"]), ""), [event.resource_id]


def note(tx: Tx, collection_id: str, document_ids: Sequence[str], batch_id: str = "") -> None:
    """Follow up on these documents soon after the commit."""
    common: Row = {"collection_id": collection_id, "batch_id": batch_id, "phase": 0, "status": OPEN, "body": {}}
    parts = (document_ids[start : start + IDS] for start in range(0, len(document_ids), IDS))
    rows = [
        {**common, "follow_id": new_id("fol"), "document_ids": list(part), "created_at": clock.now()} for part in parts
    ]
    tx.insert("follow_ups", rows)
    if rows:
        _enqueue(tx, collection_id, DELAY_S)


def _enqueue(tx: Tx, collection_id: str, delay_s: float = 0.0) -> None:
    """One job for the collection, unless one waits already."""
    lock = f"follow:{collection_id}"
    # Held, so that a worker that takes the job meanwhile has either seen our rows or is not counted on.
    waiting = tx.rows("jobs", {"lock_key": lock, "status": "ready"}, columns=("job_id",), limit=1, hold="update")
    if not waiting:
        tx.enqueue(JOB, {"collection_id": collection_id}, lock=lock, delay_s=delay_s)


# ---- the job


def run_follow_ups(services: Services, phases: Sequence[Phase], run: Run, turn_s: float = TURN_S) -> None:
    """The handler of `follow_up` jobs: what is open of one collection, the oldest first, for a while."""
    where = {"collection_id": run.job.payload["collection_id"], "status": OPEN}
    until = monotonic() + turn_s
    while True:
        with services.db.begin(run.job.scope) as tx:
            row = _next(tx, where)
            if row is None or monotonic() > until:
                if row is not None:
                    _enqueue(tx, row["collection_id"])
                tx.finish_job(run.job.job_id, run.job.token)
                return
            collection = tx.find("collection", row["collection_id"])
            if collection is None:
                tx.update("follow_ups", {"follow_id": row["follow_id"]}, _ended(_DONE))
        if collection is not None:
            _work(services, phases, run, collection, row)


def _next(tx: Tx, where: Row) -> Row | None:
    """The oldest one; those behind it that have not begun, of the same batch, join it while there is room."""
    rows = tx.rows("follow_ups", where, order=("follow_id",), limit=50)
    if not rows:
        return None
    first, ids, joined = rows[0], dict.fromkeys(rows[0]["document_ids"]), []
    for row in rows[1:]:
        more = ids | dict.fromkeys(row["document_ids"])
        if first["phase"] or row["phase"] or row["batch_id"] != first["batch_id"] or len(more) > IDS:
            break
        ids = more
        joined.append(row["follow_id"])
    if joined:
        first["document_ids"] = list(ids)
        tx.update("follow_ups", {"follow_id": first["follow_id"]}, {"document_ids": first["document_ids"]})
        tx.delete("follow_ups", {"follow_id": joined})
    return first


def _work(services: Services, phases: Sequence[Phase], run: Run, collection: Record, row: Row) -> None:
    follow = FollowUp(row["follow_id"], run.job.scope, collection, row["document_ids"], row["batch_id"])
    body: Row = {"documents": len(follow.document_ids), **row["body"]}
    for phase in sorted(phases, key=lambda phase: phase.number):
        if phase.number <= row["phase"]:
            continue
        run.check()
        outcome = asdict(_outcome(services, run, phase, follow))
        outcome["problems"] = outcome["problems"][:_PROBLEMS]
        body = {**body, "phases": {**body.get("phases", {}), phase.name: outcome}}
        _record(services, run, follow, {"phase": phase.number, "body": body})
    # The ids are of no more use, and there may be very many of them.
    _record(services, run, follow, {**_ended(_DONE), "body": body, "document_ids": []})


def _outcome(services: Services, run: Run, phase: Phase, follow: FollowUp) -> Outcome:
    """What the phase did; a fault of its own is its outcome, too, and the next phases go on."""
    with services.db.read(follow.scope) as tx:
        wanted = phase.wanted(tx, follow.collection)
    if not wanted:
        return Outcome()
    try:
        return phase.run(services, run, follow)
    except (JobCancelledError, LeaseLostError):
        raise
    except Exception as error:
        if isinstance(error, UnavailableError) and run.job.attempts < run.job.max_attempts:
            raise
        log.error("follow_up.phase_failed", phase=phase.name, collection=follow.collection.id, exc_info=error)
        # What a library says may hold addresses and values that are not for callers; it is in the log.
        reason = f"it failed ({type(error).__name__}); see the log of the server"
        if isinstance(error, MediathecaError):
            reason = error.message
        step = "run it by hand once the reason is gone"
        return Outcome(
            failed=len(follow.document_ids), problems=[{"what": phase.name, "reason": reason, "next_step": step}]
        )


def _ended(status: str) -> Row:
    return {"status": status, "finished_at": clock.now()}


def _record(services: Services, run: Run, follow: FollowUp, values: Row) -> None:
    """Only while the job is ours: somebody else may have taken over.

    Raises:
        JobCancelledError: it is not.
    """

    def record(tx: Tx) -> None:
        if not tx.count("jobs", {"job_id": run.job.job_id, "lease_token": run.job.token, "status": "running"}):
            raise JobCancelledError(run.job.job_id)
        tx.update("follow_ups", {"follow_id": follow.follow_id}, values)

    services.db.run(follow.scope, record)


def follow_up_died(services: Services, job: Job, message: str) -> None:
    """A job out of attempts: what it has left says why, and is not tried again."""
    if job.kind != JOB:
        return
    where = {"collection_id": job.payload["collection_id"], "status": OPEN}
    with services.db.begin(job.scope) as tx:
        for row in tx.rows("follow_ups", where, columns=("follow_id", "body")):
            values = {**_ended(_FAILED), "body": {**row["body"], "error": message[:2_000]}}
            tx.update("follow_ups", {"follow_id": row["follow_id"]}, values)


def post_processing(tx: ReadTx, batch_id: str) -> Row:
    """What has been done with the documents of a batch: documents waiting and done, and each phase's counts."""
    found: Row = {"open": 0, "done": 0, "failed": 0, "phases": {}}
    for row in tx.rows("follow_ups", {"batch_id": batch_id}, order=("follow_id",)):
        found[row["status"]] += row["body"].get("documents", len(row["document_ids"]))
        for name, outcome in row["body"].get("phases", {}).items():
            total = found["phases"].setdefault(name, {"done": 0, "skipped": 0, "failed": 0, "problems": []})
            _add(total, outcome)
    return found


def _add(total: dict[str, Any], outcome: Mapping[str, Any]) -> None:
    for count in ("done", "skipped", "failed"):
        total[count] += outcome[count]
    total["problems"] = [*total["problems"], *outcome["problems"]][:_PROBLEMS]
