"""Syncs as records, their schedules and their runs. Whoever changes one holds its row.

A sync runs once at a time: `current_job_id` names the run that goes on. A run is a row of `sync_jobs`, a task that can
be polled, and jobs of the queue, one after the other, under its id as their group: where none of them is left, nobody
works on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from mediatheca.flows.held import hold as hold_resource
from mediatheca.flows.ingest.plan import add_task, change_task
from mediatheca.flows.vault import CONNECTION
from mediatheca.jobs.schedule import add_schedule, remove_schedule
from mediatheca.kernel import clock
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import ConflictError, NotFoundError
from mediatheca.kernel.ids import new_id
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx

KIND = "sync"
DUE = "sync.due"
"""Job of the schedule: `{sync_id}`."""
SLICE = "sync.slice"
"""Job of a run: `{sync_id, sync_job_id}`."""
TASK = "api_buckets_objects_create"
MAX_SYNCS = 1_000
"""Of a namespace."""
MAX_FAILURES = 5
"""Runs that fail one after the other before their connection is suspended."""
KEPT_BATCHES = 100
Trigger: TypeAlias = Literal["scheduled", "manual", "resume"]
STATS = (
    "discovered", "created", "updated", "verified", "skipped", "failed", "deleted", "missing", "duplicates", "bytes",
)  # fmt: skip
FRESH: Mapping[str, Any] = {
    "status": "PENDING", "paused": False, "pause_reason": None, "paused_at": None, "paused_by_user_id": None,
    "current_job_id": None, "locked_at": None, "run_counter": 0, "pending_full_sync": False, "last_sync_at": None,
    "last_error": None, "consecutive_failures": 0, "totals": {}, "last_run": None, "runs_completed": 0,
    "runs_failed": 0, "batch_ids": [], "batches_created": 0, "pending": [],
}  # fmt: skip
"""What changes by itself. `batch_ids`: of the newest batches. `pending`: objects that a run has left unprocessed."""


def hold(tx: Tx, sync_id: str) -> Record | None:
    """The sync, whose row nobody else may change until the end of the transaction; None: it is gone."""
    return hold_resource(tx, KIND, sync_id)


def require(tx: Tx, bucket_id: str, identifier: str) -> Record:
    """`hold`, of this bucket. Raises NotFoundError."""
    found = hold(tx, tx.get(KIND, identifier, bucket_id).id)
    if found is None:
        raise NotFoundError(KIND, identifier)
    return found


def alter(tx: Tx, sync: Record, **values: Any) -> Record:
    """Write some fields of a sync that is held."""
    return tx.change(sync, {**sync.body, **values})


def create_sync(tx: Tx, bucket_id: str, body: Mapping[str, Any], ident: str) -> Record:
    """Store a sync with its schedule. `body` is checked.

    Raises:
        ConflictError: the namespace has too many.
    """
    if tx.count("resources", {"kind": KIND}) >= MAX_SYNCS:
        raise ConflictError(f"a namespace has at most {MAX_SYNCS:,} syncs; delete some, or use another namespace")
    made = tx.put(KIND, KIND, ident, {**FRESH, "created_by": tx.actor, **body}, ident=ident, parent=bucket_id)
    plan(tx, made)
    tx.emit("sync.created", made.id, {"bucket_id": bucket_id, "connection_id": body["connection_id"]})
    return made


def plan(tx: Tx, sync: Record) -> None:
    """Give the sync the schedule that its mode and state say, in the place of the one it has."""
    remove_schedule(tx, sync.id)
    if sync.body["sync_mode"] == "continuous":
        interval, on = sync.body["polling_interval_seconds"], not sync.body["paused"]
        add_schedule(tx, sync.id, DUE, {"sync_id": sync.id}, interval_s=interval, after=clock.now(), enabled=on)


def remove_sync(tx: Tx, sync: Record) -> None:
    """With its schedule, runs and ledger, and the connection that is its own. Its objects stay."""
    if sync.body["current_job_id"]:
        interrupt(tx, sync, "the sync was deleted")
    remove_schedule(tx, sync.id)
    for table in ("sync_jobs", "sync_items", "sync_failures"):
        tx.delete(table, {"sync_id": sync.id})
    if sync.body["owns_connection"]:
        upper = tx.within("")
        own = upper.find(CONNECTION, sync.body["connection_id"])
        if own is not None:
            upper.remove(own)
            upper.emit("storage_connection.deleted", own.id, {"name": own.name})
    current = tx.get(KIND, sync.id)
    tx.remove(current)
    tx.emit("sync.deleted", sync.id, {"bucket_id": sync.parent})


def remove_of_bucket(tx: Tx, bucket_id: str) -> None:
    """All syncs of a bucket that is deleted."""
    for sync in tx.resources(KIND, {"parent": bucket_id}):
        remove_sync(tx, hold(tx, sync.id) or sync)


def set_paused(tx: Tx, sync: Record, paused: bool, reason: str | None = None) -> Record:
    """Switch it off or on. A run that goes on ends by itself; what was due meanwhile is not made up for."""
    if sync.body["paused"] == paused:
        return sync
    values: dict[str, Any] = {"paused": paused, "pause_reason": reason if paused else None}
    values |= {"paused_at": moment() if paused else None, "paused_by_user_id": tx.actor if paused else None}
    values["status"] = "SUSPENDED" if paused else _status(sync)
    sync = alter(tx, sync, **values, consecutive_failures=0)
    plan(tx, sync)
    tx.emit("sync.paused" if paused else "sync.resumed", sync.id, {"bucket_id": sync.parent})
    return sync


def _status(sync: Record) -> str:
    return "ACTIVE" if sync.body["run_counter"] else "PENDING"


def syncs_using(tx: Tx, connection_id: str) -> list[Record]:
    """Syncs of the whole organization that read a connection. `tx` is at its level."""
    every = [sync for each in tx.resources("namespace") for sync in tx.within(each.id).resources(KIND)]
    return [sync for sync in every if sync.body["connection_id"] == connection_id]


# ---- runs


def going(tx: ReadTx, sync: Record) -> Row | None:
    """The run that goes on, if somebody works on it or will."""
    ident = sync.body["current_job_id"]
    row = tx.row("sync_jobs", {"sync_job_id": ident, "status": "running"}) if ident else None
    if row is None or not tx.count("jobs", {"group_key": ident, "status": ["ready", "running"]}):
        return None
    return row


def begin(tx: Tx, sync: Record, trigger: Trigger, *, full: bool = False) -> Row:
    """Begin a run of a sync that is held; or, while one goes on, note that this one was skipped. Gives its row.

    A full run while another goes on follows that one.
    """
    open_run = going(tx, sync)
    if open_run is not None:
        if full:
            sync = alter(tx, sync, pending_full_sync=True)
        return _insert(tx, sync, trigger, "skipped", reason="skipped_already_running", running=open_run["sync_job_id"])
    if sync.body["current_job_id"]:
        sync = interrupt(tx, sync, "nobody worked on it any more")
    number = sync.body["run_counter"] + 1
    row = _insert(tx, sync, trigger, "running", full=full, number=number)
    alter(tx, sync, current_job_id=row["sync_job_id"], locked_at=moment(), run_counter=number, pending_full_sync=False)
    enqueue(tx, sync.id, row["sync_job_id"])
    tx.emit("sync.started", sync.id, {"sync_job_id": row["sync_job_id"], "trigger": trigger, "full_sync": full})
    return row


def enqueue(tx: Tx, sync_id: str, job_id: str) -> None:
    """The next slice of a run."""
    told = {"sync_id": sync_id, "sync_job_id": job_id}
    tx.enqueue(SLICE, told, lock=f"sync:{sync_id}", group=job_id)


def _insert(tx: Tx, sync: Record, trigger: Trigger, status: str, **body: Any) -> Row:
    ident, now = new_id("sjob"), clock.now()
    told = {"sync_config_id": sync.id, "sync_job_id": ident, "bucket_id": sync.parent}
    task = add_task(tx, TASK, told) if status == "running" else None
    row: Row = {"sync_job_id": ident, "sync_id": sync.id, "bucket_id": sync.parent, "status": status, "task_id": task}
    phase = "queued" if status == "running" else "idle"
    fresh: dict[str, Any] = {**dict.fromkeys(STATS, 0), "trigger": trigger, "phase": phase}
    fresh |= {"source_path": sync.body["source_path"], "cursor": None, "after": None, "batch_ids": []}
    fresh["pending"] = sync.body["pending"] if status == "running" else []
    row |= {"token": None, "body": {**fresh, **body}, "created_at": now, "updated_at": now}
    row["completed_at"] = now if status == "skipped" else None
    tx.insert("sync_jobs", [row])
    return row


def end(tx: Tx, sync: Record, job: Row, status: str, error: str = "") -> Record:
    """End a run of a sync that is held, and count it. `status`: completed, failed or interrupted."""
    now, body = clock.now(), {**job["body"], "phase": "idle", **({"error": error[:1000]} if error else {})}
    values = {"status": status, "body": body, "completed_at": now, "updated_at": now, "token": None}
    if not tx.update("sync_jobs", {"sync_job_id": job["sync_job_id"], "status": "running"}, values):
        return sync
    _end_task(tx, job, status, body, error)
    sync = alter(tx, sync, **_counted(sync, job, status, error, now))
    told = {"sync_job_id": job["sync_job_id"], "bucket_id": sync.parent, "trigger": body["trigger"]}
    told |= {name: body[name] for name in STATS} | ({"error": error[:1000]} if error else {})
    tx.emit(f"sync.{status}", sync.id, told)
    return sync


def _end_task(tx: Tx, job: Row, status: str, body: Mapping[str, Any], error: str) -> None:
    if job["task_id"] is None:
        return
    done = "COMPLETED_WITH_ERRORS" if body["failed"] else "COMPLETED"
    shown = {"completed": done, "failed": "FAILED", "interrupted": "CANCELED"}[status]
    outputs = {"sync_job_id": job["sync_job_id"], **{name: body[name] for name in STATS}}
    change_task(tx, job["task_id"], shown, outputs | ({"error_message": error[:1000]} if error else {}))


def _counted(sync: Record, job: Row, status: str, error: str, now: datetime) -> dict[str, Any]:
    """The fields of a sync after a run."""
    body, held = job["body"], sync.body
    totals = {name: held["totals"].get(name, 0) + body[name] for name in STATS}
    took = (now - job["created_at"]).total_seconds()
    totals["seconds"] = held["totals"].get("seconds", 0.0) + took
    taken = body["created"] + body["updated"]
    totals["peak_per_min"] = max(held["totals"].get("peak_per_min", 0.0), 60 * taken / took if took > 0 else 0.0)
    last = {**{name: body[name] for name in STATS}, "seconds": took, "at": wire_time(now), "status": status}
    values: dict[str, Any] = {"totals": totals, "last_run": last, "current_job_id": None, "locked_at": None}
    values["pending"] = body["pending"]
    if status == "completed":
        values |= {"last_sync_at": wire_time(now), "consecutive_failures": 0, "last_error": None}
        values["runs_completed"] = held["runs_completed"] + 1
        if not held["paused"]:
            values["status"] = "COMPLETED" if held["sync_mode"] == "initial_only" else "ACTIVE"
    elif status == "failed":
        values |= {"last_error": error[:1000], "consecutive_failures": held["consecutive_failures"] + 1}
        values["runs_failed"] = held["runs_failed"] + 1
        if not held["paused"]:
            values["status"] = "FAILED"
    return values


def interrupt(tx: Tx, sync: Record, reason: str) -> Record:
    """Stop the run of a sync that is held: what it has taken stays, and it writes nothing more."""
    ident = sync.body["current_job_id"]
    tx.cancel_jobs(ident)
    job = tx.row("sync_jobs", {"sync_job_id": ident, "status": "running"})
    if job is None:
        return alter(tx, sync, current_job_id=None, locked_at=None)
    return end(tx, sync, job, "interrupted", reason)


def stale_after(sync: Record) -> timedelta:
    """How long after its last run a sync counts as overdue."""
    return timedelta(seconds=max(2 * sync.body["polling_interval_seconds"], 120))


def moment() -> str:
    """Now, as it is stored in a body."""
    return wire_time(clock.now())
