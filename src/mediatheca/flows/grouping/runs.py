"""Rows of `cluster_runs`: how a run begins, goes on, ends; which one is the latest."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from mediatheca.flows.grouping.config import ExecuteRequest
from mediatheca.flows.held import hold
from mediatheca.flows.ingest.plan import ENDED, add_task, change_task
from mediatheca.flows.services import Services
from mediatheca.jobs.worker import Run
from mediatheca.kernel import clock
from mediatheca.kernel.errors import BadRequestError, ConflictError, NotFoundError
from mediatheca.kernel.extras import require
from mediatheca.kernel.ids import new_id
from mediatheca.stores.db.tx import Cmp, LeaseLostError, ReadTx, Record, Row, Tx

KIND = "cluster"
JOB = "cluster.run"
LAYOUT_JOB = "cluster.layout"
TASK = "engine_cluster_build"
OPEN = ("pending", "processing")
KEPT_RESULTS = 20
"""Runs of a cluster whose files are kept."""
_LOOK_S = 1.0


class CanceledError(BadRequestError):
    """Somebody cancelled the run or its task."""

    def __init__(self) -> None:
        super().__init__("cancelled")


def start_execution(tx: Tx, cluster: Record, request: ExecuteRequest, *, automatic: bool) -> str:
    """Store a pending run and enqueue it; gives its task, or that of the run that is going on.

    Raises:
        UnavailableError: the packages that cluster are not installed.
        ConflictError: documents are to be assigned, and there is no run to assign them to.
    """
    going = open_run(tx, cluster.id)
    if going is not None:
        return str(going["task_id"])
    require("clustering", "stages", "sklearn")
    if request.mode == "assign" and latest_run(tx, cluster) is None:
        raise ConflictError(f"cluster '{cluster.id}' has no completed run to assign documents to; execute mode 'full'")
    run_id = new_id("run")
    task = add_task(tx, TASK, {"cluster_id": cluster.id, "run_id": run_id, "mode": request.mode})
    body = {"mode": request.mode, "automatic": automatic, "step": "pending", "config": snapshot(cluster, request)}
    row = {"run_id": run_id, "cluster_id": cluster.id, "status": "pending", "task_id": task, "body": body}
    tx.insert("cluster_runs", [{**row, "created_at": clock.now(), "completed_at": None}])
    tx.enqueue(JOB, {"run_id": run_id}, lock=f"cluster:{cluster.id}", group=task)
    return task


def snapshot(cluster: Record, request: ExecuteRequest) -> dict[str, Any]:
    """What this run goes by, whatever becomes of the cluster meanwhile."""
    body = cluster.body
    vector = dict(body["vector_config"]) if body.get("vector_config") else None
    if vector is not None:
        for name in ("sample_size", "vis_n_components", "layout_stability"):
            value = getattr(request, name)
            vector[name] = vector[name] if value is None else value
    labels = body.get("llm_labeling") if request.llm_labeling is None else request.llm_labeling.model_dump(mode="json")
    return {
        "cluster_type": body["cluster_type"],
        "collection_ids": body["collection_ids"],
        "vector_config": vector,
        "attribute_config": body.get("attribute_config"),
        "filters": [tree for tree in (body.get("filters"), request.filters) if tree],
        "llm_labeling": labels,
        "enrich_source": body["enrich_source"],
        "source_enrichment_config": body.get("source_enrichment_config"),
        "assignment_threshold": request.assignment_threshold,
        "defer_visualization": request.defer_visualization,
    }


def other_settings(run: Row, cluster: Record, request: ExecuteRequest) -> bool:
    """Whether a run does something else than what is asked for."""
    return (run["body"]["mode"], run["body"]["config"]) != (request.mode, snapshot(cluster, request))


def open_run(tx: ReadTx, cluster_id: str) -> Row | None:
    """The run that waits or works, if its task was not cancelled."""
    for row in tx.rows("cluster_runs", {"cluster_id": cluster_id, "status": list(OPEN)}, order=("-run_id",)):
        task = tx.row("tasks", {"task_id": row["task_id"]})
        if task is not None and task["status"] not in ENDED:
            return row
    return None


def latest_run(tx: ReadTx, cluster: Record) -> Row | None:
    """The newest completed run."""
    found = tx.rows("cluster_runs", {"cluster_id": cluster.id, "status": "completed"}, order=("-run_id",), limit=1)
    return found[0] if found else None


def get_run(tx: ReadTx, cluster_id: str, run_id: str) -> Row:
    row = tx.row("cluster_runs", {"cluster_id": cluster_id, "run_id": run_id})
    if row is None:
        raise NotFoundError("cluster run", run_id)
    return row


def begin(tx: Tx, run: Run) -> tuple[Row, Record] | None:
    """The run and its cluster, marked as begun. None: there is nothing to do, and the job is done."""
    row = tx.row("cluster_runs", {"run_id": run.job.payload["run_id"]})
    cluster = None if row is None else tx.find(KIND, row["cluster_id"])
    if row is None or cluster is None or row["status"] not in OPEN:
        tx.finish_job(run.job.job_id, run.job.token)
        return None
    if not tx.update("tasks", {"task_id": row["task_id"], "status": Cmp("!=", "CANCELED")}, {"status": "PROCESSING"}):
        end(tx, run, row, "canceled", {})
        return None
    if row["status"] == "pending":
        row["body"] = {**row["body"], "started_at": clock.wire_time(clock.now())}
        tx.emit("cluster.execution.started", cluster.id, {"cluster_id": cluster.id, "run_id": row["run_id"]})
    tx.update("cluster_runs", {"run_id": row["run_id"]}, {"status": "processing", "body": row["body"]})
    return {**row, "status": "processing"}, cluster


def keep(services: Services, run: Run, row: Row, values: Mapping[str, Any]) -> Row:
    """Write what a step found; a run that is taken up again goes on from there.

    Raises:
        CanceledError: the run was cancelled.
    """
    body = {**row["body"], **values}
    with services.db.begin(run.job.scope) as tx:
        if not tx.update("cluster_runs", {"run_id": row["run_id"], "status": "processing"}, {"body": body}):
            raise CanceledError
    return {**row, "body": body}


def end(tx: Tx, run: Run | None, row: Row, status: str, values: Mapping[str, Any]) -> None:
    """How the run ended: the row, its task, an event, the job. `run` is None where there is no job left."""
    body = {**row["body"], **values, "step": "ended"}
    changed = tx.update(
        "cluster_runs",
        {"run_id": row["run_id"], "status": list(OPEN)},
        {"status": status, "body": body, "completed_at": clock.now()},
    )
    if changed:
        _tell(tx, row, status, body)
    if run is not None:
        _finish_job(tx, run, status)


def _tell(tx: Tx, row: Row, status: str, body: Mapping[str, Any]) -> None:
    outcome = {"cluster_id": row["cluster_id"], "run_id": row["run_id"], "status": status}
    outcome |= {name: body.get(name) for name in ("num_clusters", "num_points")}
    task = tx.row("tasks", {"task_id": row["task_id"]})
    if task is not None and task["status"] not in ENDED:
        change_task(tx, task["task_id"], status.upper(), outcome)
    if body.get("error_message"):
        tx.update("tasks", {"task_id": row["task_id"]}, {"error": body["error_message"]})
    if status in ("completed", "failed"):
        told = {**outcome, "error": body.get("error_message")}
        tx.emit(f"cluster.execution.{status}", row["cluster_id"], told)


def _finish_job(tx: Tx, run: Run, status: str) -> None:
    try:
        tx.finish_job(run.job.job_id, run.job.token)
    except LeaseLostError:
        if status != "canceled":  # the job was cancelled with the run: it has ended already
            raise


def cancel(tx: Tx, row: Row) -> None:
    """End a run that is going on; the computing process is killed within a second."""
    change_task(tx, row["task_id"], "CANCELED", {})
    tx.cancel_jobs(row["task_id"])
    end(tx, None, row, "canceled", {})


def watch(services: Services, run: Run, row: Row) -> Callable[[], None]:
    """A check for long steps: raises when the job was taken away, or the run cancelled."""
    looked = time.monotonic()

    def check() -> None:
        nonlocal looked
        moment = time.monotonic()
        if moment - looked >= _LOOK_S:
            looked = moment
            with services.db.read(run.job.scope) as tx:
                task = tx.row("tasks", {"task_id": row["task_id"]})
            if task is not None and task["status"] == "CANCELED":
                raise CanceledError
        run.check()

    return check


def change_state(tx: Tx, cluster_id: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change what the cluster remembers of its runs."""
    record = hold(tx, KIND, cluster_id)
    if record is not None:
        state = record.body.get("state") or {}
        tx.change(record, {**record.body, "state": {**state, **change(dict(state))}})


def wire_status(row: Row, task_status: str | None) -> str:
    """A run whose task was cancelled is cancelled, also before its job has noticed."""
    return "canceled" if row["status"] in OPEN and task_status == "CANCELED" else str(row["status"])
