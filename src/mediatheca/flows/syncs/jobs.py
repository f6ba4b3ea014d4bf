"""The jobs of syncs: what is due, slices of runs, and runs whose job has died."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mediatheca.flows.held import hold
from mediatheca.flows.outside.connections import Connection, load_connection
from mediatheca.flows.services import Services
from mediatheca.flows.syncs import state
from mediatheca.flows.syncs.connections import opened_source
from mediatheca.flows.syncs.run import Slice, submit_pending
from mediatheca.flows.syncs.state import DUE, SLICE
from mediatheca.flows.vault import CONNECTION
from mediatheca.jobs.queue import Job
from mediatheca.jobs.worker import Handler, JobCancelledError, Run
from mediatheca.kernel import clock
from mediatheca.kernel.errors import BadRequestError, MediathecaError, ValidationError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Record, Row, Tx


def sync_jobs(services: Services) -> dict[str, Handler]:
    """Kind of job → handler."""
    return {DUE: lambda run: sync_due(services, run), SLICE: lambda run: run_slice(services, run)}


def sync_due(services: Services, run: Run) -> None:
    """The handler of `sync.due`: begin a run, unless one goes on, or the connection is switched off."""

    def act(tx: Tx) -> None:
        tx.finish_job(run.job.job_id, run.job.token)
        sync = state.hold(tx, run.job.payload["sync_id"])
        if sync is None or sync.body["paused"] or sync.body["sync_mode"] != "continuous":
            return
        connection = tx.within("").find(CONNECTION, sync.body["connection_id"])
        if connection is None or not connection.body.get("is_active", True):
            reason = "its connection is gone" if connection is None else "its connection is switched off"
            if sync.body["last_error"] != reason:
                state.alter(tx, sync, last_error=reason)
            return
        if state.going(tx, sync) is None:
            state.begin(tx, sync, "scheduled")

    services.db.run(run.job.scope, act, "sync")


def run_slice(services: Services, run: Run) -> None:
    """The handler of `sync.slice`. What goes wrong at the source ends the run, and its row says why."""
    taken = services.db.run(run.job.scope, lambda tx: _taken(tx, run), "sync")
    if taken is None:
        services.db.run(run.job.scope, lambda tx: tx.finish_job(run.job.job_id, run.job.token))
        return
    sync, bucket, job = taken
    try:
        connection = _connection(services, run, sync)
        with opened_source(services, connection, job["body"]["source_path"], run.stop) as source:
            part = Slice(services, run, sync, bucket, job, source)
            over = part.work()
    except JobCancelledError:
        raise
    except MediathecaError as error:
        if error.status >= 500:
            raise  # ours: the queue tries again
        blamed = isinstance(error, BadRequestError | ValidationError)
        _end(services, run, "failed", error.message, connection=sync.body["connection_id"] if blamed else "")
        return
    if over:
        _end(services, run, "completed", connection=sync.body["connection_id"])
    else:
        services.db.run(run.job.scope, lambda tx: _go_on(tx, run), "sync")


def _taken(tx: Tx, run: Run) -> tuple[Record, Record, Row] | None:
    """The run for this job alone; None: it is over, or the sync is gone."""
    told = run.job.payload
    sync = state.hold(tx, told["sync_id"])
    where = {"sync_job_id": told["sync_job_id"], "status": "running"}
    job = tx.row("sync_jobs", where)
    bucket = None if sync is None else tx.find("bucket", sync.parent)
    if sync is None or job is None or bucket is None:
        return None
    body = dict(job["body"])
    body.setdefault("started_at", state.moment())
    if run.job.attempts > 1:
        body["resumed_via"] = "lease_expired"
    values: Row = {"token": run.job.token, "body": body}
    tx.update("sync_jobs", where, values)
    return sync, bucket, {**job, **values}


def _connection(services: Services, run: Run, sync: Record) -> Connection:
    with services.db.read(Scope(run.job.scope.organization_id)) as tx:
        return load_connection(tx, services.vault, sync.body["connection_id"])


def _go_on(tx: Tx, run: Run) -> None:
    """Hand the rest to the next job."""
    tx.finish_job(run.job.job_id, run.job.token)
    mine = {"sync_job_id": run.job.payload["sync_job_id"], "status": "running"}
    if tx.count("sync_jobs", mine):
        state.enqueue(tx, run.job.payload["sync_id"], run.job.payload["sync_job_id"])


def _end(services: Services, run: Run, status: str, error: str = "", *, connection: str) -> None:
    """End the run with its job. What was taken so far is processed, also where the rest has failed. `connection`: its
    id, where the end says how it works."""

    def finish(tx: Tx) -> None:
        tx.finish_job(run.job.job_id, run.job.token)
        sync = state.hold(tx, run.job.payload["sync_id"])
        where = {"sync_job_id": run.job.payload["sync_job_id"], "status": "running", "token": run.job.token}
        job = tx.row("sync_jobs", where)
        if sync is None or job is None:
            return
        body, told = _submitted(services, tx, sync, job)
        job["body"] = body
        sync = state.alter(tx, sync, **_batches(sync, body["batch_ids"]))
        sync = state.end(tx, sync, job, "failed" if told else status, error or told)
        if connection:
            _note_connection(tx.within(""), connection, error)
        if sync.body["pending_full_sync"] and not sync.body["paused"]:
            state.begin(tx, sync, "resume", full=True)

    services.db.run(run.job.scope, finish, "sync")


def _submitted(services: Services, tx: Tx, sync: Record, job: Row) -> tuple[dict[str, Any], str]:
    """The run's body without pending objects, and why they could not be submitted."""
    try:
        return submit_pending(services, tx, sync, job["body"], rest=True), ""
    except MediathecaError as error:
        if error.status >= 500:
            raise
        return job["body"], error.message


def _batches(sync: Record, fresh: Sequence[str]) -> dict[str, Any]:
    kept = [*sync.body["batch_ids"], *fresh][-state.KEPT_BATCHES :]
    return {"batch_ids": kept, "batches_created": sync.body["batches_created"] + len(fresh)}


def _note_connection(tx: Tx, connection_id: str, error: str) -> None:
    """Count how a connection works; one that fails again and again is switched off. `tx` is at its level; no error: it
    works."""
    found = hold(tx, CONNECTION, connection_id)
    if found is None:
        return
    count = found.body.get("consecutive_failures", 0) + 1 if error else 0
    values = {"consecutive_failures": count, "last_error": error[:1000] or None}
    if not error:
        values["last_used_at"] = clock.wire_time(clock.now())
    off = count >= state.MAX_FAILURES and found.body.get("is_active", True)
    if off:
        values["is_active"] = False
        tx.emit("storage_connection.suspended", found.id, {"name": found.name, "error": values["last_error"]})
    tx.change(found, {**found.body, **values})


def sync_died(services: Services, job: Job, message: str) -> None:
    """A slice that failed for good ends its run."""
    if job.kind != SLICE:
        return

    def bury(tx: Tx) -> None:
        sync = state.hold(tx, job.payload["sync_id"])
        row = tx.row("sync_jobs", {"sync_job_id": job.payload["sync_job_id"], "status": "running"})
        if sync is not None and row is not None:
            state.end(tx, sync, row, "failed", message)

    services.db.run(job.scope, bury, "sync")
