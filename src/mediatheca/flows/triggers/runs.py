"""Runs of triggers: begun once for each due time, followed until their tasks have ended, and counted.

A run's row, what its action puts into the database, and the end of the job that began it are one transaction: a crash
leaves all of it or nothing. Due times are unique, so however often a job is repeated, a due time runs once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from mediatheca.flows.ingest.plan import ENDED, add_task
from mediatheca.flows.services import Services
from mediatheca.flows.triggers.actions import ACT, ACTIONS, Start
from mediatheca.flows.triggers.conditions import Measured, measure
from mediatheca.flows.triggers.state import FIRE, MAX_FAILURES, alter, hold, moment
from mediatheca.jobs.queue import Job
from mediatheca.jobs.schedule import PRIORITY, from_us, pause_schedule, to_us
from mediatheca.jobs.worker import Run
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError, MediathecaError, UnavailableError
from mediatheca.kernel.ids import new_id
from mediatheca.stores.db.tx import Record, Row, Tx

log = structlog.get_logger()

WATCH = "trigger.watch"
"""Job that looks whether the tasks of a run have ended: `{run_id, looks}`."""
RUNNING = "running"
_LOOKS_S = (0.3, 0.5, 1.0, 2.0, 4.0, 8.0)
"""How long to wait before the first look, the second, …; the last one repeats."""
_TURNS_S = (1.0, 2.0, 5.0, 15.0, 60.0)
"""How long a due time that is made up for waits before its first look whether it is its turn, the second, …"""
_OUTCOMES = {"COMPLETED": "completed", "COMPLETED_WITH_ERRORS": "completed", "SKIPPED": "completed"}
GONE = "what it works on is gone; change or delete the trigger"


# ---- beginning


def fire_trigger(services: Services, run: Run) -> None:
    """The handler of `trigger.fire`: `{trigger_id, due_at}`, and what `jobs.schedule` says besides."""
    told = run.job.payload
    measured, trouble = _measured(services, run)

    def act(tx: Tx) -> None:
        trigger = hold(tx, told["trigger_id"])
        if trigger is not None and trigger.body["status"] == "active":
            _due(services, tx, trigger, told, measured, trouble)
        tx.finish_job(run.job.job_id, run.job.token)

    def refuse(tx: Tx, error: MediathecaError) -> None:
        trigger = hold(tx, told["trigger_id"])
        if trigger is not None:
            record_failure(tx, trigger, told["due_at"], error)
        tx.finish_job(run.job.job_id, run.job.token)

    try:
        services.db.run(run.job.scope, act, "trigger")
    except MediathecaError as error:
        if isinstance(error, UnavailableError) and run.job.attempts < run.job.max_attempts:
            raise
        refused = error
        services.db.run(run.job.scope, lambda tx: refuse(tx, refused), "trigger")


def _measured(services: Services, run: Run) -> tuple[Measured | None, MediathecaError | None]:
    """What a conditional trigger looks at, read before the transaction."""
    with services.db.read(run.job.scope) as tx:
        trigger = tx.find("trigger", run.job.payload["trigger_id"])
    if trigger is None or trigger.body["trigger_type"] != "conditional" or "broken" in run.job.payload:
        return None, None
    try:
        return measure(services, run, trigger), None
    except UnavailableError:
        raise
    except MediathecaError as error:
        return None, error


def _due(
    services: Services, tx: Tx, trigger: Record, told: Mapping[str, Any], measured: Measured | None,
    trouble: MediathecaError | None,
) -> None:  # fmt: skip
    """What a due time means for a trigger that is active."""
    due_at = int(told["due_at"])
    if tx.count("trigger_runs", {"trigger_id": trigger.id, "due_at": due_at}):
        return
    if trigger.body["trigger_type"] == "event" and trigger.body["event_due_at"] != due_at:
        return  # it ran by hand, or was switched off and on, since these events were counted
    if "broken" in told:
        reason = f"its schedule can no longer be computed: {told['broken']}"
        _insert(tx, trigger, due_at, "failed", error=reason)
        _switch_off(tx, trigger, reason)
    elif told.get("skipped"):
        missed = int(told["missed"])
        _insert(tx, trigger, due_at, "skipped", error=f"missed while nothing ran ({missed} due times)", missed=missed)
    elif told.get("made_up") and _going(tx, trigger.id) is not None:
        _wait_for_turn(tx, told)
    elif trouble is not None:
        record_failure(tx, trigger, due_at, trouble)
    elif measured is not None:
        trigger = alter(tx, trigger, **measured.values)
        if measured.fires:
            _condition_met(services, tx, trigger, told, measured)
    else:
        begin(services, tx, trigger, due_at, missed=int(told.get("missed", 0)), cause=told.get("cause"))


def _wait_for_turn(tx: Tx, told: Mapping[str, Any]) -> None:
    """Due times that are made up for run one after the other."""
    turn = int(told.get("turn", 0))
    delay = _TURNS_S[min(turn, len(_TURNS_S) - 1)]
    tx.enqueue(FIRE, {**told, "turn": turn + 1}, delay_s=delay, priority=PRIORITY)


def _condition_met(services: Services, tx: Tx, trigger: Record, told: Mapping[str, Any], measured: Measured) -> None:
    """What was measured is the baseline from now on, unless the last run still goes on: then it is not acted on yet."""
    row = begin(services, tx, trigger, int(told["due_at"]), missed=int(told.get("missed", 0)), cause=measured.cause)
    held = hold(tx, trigger.id)
    if held is not None and row["status"] != "skipped":
        alter(tx, held, baseline_snapshot=dict(measured.snapshot))


def begin(
    services: Services, tx: Tx, trigger: Record, due_at: int, *, missed: int = 0, cause: Any = None,
    manual: bool = False,
) -> Row:  # fmt: skip
    """Begin a run in this transaction, or note that it was skipped because the last one still goes on. Gives its row.

    Raises:
        ConflictError: `manual`, and a run is going on.
        MediathecaError: the action cannot begin; the transaction must not commit.
    """
    going = _going(tx, trigger.id)
    if going is not None and manual:
        told = {"run_id": going["run_id"], "task_id": going["task_id"]}
        raise ConflictError(f"trigger '{trigger.id}' is running; wait until its run has ended", details=told)
    if going is not None:
        return _insert(tx, trigger, due_at, "skipped", error=f"run '{going['run_id']}' was still going on")
    run_id = new_id("trun")
    start = Start(services, tx, trigger, run_id)
    action = ACTIONS[trigger.body["action_type"]]
    tasks = list(action.start(start)) or [_idle(tx, action.task, trigger, run_id)]
    extra = {"task_ids": tasks, "manual": manual, **({"cause": cause} if cause else {})}
    row = _insert(tx, trigger, due_at, RUNNING, run_id=run_id, task=tasks[0], missed=missed, **extra)
    values = {"last_triggered_at": moment(), "last_execution_task_id": row["task_id"], "event_counter": 0}
    values |= {"execution_count": trigger.body["execution_count"] + 1, "last_execution_status": RUNNING}
    values |= {"event_due_at": None, "last_execution_error": None}
    if trigger.body["trigger_type"] == "event":
        values["last_cooldown_at"] = moment()
    trigger = alter(tx, trigger, **values)
    tx.emit("trigger.fired", trigger.id, {"run_id": run_id, "task_ids": tasks, "due_at": _wire(due_at)})
    tx.enqueue(WATCH, {"run_id": run_id, "looks": 0}, delay_s=_LOOKS_S[0], priority=PRIORITY)
    return row


def _idle(tx: Tx, task_type: str, trigger: Record, run_id: str) -> str:
    """The task of a run that found nothing to do."""
    told = {"trigger_id": trigger.id, "run_id": run_id, "note": "there was nothing to do"}
    return add_task(tx, task_type, told, status="COMPLETED")


def _going(tx: Tx, trigger_id: str) -> Row | None:
    return tx.row("trigger_runs", {"trigger_id": trigger_id, "status": RUNNING})


def _insert(
    tx: Tx, trigger: Record, due_at: int, status: str, *, run_id: str = "", task: str | None = None, **body: Any
) -> Row:
    ended = None if status == RUNNING else clock.now()
    row: Row = {"run_id": run_id or new_id("trun"), "trigger_id": trigger.id, "due_at": due_at, "status": status}
    row |= {"task_id": task, "body": body, "created_at": clock.now(), "finished_at": ended}
    tx.insert("trigger_runs", [row])
    return row


def record_failure(tx: Tx, trigger: Record, due_at: int, error: MediathecaError) -> Row | None:
    """A run that could not begin, with the reason. None: this due time has run."""
    if tx.count("trigger_runs", {"trigger_id": trigger.id, "due_at": due_at}):
        return None
    step = f"; {GONE}" if error.status == 404 else ""
    values = {"last_triggered_at": moment(), "execution_count": trigger.body["execution_count"] + 1}
    values |= {"event_counter": 0, "event_due_at": None}
    trigger = alter(tx, trigger, **values)
    row = _insert(tx, trigger, due_at, RUNNING, task_ids=[])
    close(tx, row, "failed", error=f"{error.message}{step}")
    return row


# ---- following


def watch_run(services: Services, run: Run) -> None:
    """The handler of `trigger.watch`."""
    told = run.job.payload

    def look(tx: Tx) -> None:
        row = tx.row("trigger_runs", {"run_id": told["run_id"], "status": RUNNING})
        if row is not None and not _settle(tx, row):
            looks = int(told["looks"]) + 1
            again = {"run_id": told["run_id"], "looks": looks}
            tx.enqueue(WATCH, again, delay_s=_LOOKS_S[min(looks, len(_LOOKS_S) - 1)], priority=PRIORITY)
        tx.finish_job(run.job.job_id, run.job.token)

    services.db.run(run.job.scope, look, "trigger")


def _settle(tx: Tx, row: Row) -> bool:
    """Close a run whose tasks have ended; whether it is closed."""
    wanted: Sequence[str] = row["body"]["task_ids"]
    tasks = tx.rows("tasks", {"task_id": list(wanted)}, columns=("task_id", "status", "error", "outputs"))
    if any(task["status"] not in (*ENDED, "SKIPPED") for task in tasks):
        return False
    outcomes = {_OUTCOMES.get(task["status"], task["status"].lower()) for task in tasks}
    if len(tasks) < len(wanted):
        close(tx, row, "failed", error="a task of this run is gone")
    elif "failed" in outcomes:
        close(tx, row, "failed", error=next(filter(None, map(_why, tasks)), "its task failed"))
    else:
        close(tx, row, "canceled" if "canceled" in outcomes else "completed")
    return True


def _why(task: Row) -> str:
    """Why a task failed: its error, or what its outputs say."""
    told = [task["error"], *(output.get("error_message") or output.get("error") for output in task["outputs"] or ())]
    return next((str(reason) for reason in told if task["status"] == "FAILED" and reason), "")


def close(tx: Tx, row: Row, status: str, *, error: str = "", **more: Any) -> None:
    """End a run and count it. Five failures one after the other switch the trigger off."""
    body = {**row["body"], **more, **({"error": error[:2_000]} if error else {})}
    values = {"status": status, "body": body, "finished_at": clock.now()}
    if not tx.update("trigger_runs", {"run_id": row["run_id"], "status": RUNNING}, values):
        return
    trigger = hold(tx, row["trigger_id"])
    if trigger is None:
        return
    failures = {"failed": trigger.body["consecutive_failures"] + 1, "completed": 0}
    count = failures.get(status, trigger.body["consecutive_failures"])
    told = {"last_execution_status": status, "last_execution_error": error[:2_000] or None}
    trigger = alter(tx, trigger, **told, consecutive_failures=count)
    payload = {
        "run_id": row["run_id"],
        "action_type": trigger.body["action_type"],
        "task_ids": body["task_ids"],
        **more,
    }
    if status == "failed":
        payload |= {"error": error[:2_000], "consecutive_failures": count}
    name = "trigger.execution.failed" if status == "failed" else "trigger.execution.completed"
    tx.emit(name, trigger.id, {**payload, "status": status})
    if status == "failed" and count >= MAX_FAILURES and trigger.body["status"] == "active":
        _switch_off(tx, trigger, f"{count} runs failed one after the other, the last one: {error}")


def _switch_off(tx: Tx, trigger: Record, reason: str) -> None:
    pause_schedule(tx, trigger.id)
    alter(tx, trigger, status="failed", last_execution_error=reason[:2_000], last_execution_status="failed")
    tx.emit("trigger.disabled", trigger.id, {"reason": reason[:2_000]})


# ---- by hand


def run_now(services: Services, tx: Tx, trigger: Record) -> Row:
    """Begin a run of a trigger that is held, whatever its status.

    Raises:
        ConflictError: a run is going on.
        MediathecaError: the action cannot begin.
    """
    due_at = to_us(clock.now())
    while tx.count("trigger_runs", {"trigger_id": trigger.id, "due_at": due_at}):
        due_at += 1
    return begin(services, tx, trigger, due_at, manual=True)


# ---- for the composition root


def triggers_died(services: Services, job: Job, message: str) -> None:
    """A job of ours is out of attempts: its run has failed."""
    if job.kind not in (FIRE, WATCH, ACT):
        return

    def record(tx: Tx) -> None:
        if job.kind == FIRE:
            trigger = hold(tx, job.payload["trigger_id"])
            if trigger is not None:
                record_failure(tx, trigger, int(job.payload["due_at"]), UnavailableError(message))
            return
        row = tx.row("trigger_runs", {"run_id": job.payload["run_id"], "status": RUNNING})
        if row is not None:
            close(tx, row, "failed", error=message)

    services.db.run(job.scope, record, "trigger")


def _wire(due_at: int) -> str:
    return clock.wire_time(from_us(due_at))
