"""Jobs of alerts: evaluations that were asked for, and the summary at the end of a cool-down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mediatheca.flows.alerts.entries import KIND
from mediatheca.flows.alerts.evaluate import SUMMARY, evaluate_alert, pace_of, state_of, state_row
from mediatheca.flows.alerts.matches import AlertMatches
from mediatheca.flows.alerts.notify import EVENT, notice, shown, template_of, worded
from mediatheca.flows.alerts.state import spoken
from mediatheca.flows.alerts.watch import watch
from mediatheca.flows.delivery.queue import Outgoing, enqueue_deliveries
from mediatheca.flows.delivery.refs import refs_of
from mediatheca.flows.ingest.plan import add_task, change_task
from mediatheca.flows.services import Services
from mediatheca.jobs.queue import Job
from mediatheca.jobs.worker import Handler, Run
from mediatheca.kernel import clock
from mediatheca.kernel.errors import NotFoundError
from mediatheca.stores.db.tx import Record, Row, Tx

JOB = "alert.run"
TASK = "api_retrievers_execute"


def alert_jobs(services: Services) -> dict[str, Handler]:
    """Kind of job → handler."""
    return {JOB: lambda run: _evaluate(services, run), SUMMARY: lambda run: _summary(services, run)}


def alert_died(services: Services, job: Job, message: str) -> None:
    """The task of an evaluation that could not be done says why."""
    if job.kind == JOB and job.group:
        with services.db.begin(job.scope) as tx:
            _end(tx, job.group, {}, message[:2_000])


def start_evaluation(
    tx: Tx, alert: Record, *, inputs: Mapping[str, Any] | None = None, reason: str = "", notify: bool = True
) -> str:
    """Evaluate an alert soon after the commit, as a whole; gives the task."""
    task = add_task(tx, TASK, {"alert_id": alert.id, "reason": reason})
    payload = {"alert_id": alert.id, "inputs": dict(inputs or {}), "notify": notify, "task_id": task}
    tx.enqueue(JOB, payload, lock=f"{JOB}:{alert.id}", group=task, max_attempts=3)
    return task


def _evaluate(services: Services, run: Run) -> None:
    """Running it again finds its execution recorded, and tells nobody twice."""
    payload, scope = run.job.payload, run.job.scope
    outputs: Row = {}
    error: str | None = None
    try:
        row = _execution(services, run)
        outputs = {"execution_id": row["execution_id"], "triggered": bool(row["triggered"])}
        error = row["body"]["error"]
    except NotFoundError as gone:
        error = f"{gone.message}; it was deleted meanwhile"
    with services.db.begin(scope) as tx:
        _end(tx, payload["task_id"], outputs, error)
        tx.finish_job(run.job.job_id, run.job.token)


def _execution(services: Services, run: Run) -> Row:
    """The execution of this job, made now or by an earlier attempt."""
    payload, scope = run.job.payload, run.job.scope
    with services.db.read(scope) as tx:
        alert = tx.get(KIND, payload["alert_id"])
    if alert.body.get("source") != "system":
        return evaluate_alert(
            services, scope, alert.id, inputs=payload["inputs"], notify=payload["notify"], key=payload["task_id"]
        )
    watch(services, scope, alert, key=payload["task_id"])
    with services.db.read(scope) as tx:
        return tx.rows("alert_runs", {"alert_id": alert.id}, order=("-created_at", "-execution_id"), limit=1)[0]


def _end(tx: Tx, task: str, outputs: Row, error: str | None) -> None:
    change_task(tx, task, "FAILED" if error else "COMPLETED", outputs)
    if error:
        tx.update("tasks", {"task_id": task}, {"error": error})


def _summary(services: Services, run: Run) -> None:
    """Tell once of everything that a cool-down held back. What was told before ends it: nothing is left to tell."""
    with services.db.begin(run.job.scope) as tx:
        alert = tx.find(KIND, run.job.payload["alert_id"])
        where = {"alert_id": run.job.payload["alert_id"], "collection_id": run.job.payload["place"]}
        row = tx.row("alert_states", where)
        state = state_of(row)
        if alert is not None and state.held and alert.body.get("enabled", True):
            _tell(tx, alert, state.held)
            tx.update("alert_states", where, state_row(spoken(state, pace_of(alert), clock.now())))
        tx.finish_job(run.job.job_id, run.job.token)
    services.deliverer.kick()


def _tell(tx: Tx, alert: Record, held: Mapping[str, Any]) -> None:
    runs, executions = int(held.get("runs", 0)), list(held.get("executions", ()))
    last = tx.row("alert_runs", {"execution_id": executions[-1]}) if executions else None
    ident, count = f"{executions[-1] if executions else alert.id}-summary", int(held.get("matches", 0))
    reason = f"{runs} more hit{'' if runs == 1 else 's'} during the cool-down, {count} documents in all"
    found = AlertMatches(alert, "" if last is None else last["collection_id"])
    matches = shown(alert, last["body"]["matches"] if last is not None else [])
    summary = {"runs": runs, "matches": count, "executions": executions}
    body = notice(
        alert, found, ident, reason, organization_id=tx.scope.organization_id, moment=clock.now(), bounded=True,
        more={"summary": summary, "match_count": count, "matches": matches},
    )  # fmt: skip
    said = worded(body, template_of(tx, alert.body.get("notification_config") or {}))
    if refs := refs_of(alert):
        enqueue_deliveries(tx, [Outgoing("alert", alert.id, refs, ident, EVENT, said)])
    told = {"execution_id": ident, "collection_id": found.collection_id, "match_count": count}
    tx.emit(EVENT, alert.id, told)
