"""The job of a migration: one verb at a time, each step done again after a kill until its record says it is over."""

from __future__ import annotations

from typing import Any

import structlog

from mediatheca.flows.held import held, hold
from mediatheca.flows.migration.compare import Comparison
from mediatheca.flows.migration.fill import Fill
from mediatheca.flows.migration.state import DOING, JOB, KIND, ask, end, note, pairs_of
from mediatheca.flows.migration.switch import Turn, drop_side
from mediatheca.flows.plugins.scoped import scoped
from mediatheca.flows.services import Services
from mediatheca.jobs.queue import Job
from mediatheca.jobs.worker import Handler, Run
from mediatheca.kernel.errors import MediathecaError, UnavailableError
from mediatheca.stores.db.tx import Record, Tx

log = structlog.get_logger()


def migration_jobs(services: Services) -> dict[str, Handler]:
    """Kind of job → handler."""
    return {JOB: lambda run: run_migration(services, run)}


def run_migration(services: Services, run: Run) -> None:
    """The handler of `collection.migrate`. What goes wrong leaves the collection as it was, and the record says why."""
    found = _read(services, run)
    if found is None:
        services.db.run(run.job.scope, lambda tx: tx.finish_job(run.job.job_id, run.job.token))
        return
    migration, collection = found
    services = scoped(services, run.job.scope)
    try:
        values, status = _STEPS[run.job.payload["verb"]](services, run, migration, collection)
    except UnavailableError as error:
        if run.job.attempts < run.job.max_attempts:
            raise  # a model or a store that does not answer now: once more, later
        values, status = {"error_message": error.message}, _fallback(migration)
    except MediathecaError as error:
        values, status = {"error_message": error.message[:2_000]}, _fallback(migration)
    _finish(services, run, migration.id, values, status)


def _read(services: Services, run: Run) -> tuple[Record, Record] | None:
    """None: there is nothing left to do, since the migration, its collection or this step is gone."""
    with services.db.read(run.job.scope) as tx:
        migration = tx.find(KIND, run.job.payload["migration_id"])
        collection = None if migration is None else tx.find("collection", migration.parent)
    if migration is None or collection is None or migration.body["status"] != DOING[run.job.payload["verb"]]:
        return None
    return migration, collection


def _fallback(migration: Record) -> str:
    """The state after a step that failed: a build is `failed`, everything else is where it was."""
    return "failed" if migration.body["status"] == "building" else str(migration.body["before"])


def _finish(services: Services, run: Run, ident: str, values: dict[str, Any], status: str) -> None:
    def finish(tx: Tx) -> None:
        tx.finish_job(run.job.job_id, run.job.token)
        record = hold(tx, KIND, ident)
        if record is None:
            return
        record = end(tx, record, values, status)
        body = record.body
        if status == "ready" and body["status"] == "ready" and _goes_on(body, values):
            ask(tx, record, "switch")

    services.db.run(run.job.scope, finish)


def _goes_on(body: dict[str, Any], values: dict[str, Any]) -> bool:
    """A build that was compared switches by itself where that was asked for and nothing speaks against it."""
    compared = values.get("report") or {}
    return bool(body["auto_switch"] and compared.get("passed") and not body["failed"])


def _fill(services: Services, run: Run, migration: Record, collection: Record, *, backwards: bool = False) -> Fill:
    side = "old_parameters" if backwards else "parameters"
    return Fill(
        services,
        run.job.scope,
        collection,
        migration,
        pairs_of(migration, backwards=backwards),
        migration.body[side],
        "backwards" if backwards else "forwards",
        run.check,
    )


def _build(services: Services, run: Run, migration: Record, collection: Record) -> tuple[dict[str, Any], str]:
    services.indexer.refresh(run.job.scope, collection.id)
    fill = _fill(services, run, migration, collection)

    def total(tx: Tx) -> None:
        record = held(tx, KIND, migration.id)
        note(tx, record, {"progress": {**record.body["progress"], "documents": documents}})

    documents = services.indexer.index.count(collection.id) if services.indexer.ready(collection.id) else None
    services.db.run(run.job.scope, total)
    fill.run()
    report = Comparison(services, run.job.scope, collection, migration, run.check).report()
    return {"report": report}, "ready"


def _switch(services: Services, run: Run, migration: Record, collection: Record) -> tuple[dict[str, Any], str]:
    done = Turn(_fill(services, run, migration, collection)).make()
    return {"filled": {"forwards": done, "backwards": done}}, "switched"


def _rollback(services: Services, run: Run, migration: Record, collection: Record) -> tuple[dict[str, Any], str]:
    done = Turn(_fill(services, run, migration, collection, backwards=True)).make()
    return {"filled": {"forwards": done, "backwards": done}}, "ready"


def _finish_up(services: Services, run: Run, migration: Record, collection: Record) -> tuple[dict[str, Any], str]:
    drop_side(services, run.job.scope, collection, [pair.old.name for pair in pairs_of(migration)])
    return {}, "completed"


def _cancel(services: Services, run: Run, migration: Record, collection: Record) -> tuple[dict[str, Any], str]:
    drop_side(services, run.job.scope, collection, [pair.new.name for pair in pairs_of(migration)])
    return {}, "cancelled"


_STEPS = {"build": _build, "switch": _switch, "rollback": _rollback, "finish": _finish_up, "cancel": _cancel}


def migration_died(services: Services, job: Job, message: str) -> None:
    """A job that failed for good leaves no migration that seems to go on."""
    if job.kind != JOB:
        return

    def bury(tx: Tx) -> None:
        record = hold(tx, KIND, job.payload["migration_id"])
        if record is not None and record.body["status"] == DOING[job.payload["verb"]]:
            end(tx, record, {"error_message": message[:2_000]}, _fallback(record))

    services.db.run(job.scope, bury)
