"""The job of a run, step by step. Each step leaves its result in the run's row or files before the next begins: a run
whose process was killed goes on with the step that was not finished.

pending → fitted (files) → labelled → written (documents) → ended
"""

from __future__ import annotations

import traceback
from typing import Any

import structlog

from mediatheca.flows.grouping import artifacts
from mediatheca.flows.grouping.assign import assign_all, run_cluster_applications
from mediatheca.flows.grouping.attributes import group
from mediatheca.flows.grouping.config import ExecuteRequest
from mediatheca.flows.grouping.fitting import Work, draw, fit
from mediatheca.flows.grouping.history import load_earlier
from mediatheca.flows.grouping.labels import label
from mediatheca.flows.grouping.output import deliver
from mediatheca.flows.grouping.prepare import RefusedError
from mediatheca.flows.grouping.runs import (
    JOB,
    KEPT_RESULTS,
    KIND,
    LAYOUT_JOB,
    CanceledError,
    begin,
    change_state,
    end,
    keep,
    latest_run,
    start_execution,
    watch,
)
from mediatheca.flows.services import Services
from mediatheca.jobs.compute import ComputeError
from mediatheca.jobs.queue import Job
from mediatheca.jobs.worker import Handler, Run
from mediatheca.kernel import clock
from mediatheca.kernel.errors import MediathecaError, NotFoundError, UnavailableError
from mediatheca.stores.db.tx import Cmp, Record, Row, Tx

log = structlog.get_logger()
_TRACE = 2_000
_CATEGORIES = {"deadline": "timeout", "memory": "infrastructure", "died": "infrastructure", "invalid": "validation"}


def cluster_jobs(services: Services) -> dict[str, Handler]:
    """Kind of job → handler."""
    return {JOB: lambda run: run_cluster(services, run), LAYOUT_JOB: lambda run: run_layout(services, run)}


def run_cluster(services: Services, run: Run) -> None:
    """The handler of `cluster.run`."""
    found = services.db.run(run.job.scope, lambda tx: begin(tx, run))
    if found is None:
        return
    row, cluster = found
    try:
        work = _work(services, run, row, cluster)
        while (step := work.row["body"]["step"]) != "written":
            work = _next(services, run, work, step)
        _complete(services, run, work)
    except CanceledError:
        services.db.run(run.job.scope, lambda tx: end(tx, run, row, "canceled", {}))
    except UnavailableError as error:
        if run.job.attempts < run.job.max_attempts:
            raise  # a store that does not answer now: once more, later
        _fail(services, run, row, error)
    except MediathecaError as error:
        _fail(services, run, row, error)


def _work(services: Services, run: Run, row: Row, cluster: Record) -> Work:
    scope = run.job.scope
    with services.db.read(scope) as tx:
        collections = [tx.get("collection", ident) for ident in row["body"]["config"]["collection_ids"]]
        before = latest_run(tx, cluster)
    earlier = load_earlier(services.blobs, scope, before)
    return Work(scope, row, cluster, collections, earlier, watch(services, run, row))


def _next(services: Services, run: Run, work: Work, step: str) -> Work:
    """Do the next step, and keep what it made."""
    work.check()
    if step == "pending":
        made = _group(services, work)
    elif step == "fitted" and work.row["body"]["mode"] == "assign":  # the names stay
        made = {"llm_labeling_errors": [], "step": "labelled"}
    elif step == "fitted":
        members = artifacts.read_members(services.blobs, work.scope, work.run_id)
        made = {**label(services, work, members, list(work.row["body"]["clusters"])), "step": "labelled"}
    else:
        made = deliver(services, work)
    row = keep(services, run, work.row, made)
    with services.db.read(work.scope) as tx:
        cluster = tx.get("cluster", work.cluster.id)  # labels may have been changed meanwhile
    return Work(work.scope, row, cluster, work.collections, work.earlier, work.check)


def _group(services: Services, work: Work) -> dict[str, Any]:
    if work.row["body"]["mode"] == "assign":
        return assign_all(services, work)
    return fit(services, work) if work.config["cluster_type"] == "vector" else group(services, work)


