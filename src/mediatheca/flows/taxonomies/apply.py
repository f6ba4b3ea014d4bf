"""A taxonomy over a whole collection, as a job: resumed where it was, cancelled with its task, done twice without harm.

Its progress is a row of `taxonomy_runs`. A page that was written before a crash and not yet counted is recognised by
the run's id in the documents: it is counted, not written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from time import monotonic
from typing import Any

from mediatheca.flows.ingest.plan import ENDED, add_task, change_task
from mediatheca.flows.services import Services
from mediatheca.flows.taxonomies.applications import Application
from mediatheca.flows.taxonomies.enrich import Counts, Enricher, How
from mediatheca.flows.taxonomies.nodes import KIND, SEEN_NODES, body_of, read_view
from mediatheca.flows.taxonomies.stats import Tally
from mediatheca.jobs.queue import Job
from mediatheca.jobs.worker import Run
from mediatheca.kernel import clock
from mediatheca.kernel.assignments import Style
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import ConflictError, MediathecaError, NotFoundError, UnavailableError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.ids import new_id
from mediatheca.stores.db.tx import Record, Row, Tx
from mediatheca.stores.documents.base import Scan

JOB = "taxonomy.apply"
TASK = "api_taxonomies_materialize"
CHECKPOINT_ROWS = 5_000
CHECKPOINT_S = 2.0
NOTE = "follow_up"
"""The kind of the rows of `taxonomy_runs` that say which follow-ups were counted."""
MAX_PATHS = 10_000
"""Paths that are remembered as nodes of a carried hierarchy."""


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """How a taxonomy is applied to a collection."""

    filters: Mapping[str, Any] | None = None
    batch_size: int = 1_000
    parallelism: int = 4
    max_time_ms: int | None = None
    style: Style = "combined"
    target_collection_id: str | None = None
    version: int | None = None
    """None: the newest one when the job begins."""


def attached_options(
    application: Application, *, filters: Mapping[str, Any] | None = None, version: int | None = None, **how: Any
) -> ApplyOptions:
    """How an entry of `taxonomy_applications` is applied; filters and a version that are asked for win over its own."""
    return ApplyOptions(
        filters=filters or application.filters,
        version=version or application.version,
        style=application.style,
        target_collection_id=application.target_collection_id,
        **how,
    )


def start_apply(tx: Tx, collection: Record, taxonomy: Record, options: ApplyOptions) -> str:
    """Enqueue it and give its task; the one that runs already, where one does just this.

    Raises:
        NotFoundError: the target collection or the version does not exist.
        ConflictError: the taxonomy is not ready.
        ValidationError: the filters cannot be read.
    """
    parse_filter(options.filters, path="scroll_filters")
    if options.target_collection_id:
        target = tx.get("collection", options.target_collection_id)
        if target.id == collection.id:
            raise ConflictError("target_collection_id is the collection itself; leave it out to write into it")
    if not body_of(tx, taxonomy, options.version)["ready"]:
        raise ConflictError(f"taxonomy '{taxonomy.name}' is not ready: its hierarchy is still being inferred")
    asked = {"collection_id": collection.id, "options": asdict(options)}
    for row in tx.rows(
        "taxonomy_runs", {"taxonomy_id": taxonomy.id, "kind": "apply", "status": ["queued", "processing"]}
    ):
        task = tx.row("tasks", {"task_id": row["task_id"]})
        if task is not None and task["status"] not in ENDED and _same(row["body"], asked):
            return str(row["task_id"])
    run_id = new_id("taxrun")
    told = {"taxonomy_id": taxonomy.id, "collection_id": collection.id, "run_id": run_id}
    task_id = add_task(tx, TASK, told)
    body = {**asked, "after": "", "counts": Counts().as_dict()}
    tx.insert(
        "taxonomy_runs",
        [
            {"run_id": run_id, "taxonomy_id": taxonomy.id, "kind": "apply", "status": "queued", "task_id": task_id}
            | {"body": body, "created_at": clock.now(), "completed_at": None}
        ],
    )
    tx.enqueue(JOB, {"run_id": run_id, "task_id": task_id}, lock=f"{KIND}:{collection.id}", group=task_id)
    return task_id


def _same(body: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    return all(body[name] == value for name, value in asked.items())


# ---- the job


@dataclass(slots=True)
class _Progress:
    """Where a run is."""

    row: Row
    enricher: Enricher
    after: str = ""
    began: float = 0.0

    @property
    def run_id(self) -> str:
        return str(self.row["run_id"])


def run_apply(services: Services, run: Run) -> None:
    """The handler of `taxonomy.apply`."""
    row = _begin(services, run)
    if row is None:
        return
    try:
        progress = _prepared(services, run, row)
        stopped = _walk(services, run, progress)
    except UnavailableError:
        raise  # tried again, from the last checkpoint
    except MediathecaError as error:
        _close(services, run, row, "FAILED", {"error": error.message, **_next_step(error)})
        return
    counts = progress.enricher.counts
    status = "COMPLETED_WITH_ERRORS" if stopped or counts.failed else "COMPLETED"
    _checkpoint(services, run, progress, status, {"stopped": stopped} if stopped else {})


def _begin(services: Services, run: Run) -> Row | None:
    """Mark it begun. None: it is gone, over or cancelled, and the job is done."""
    with services.db.begin(run.job.scope) as tx:
        row = tx.row("taxonomy_runs", {"run_id": run.job.payload["run_id"]})
        task = tx.row("tasks", {"task_id": run.job.payload["task_id"]})
        if row is None or row["completed_at"] is not None or task is None or task["status"] in ENDED:
            if row is not None and row["completed_at"] is None:
                tx.update(
                    "taxonomy_runs", {"run_id": row["run_id"]}, {"status": "canceled", "completed_at": clock.now()}
                )
            tx.finish_job(run.job.job_id, run.job.token)
            return None
        tx.update("tasks", {"task_id": row["task_id"]}, {"status": "PROCESSING"})
        tx.update("taxonomy_runs", {"run_id": row["run_id"]}, {"status": "processing"})
    return row


def _prepared(services: Services, run: Run, row: Row) -> _Progress:
    """Everything that a run needs is there, and what it has done so far is counted."""
    scope, body = run.job.scope, row["body"]
    options = ApplyOptions(**body["options"])
    view = read_view(services.db, services.plans, scope, row["taxonomy_id"], options.version)
    with services.db.read(scope) as tx:
        collection = tx.get("collection", body["collection_id"])
        target = tx.get("collection", options.target_collection_id) if options.target_collection_id else None
    how = How(options.style, target, options.parallelism, row["run_id"])
    enricher = Enricher(services, scope, collection, view, how, run)
    enricher.counts = Counts(**body["counts"])
    enricher.tally = Tally.of(body.get("tally") or {})
    return _Progress(row, enricher, body["after"], monotonic())


def _walk(services: Services, run: Run, progress: _Progress) -> str:
    """Evaluate what lies after the last checkpoint. Gives why it stopped early; empty: it did not."""
    body = progress.row["body"]
    options = ApplyOptions(**body["options"])
    collection_id, written, saved = body["collection_id"], 0, monotonic()
    for page in _pages(services, run, collection_id, options, progress):
        run.check()
        if options.max_time_ms is not None and (monotonic() - progress.began) * 1000 > options.max_time_ms:
            return f"max_time_ms ({options.max_time_ms}) is over; apply it again to go on with the rest"
        progress.enricher.process(page)
        progress.after = page[-1].document_id
        written += len(page)
        if written >= CHECKPOINT_ROWS or monotonic() - saved > CHECKPOINT_S:
            if not _checkpoint(services, run, progress):
                run.stop.set()
                run.check()
            written, saved = 0, monotonic()
    return ""


def _pages(
    services: Services, run: Run, collection_id: str, options: ApplyOptions, progress: _Progress
) -> Iterator[Sequence[Document]]:
    if services.indexer.unwritten(collection_id):
        return
    dead = services.indexer.tombstones(run.job.scope, collection_id)
    keep = parse_filter(options.filters, path="scroll_filters")
    scan = Scan(filter=keep, after=progress.after, vectors=progress.enricher.vectors or False)
    rows = services.documents.scan(collection_id, scan, tombstones=dead)
    while page := list(islice(rows, options.batch_size)):
        yield page


def _checkpoint(
    services: Services, run: Run, progress: _Progress, status: str = "", outputs: Mapping[str, Any] | None = None
) -> bool:
    """Progress, counts and statistics in one transaction; with `status` the end of run, task and job as well.

    False: the task was cancelled, and the run is over.
    """
    enricher, row = progress.enricher, progress.row
    body = {**row["body"], "after": progress.after, "counts": enricher.counts.as_dict()}
    with services.db.begin(run.job.scope) as tx:
        task = tx.row("tasks", {"task_id": row["task_id"]})
        canceled = task is None or task["status"] == "CANCELED"
        view = enricher.view
        if status or canceled:
            enricher.tally.flush(tx, view.taxonomy_id, view.version, body["collection_id"])
        remember_paths(tx, view.taxonomy_id, enricher.paths)
        kept = {**body, "version": view.version, "tally": enricher.tally.as_dict()}
        values: dict[str, Any] = {"body": {**kept, **(outputs or {})}}
        shown = {**body["counts"], **(outputs or {})}
        if status or canceled:
            values |= {"status": "canceled" if canceled else status.lower(), "completed_at": clock.now()}
            tx.finish_job(run.job.job_id, run.job.token)
        if status and not canceled:
            told = {"collection_id": body["collection_id"], "task_id": row["task_id"], "enriched": shown["enriched"]}
            tx.emit("taxonomy.materialized", view.taxonomy_id, told)
        if not canceled:
            change_task(tx, row["task_id"], status or "PROCESSING", shown)
        tx.update("taxonomy_runs", {"run_id": row["run_id"]}, values)
    return not canceled


def remember_paths(tx: Tx, taxonomy_id: str, paths: set[str]) -> None:
    """The nodes of a carried hierarchy grow with what documents carry."""
    if not paths:
        return
    run_id = f"{SEEN_NODES}_{taxonomy_id}"
    row = tx.row("taxonomy_runs", {"run_id": run_id})
    known = set(row["body"]["paths"]) if row is not None else set()
    if paths <= known:
        return
    body = {"paths": sorted(known | paths)[:MAX_PATHS]}
    if row is not None:
        tx.update("taxonomy_runs", {"run_id": run_id}, {"body": body})
        return
    made = {"run_id": run_id, "taxonomy_id": taxonomy_id, "kind": SEEN_NODES, "status": "current", "task_id": None}
    tx.insert("taxonomy_runs", [{**made, "body": body, "created_at": clock.now(), "completed_at": clock.now()}])


def _next_step(error: MediathecaError) -> dict[str, str]:
    if isinstance(error, NotFoundError):
        return {"next_step": "it was deleted meanwhile; apply a taxonomy that is there to a collection that is there"}
    return {"next_step": "mend what the error names, then apply the taxonomy again"}


def _close(services: Services, run: Run, row: Row, status: str, outputs: Mapping[str, Any]) -> None:
    with services.db.begin(run.job.scope) as tx:
        end_run(tx, row, status, outputs)
        tx.finish_job(run.job.job_id, run.job.token)


def end_run(tx: Tx, row: Row, status: str, outputs: Mapping[str, Any]) -> None:
    """A run that failed, and its task, say why. What it did until then counts."""
    row = tx.row("taxonomy_runs", {"run_id": row["run_id"]}) or row
    body = {**row["body"], **outputs}
    if body.get("tally"):
        Tally.of(body.pop("tally")).flush(tx, row["taxonomy_id"], body["version"], body["collection_id"])
    values = {"status": status.lower(), "body": body, "completed_at": clock.now()}
    tx.update("taxonomy_runs", {"run_id": row["run_id"]}, values)
    told = {"collection_id": body.get("collection_id"), "task_id": row["task_id"], "error": outputs.get("error")}
    tx.emit("taxonomy.execution_failed", row["taxonomy_id"], told)
    task = tx.row("tasks", {"task_id": row["task_id"]})
    if task is not None and task["status"] not in ENDED:
        change_task(tx, task["task_id"], status, {**body.get("counts", {}), **outputs})
        tx.update("tasks", {"task_id": task["task_id"]}, {"error": str(outputs.get("error", ""))[:2_000] or None})


def apply_died(services: Services, job: Job, message: str) -> None:
    """What a job that failed for good leaves behind says so."""
    with services.db.begin(job.scope) as tx:
        row = tx.row("taxonomy_runs", {"run_id": job.payload["run_id"]})
        if row is not None and row["completed_at"] is None:
            outputs = {"error": message[:2_000], "next_step": "apply the taxonomy again; it goes on where it was"}
            end_run(tx, row, "FAILED", outputs)
