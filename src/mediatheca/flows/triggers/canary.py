"""The canary: a retriever runs with fixed inputs, and its answer is held against what is accepted."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any

from mediatheca.flows.ingest.plan import ENDED, change_task
from mediatheca.flows.services import Services
from mediatheca.flows.triggers.runs import RUNNING, close
from mediatheca.jobs.worker import Run
from mediatheca.kernel.errors import MediathecaError, UnavailableError
from mediatheca.kernel.mapping import read_path
from mediatheca.stores.db.tx import Row, Tx

RESULTS = 100
"""Results that are looked at."""


def run_canary(services: Services, run: Run) -> None:
    """The handler of `trigger.act`."""
    told = run.job.payload
    with services.db.begin(run.job.scope) as tx:
        row = tx.row("trigger_runs", {"run_id": told["run_id"], "status": RUNNING})
        trigger = None if row is None else tx.find("trigger", row["trigger_id"])
        task = tx.row("tasks", {"task_id": told["task_id"]})
        if row is None or trigger is None or task is None or task["status"] in ENDED:
            tx.finish_job(run.job.job_id, run.job.token)
            return
        change_task(tx, told["task_id"], "PROCESSING", {})
    config = trigger.body["action_config"]
    verdict = _verdict(services, run, config)
    run.check()

    def end(tx: Tx) -> None:
        _end(tx, row, config, verdict)
        tx.finish_job(run.job.job_id, run.job.token)

    services.db.run(run.job.scope, end, "trigger")


def _verdict(services: Services, run: Run, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the answer was like, and every way in which it is not accepted."""
    try:
        found = services.plans.get(run.job.scope, config["retriever_id"])
    except UnavailableError:
        raise
    except MediathecaError as error:
        return {"accepted": False, "failures": [error.message]}
    began = perf_counter()
    (answer,) = services.replayer.answers(run.job.scope, found, [config["inputs"]], RESULTS)
    return judge(answer, (perf_counter() - began) * 1000, config["acceptance"])


def judge(answer: Mapping[str, Any], took_ms: float, acceptance: Mapping[str, Any]) -> dict[str, Any]:
    """Hold an answer against what is accepted."""
    if answer.get("error"):
        return {"accepted": False, "failures": [str(answer["error"])]}
    documents = answer["documents"]
    stages = {name: float(entry["duration_ms"]) for name, entry in answer["stage_statistics"]["stages"].items()}
    slow = sorted(name for name, taken in stages.items() if taken > acceptance["max_stage_time_ms"])
    failures = []
    if took_ms > acceptance.get("max_total_time_ms", float("inf")):
        failures.append(f"took {took_ms:.0f} ms, accepted are {acceptance['max_total_time_ms']:g}")
    if len(slow) > acceptance.get("max_stage_latency_breaches", len(slow)):
        allowed = acceptance["max_stage_time_ms"]
        failures.append(f"{len(slow)} stages took more than {allowed:g} ms: {', '.join(slow)}")
    if len(documents) < acceptance.get("min_results", 0):
        failures.append(f"found {len(documents)} results, accepted are {acceptance['min_results']} or more")
    told = {"results": len(documents), "total_time_ms": round(took_ms, 1), "slow_stages": slow}
    if acceptance.get("judge_field"):
        passed = sum(1 for document in documents if _passes(document, acceptance["judge_field"]))
        told["pass_ratio"] = round(passed / len(documents), 4) if documents else 0.0
        if told["pass_ratio"] < acceptance["min_pass_ratio"]:
            wanted = f"accepted are {acceptance['min_pass_ratio']:g} or more"
            failures.append(f"a share of {told['pass_ratio']:g} passes '{acceptance['judge_field']}', {wanted}")
    if answer.get("status") == "degraded":
        failures.append("the answer was degraded")
    return {"accepted": not failures, "failures": failures, **told}


def _passes(document: Mapping[str, Any], field: str) -> bool:
    """A judge's verdict: a boolean, or a word for yes."""
    value = read_path(document, field)
    if isinstance(value, str):
        return value.strip().lower() in ("true", "yes", "pass", "passed", "1")
    return value is True or (isinstance(value, int | float) and not isinstance(value, bool) and value > 0)


def _end(tx: Tx, row: Row, config: Mapping[str, Any], verdict: dict[str, Any]) -> None:
    before = tx.rows(
        "trigger_runs",
        {"trigger_id": row["trigger_id"], "status": ["completed", "failed"]},
        order=("-run_id",),
        limit=1,
    )
    was = before[0]["status"] == "completed" if before else True
    changed = was != verdict["accepted"]
    wanted = config["notification"]["notify_on"]
    notify = {"always": True, "failure": not verdict["accepted"], "change": changed}[wanted]
    status = "COMPLETED" if verdict["accepted"] else "FAILED"
    error = "; ".join(verdict["failures"])
    outputs = {**verdict, **({"error": error} if error else {})}
    change_task(tx, row["task_id"], status, outputs)
    tx.update("tasks", {"task_id": row["task_id"]}, {"error": error or None})
    close(tx, row, status.lower(), error=error, verdict=verdict, changed=changed, notify=notify)