def _complete(services: Services, run: Run, work: Work) -> None:
    body = work.row["body"]

    def state(held: dict[str, Any]) -> dict[str, Any]:
        number = max(int(held.get("next_number", 0)), int(body["next_number"]))
        told = {"last_run_id": work.run_id, "last_task_id": work.row["task_id"], "next_number": number}
        return {**told, "last_executed_at": clock.wire_time(clock.now())}

    def finish(tx: Tx) -> list[str]:
        change_state(tx, work.cluster.id, state)
        end(tx, run, work.row, "completed", {})
        if body["layout_stability_reason"] == artifacts.DEFERRED:
            tx.enqueue(LAYOUT_JOB, {"run_id": work.run_id}, lock=f"cluster:{work.cluster.id}")
        return _pruned(tx, work)

    for run_id in services.db.run(work.scope, finish):
        artifacts.remove(services.blobs, work.scope, run_id)


def run_layout(services: Services, run: Run) -> None:
    """The handler of `cluster.layout`: the picture of a run that was completed without one."""
    scope = run.job.scope
    with services.db.read(scope) as tx:
        row = tx.row("cluster_runs", {"run_id": run.job.payload["run_id"]})
        cluster = None if row is None else tx.find(KIND, row["cluster_id"])
    told: dict[str, Any] = {}
    if row is not None and cluster is not None:
        try:
            told = draw(services, _before(services, run, row, cluster))
        except UnavailableError:
            raise
        except MediathecaError as error:
            told = {"layout_stability_applied": "none", "layout_stability_reason": f"no layout: {error.message}"[:500]}

    def finish(tx: Tx) -> None:
        held = tx.row("cluster_runs", {"run_id": run.job.payload["run_id"]})
        if held is not None:
            tx.update("cluster_runs", {"run_id": held["run_id"]}, {"body": {**held["body"], **told}})
        tx.finish_job(run.job.job_id, run.job.token)

    services.db.run(scope, finish)


def _before(services: Services, run: Run, row: Row, cluster: Record) -> Work:
    """The work of a completed run, whose predecessor is the run before it."""
    with services.db.read(run.job.scope) as tx:
        collections = [tx.get("collection", ident) for ident in row["body"]["config"]["collection_ids"]]
        where = {"cluster_id": cluster.id, "status": "completed", "run_id": Cmp("<", row["run_id"])}
        found = tx.rows("cluster_runs", where, order=("-run_id",), limit=1)
    earlier = load_earlier(services.blobs, run.job.scope, found[0] if found else None)
    return Work(run.job.scope, row, cluster, collections, earlier, run.check)


def _pruned(tx: Tx, work: Work) -> list[str]:
    """Runs whose files are no longer kept."""
    where = {"cluster_id": work.cluster.id, "status": "completed"}
    rows = tx.rows("cluster_runs", where, order=("-run_id",), limit=2 * KEPT_RESULTS)  # each run has done this
    old = [row for row in rows[KEPT_RESULTS:] if not row["body"].get("pruned")]
    for row in old:
        tx.update("cluster_runs", {"run_id": row["run_id"]}, {"body": {**row["body"], "pruned": True}})
    return [str(row["run_id"]) for row in old]


def _fail(services: Services, run: Run, row: Row, error: MediathecaError) -> None:
    log.warning("cluster.run_failed", run=row["run_id"], error=error.message)
    values = {
        "error_message": error.message[:2_000],
        "error_type": type(error).__name__.removesuffix("Error"),
        "error_traceback": "".join(traceback.format_exception(error, chain=False))[-_TRACE:],
        "failure_category": category(error),
    }
    if isinstance(error, NotFoundError) and error.details.get("resource") == "collection":
        values["error_message"] += "; give the cluster other collections, or delete it"
    services.db.run(run.job.scope, lambda tx: end(tx, run, row, "failed", values))


def category(error: MediathecaError) -> str:
    """Why it failed, in the words of the wire."""
    if isinstance(error, ComputeError):
        return _CATEGORIES.get(error.kind, "pipeline")
    if isinstance(error, RefusedError | NotFoundError):
        return "validation"
    return "infrastructure" if isinstance(error, UnavailableError) else "pipeline"


def cluster_died(services: Services, job: Job, message: str) -> None:
    """A job that failed for good leaves no run that seems to go on."""
    if job.kind != JOB:
        return

    def bury(tx: Tx) -> None:
        row = tx.row("cluster_runs", {"run_id": job.payload["run_id"]})
        if row is not None:
            values = {"error_message": message[:2_000], "error_type": "Job", "failure_category": "orphaned"}
            end(tx, None, row, "failed", values)

    services.db.run(job.scope, bury)


__all__ = [
    "ExecuteRequest",
    "cluster_died",
    "cluster_jobs",
    "latest_run",
    "run_cluster",
    "run_cluster_applications",
    "start_execution",
]
