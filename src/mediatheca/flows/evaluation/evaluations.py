"""An evaluation: a retriever answers every query of a golden data set, as a job of the durable queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mediatheca.flows.evaluation.calibrating import kept_scores, scorer_of
from mediatheca.flows.evaluation.datasets import grades_of, require_dataset
from mediatheca.flows.evaluation.gate import PRIMARY, THRESHOLD, significance, verdict
from mediatheca.flows.ingest.plan import add_task, change_task
from mediatheca.flows.learning.settings import static_settings
from mediatheca.flows.replay import MAX_DEPTH, Ran
from mediatheca.flows.retrievers import Compiled
from mediatheca.flows.services import Services
from mediatheca.jobs.worker import Run
from mediatheca.kernel import clock
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import BadRequestError, ConflictError, MediathecaError, NotFoundError, ValidationError
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.metrics import METRICS, judge, means, measure
from mediatheca.kernel.significance import interval
from mediatheca.stores.db.tx import Cmp, ReadTx, Record, Tx

KIND = "evaluation"
JOB = "retriever.evaluate"
TASK = "retriever.evaluation"
LOCK = "retriever.measuring"
"""One at a time: the other job threads stay free for ingestion."""
WEIGHT_SET = "weight_set"
_CHECK_EVERY = 20


class CancelledError(BadRequestError):
    """Somebody cancelled the task."""

    def __init__(self) -> None:
        super().__init__("cancelled")


_ALIASES = {"f1_score": "f1", "f2_score": "f2", "average_precision": "map", "reciprocal_rank": "mrr", "hit": "hit_rate"}


class EvaluationConfig(BaseModel):
    """What is measured. `baseline_evaluation_id` compares with an earlier evaluation on the same data set."""

    model_config = ConfigDict(extra="ignore")

    k_values: list[int] = Field([1, 5, 10, 20], min_length=1, max_length=20)
    metrics: list[str] = Field(["precision", "recall", "f1", "map", "ndcg", "mrr"], min_length=1, max_length=20)
    match_on: Literal["document_id", "root_object_id", "source_object_id"] = "document_id"
    baseline_evaluation_id: str | None = None
    primary_metric: str = PRIMARY
    regression_threshold: float = Field(THRESHOLD, ge=0, le=1)
    version: int | None = Field(None, ge=1, description="Version of the retriever; the newest one by default.")
    weight_set_id: str | None = Field(
        None, max_length=100, description="Measure with these trained weights; with those that are shipped by default."
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, value: Any) -> Any:
        """A null stands for the default."""
        return {key: entry for key, entry in value.items() if entry is not None} if isinstance(value, dict) else value

    @field_validator("k_values")
    @classmethod
    def _cutoffs(cls, value: list[int]) -> list[int]:
        if any(not 1 <= k <= MAX_DEPTH for k in value):
            raise ValueError(f"each k must be 1 to {MAX_DEPTH}, got {value}")
        return sorted(set(value))

    @field_validator("metrics")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        names = list(dict.fromkeys(_ALIASES.get(name.lower(), name.lower()) for name in value))
        unknown = [name for name in names if name not in METRICS]
        if unknown:
            raise ValueError(f"'{unknown[0][:50]}' is no metric; known: {', '.join(METRICS)}")
        return names

    @model_validator(mode="after")
    def _primary(self) -> EvaluationConfig:
        if self.primary_metric not in METRICS:
            raise ValueError(f"primary_metric '{self.primary_metric[:50]}' is no metric; known: {', '.join(METRICS)}")
        return self

    @property
    def measured(self) -> list[str]:
        """The metrics, the primary one among them where there is a baseline."""
        extra = [self.primary_metric] if self.baseline_evaluation_id else []
        return list(dict.fromkeys([*self.metrics, *extra]))

    @property
    def depth(self) -> int:
        return max(self.k_values)


def start_evaluation(tx: Tx, retriever: Record, dataset_name: str, config: EvaluationConfig) -> tuple[Record, str]:
    """Store a pending evaluation and enqueue it; gives it and its task.

    Raises:
        ValidationError: the data set or the baseline is unknown, or the baseline used another data set.
    """
    dataset = require_dataset(tx, dataset_name)
    if config.baseline_evaluation_id:
        _baseline(tx, config.baseline_evaluation_id, dataset.id)
    if config.weight_set_id and tx.find(WEIGHT_SET, config.weight_set_id, retriever.id) is None:
        place = ("body", "evaluation_config", "weight_set_id")
        raise ValidationError.at(place, f"'{config.weight_set_id}' is no weight set of this retriever", "unknown")
    ident = new_id("eval")
    task = add_task(tx, TASK, {"evaluation_id": ident, "retriever_id": retriever.id})
    body = {
        "retriever_id": retriever.id,
        "dataset_id": dataset.id,
        "dataset_name": dataset.name,
        "config": config.model_dump(mode="json"),
        "status": "pending",
        "task_id": task,
        "query_count": len(dataset.body["queries"]),
    }
    made = tx.put(KIND, "eval", ident, body, parent=retriever.id, ident=ident)
    # Not in the group of its task: a cancelled job could not write down that it was cancelled.
    tx.enqueue(JOB, {"evaluation_id": ident}, lock=LOCK, group=ident, max_attempts=3)
    tx.emit("evaluation.created", ident, {"retriever_id": retriever.id, "dataset_id": dataset.id})
    return made, task


def _baseline(tx: ReadTx, ident: str, dataset_id: str) -> Record:
    found = tx.find(KIND, ident)
    place = ("body", "evaluation_config", "baseline_evaluation_id")
    if found is None:
        raise ValidationError.at(place, f"'{ident}' is no evaluation of this namespace", "unknown")
    if found.body["dataset_id"] != dataset_id:
        message = f"'{ident}' was measured on data set '{found.body['dataset_name']}'; a baseline needs the same one"
        raise ValidationError.at(place, message, "mismatch")
    return found


def evaluation_view(record: Record, organization_id: str, *, outcomes: bool = True) -> dict[str, Any]:
    body = record.body
    shown = {
        "evaluation_id": record.id,
        **{
            name: body.get(name)
            for name in ("retriever_id", "dataset_id", "dataset_name", "config", "status", "task_id")
        },
        **{name: body.get(name) for name in ("overall_metrics", "metrics_by_k", "confidence_intervals", "latency")},
        **{name: body.get(name) for name in ("total_queries", "evaluated_queries", "skipped_queries", "error_message")},
        **{name: body.get(name) for name in ("verdict", "significance", "completed_at", "started_at")},
        "query_count": body["query_count"],
        "retriever_version": body.get("retriever_version"),
        "baseline_evaluation_id": body["config"].get("baseline_evaluation_id"),
        "weight_set_id": body.get("weight_set_id"),
        "namespace_id": record.namespace_id,
        "internal_id": organization_id,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }
    return {**shown, "query_results": body.get("query_results")} if outcomes else shown


# ---- the job


@dataclass(frozen=True, slots=True)
class _Work:
    """What one run needs, read in one transaction."""

    record: Record
    config: EvaluationConfig
    queries: Sequence[Mapping[str, Any]]
    weights: Mapping[str, float] | None = None
    """Of learned fusion; None: whatever is shipped."""


def run_evaluation(services: Services, run: Run) -> None:
    """The handler of `retriever.evaluate`. Running it again starts over; the last end stands."""
    ident = run.job.payload["evaluation_id"]
    work = _begin(services, run, ident)
    if work is None:
        return
    try:
        retriever = services.plans.get(run.job.scope, work.record.body["retriever_id"], work.config.version)
        result = _measure(work, list(_outcomes(services, run, retriever, work)))
    except MediathecaError as error:
        finish(services, run, KIND, ident, {"status": "failed", "error_message": error.message})
        return
    result |= {"retriever_version": retriever.version, "scorer": scorer_of(retriever)}
    if work.config.baseline_evaluation_id and result["status"] == "completed":
        with services.db.read(run.job.scope) as tx:
            result |= _against(tx, work, result)
    finish(services, run, KIND, ident, result)


def _begin(services: Services, run: Run, ident: str) -> _Work | None:
    """Mark it begun. None: it is gone or over, and the job is done."""
    with services.db.begin(run.job.scope) as tx:
        record = tx.find(KIND, ident)
        if record is None or record.body["status"] in ("completed", "failed"):
            tx.finish_job(run.job.job_id, run.job.token)
            return None
        dataset = tx.find("evaluation_dataset", record.body["dataset_id"])
        if dataset is None:
            missing = {"status": "failed", "error_message": "the data set was deleted before the evaluation began"}
            _close(tx, run, record, missing)
            return None
        if not mark_begun(tx, record.body["task_id"]):
            _close(tx, run, record, {"status": "failed", "error_message": "cancelled"})
            return None
        config = EvaluationConfig.model_validate(record.body["config"])
        used, weights = _weights(tx, record.body["retriever_id"], config.weight_set_id)
        begun = {"status": "in_progress", "started_at": wire_time(clock.now()), "weight_set_id": used}
        record = tx.change(record, {**record.body, **begun})
    return _Work(record, config, dataset.body["queries"], weights)


def _weights(tx: ReadTx, retriever_id: str, wanted: str | None) -> tuple[str | None, Mapping[str, float] | None]:
    """The weight set that is measured, and its weights where it is not the shipped one."""
    found = tx.find(WEIGHT_SET, wanted, retriever_id) if wanted else None
    if found is not None:
        return found.id, found.body.get("weights") or {}
    return static_settings(tx, retriever_id).shipped_weight_set, None


def _outcomes(services: Services, run: Run, retriever: Compiled, work: _Work) -> Iterator[dict[str, Any]]:
    """One outcome a query, in their order."""
    for number, query in enumerate(work.queries):
        run.check()
        if number % _CHECK_EVERY == 0:
            check_task(services, run, work.record.body["task_id"])
        yield _outcome(services, run, retriever, work, query)


def mark_begun(tx: Tx, task_id: str) -> bool:
    """The task is being worked on; False: somebody cancelled it before."""
    return bool(tx.update("tasks", {"task_id": task_id, "status": Cmp("!=", "CANCELED")}, {"status": "PROCESSING"}))


def check_task(services: Services, run: Run, task_id: str) -> None:
    """Raises when somebody cancelled the task."""
    with services.db.read(run.job.scope) as tx:
        task = tx.row("tasks", {"task_id": task_id})
    if task is not None and task["status"] == "CANCELED":
        raise CancelledError


def _outcome(
    services: Services, run: Run, retriever: Compiled, work: _Work, query: Mapping[str, Any]
) -> dict[str, Any]:
    config = work.config
    grades = grades_of(query)
    if not query["query_input"]:
        return _skipped(query, "the query_input is empty")
    if not any(grades.values()):
        return _skipped(query, "no document is judged relevant")
    scope, given = run.job.scope, query["query_input"]
    ran: Ran = services.replayer.run(scope, retriever, given, config.depth, config.match_on, work.weights)
    if ran.error is not None:
        return _skipped(query, ran.error)
    judged = judge(ran.ids, grades)
    return {
        "query_id": query["query_id"],
        "status": "evaluated",
        "error": None,
        "retrieved_count": len(ran.ids),
        "latency_ms": ran.latency_ms,
        "degraded": ran.degraded,
        "scored": [[score, grades.get(ident, 0)] for ident, score in zip(ran.ids, ran.scores, strict=True)],
        "metrics_by_k": {str(k): measure(judged, config.measured, k) for k in config.k_values},
    }


def _skipped(query: Mapping[str, Any], error: str) -> dict[str, Any]:
    return {"query_id": query["query_id"], "status": "skipped", "error": error[:2_000], "retrieved_count": None}


def _measure(work: _Work, outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the evaluated queries. `overall_metrics` are those at the largest k."""
    done = [outcome for outcome in outcomes if outcome["status"] == "evaluated"]
    deepest = str(work.config.depth)
    counts = {
        "total_queries": len(outcomes),
        "evaluated_queries": len(done),
        "skipped_queries": len(outcomes) - len(done),
        "query_results": [{name: v for name, v in outcome.items() if name != "scored"} for outcome in outcomes],
        "scored": kept_scores(done),
    }
    if not done:
        first = outcomes[0]["error"] if outcomes else "the data set has no queries"
        return {**counts, "status": "failed", "error_message": f"every query was skipped; the first: {first}"}
    latencies = [outcome["latency_ms"] for outcome in done]
    return {
        **counts,
        "status": "completed",
        "overall_metrics": means([outcome["metrics_by_k"][deepest] for outcome in done]),
        "metrics_by_k": {k: means([o["metrics_by_k"][k] for o in done]) for k in map(str, work.config.k_values)},
        "confidence_intervals": {
            name: interval([outcome["metrics_by_k"][deepest][name] for outcome in done])
            for name in work.config.measured
        },
        "latency": latency_of(latencies),
    }


def latency_of(values: Sequence[float]) -> dict[str, float]:
    from mediatheca.kernel.significance import percentile

    shares = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99}
    mean = sum(values) / len(values) if values else 0.0
    return {**{name: percentile(values, share) for name, share in shares.items()}, "mean_ms": mean}


def _against(tx: ReadTx, work: _Work, result: Mapping[str, Any]) -> dict[str, Any]:
    """The gate's verdict and the tests, at the largest k both evaluations measured."""
    config = work.config
    baseline = tx.find(KIND, str(config.baseline_evaluation_id))
    if baseline is None or baseline.body["status"] != "completed":
        state = "is gone" if baseline is None else f"is {baseline.body['status']}"
        none: dict[str, float] = {}
        judged = verdict(none, none, config.primary_metric)
        return {"verdict": {**judged, "reason": f"not compared: the baseline {state}"}}
    common = [k for k in result["metrics_by_k"] if k in baseline.body["metrics_by_k"]]
    if not common:
        none = {}
        reason = "not compared: the two evaluations have no k in common"
        return {"verdict": {**verdict(none, none, config.primary_metric), "reason": reason}}
    k, metric = max(common, key=int), config.primary_metric
    candidate, live = result["metrics_by_k"][k], baseline.body["metrics_by_k"][k]
    judged = verdict(candidate, live, metric, config.regression_threshold)
    values = _by_query(result["query_results"], k, metric), _by_query(baseline.body["query_results"], k, metric)
    return {"verdict": {**judged, "k": int(k)}, "significance": {**significance(*values, metric), "k": int(k)}}


def _by_query(outcomes: Sequence[Mapping[str, Any]], k: str, metric: str) -> dict[str, float]:
    found = {}
    for outcome in outcomes:
        value = outcome.get("metrics_by_k", {}).get(k, {}).get(metric)
        if value is not None:
            found[outcome["query_id"]] = value
    return found


def finish(
    services: Services, run: Run, kind: str, ident: str, result: Mapping[str, Any],
    then: Callable[[Tx, str], None] | None = None,
) -> None:  # fmt: skip
    """Store the result, do what follows from it, and end the job in one transaction."""
    with services.db.begin(run.job.scope) as tx:
        record = tx.find(kind, ident)
        if record is None:
            tx.finish_job(run.job.job_id, run.job.token)
            return
        _close(tx, run, record, result)
        if then is not None:
            then(tx, ident)


def _close(tx: Tx, run: Run, record: Record, result: Mapping[str, Any]) -> None:
    end(tx, record, result)
    tx.finish_job(run.job.job_id, run.job.token)


def end(tx: Tx, record: Record, result: Mapping[str, Any]) -> None:
    """Store how it ended; its task says the same, unless it was cancelled."""
    tx.change(record, {**record.body, **result, "completed_at": wire_time(clock.now())})
    task = tx.row("tasks", {"task_id": record.body["task_id"]})
    if task is not None and task["status"] != "CANCELED":
        status = "COMPLETED" if result["status"] == "completed" else "FAILED"
        change_task(tx, task["task_id"], status, {f"{record.kind}_id": record.id, "status": result["status"]})
        if result.get("error_message"):
            tx.update("tasks", {"task_id": task["task_id"]}, {"error": result["error_message"]})
    tx.emit(f"{record.kind}.{result['status']}", record.id, {"retriever_id": record.parent})


def get_evaluation(tx: ReadTx, retriever_id: str, ident: str) -> Record:
    found = tx.find(KIND, ident, retriever_id)
    if found is None:
        raise NotFoundError("evaluation", ident)
    return found


def delete_evaluation(tx: Tx, record: Record) -> None:
    """Raises ConflictError while it runs."""
    if record.body["status"] in ("pending", "in_progress"):
        task = record.body["task_id"]
        raise ConflictError(f"evaluation '{record.id}' is {record.body['status']}; cancel task '{task}' first")
    tx.remove(record)
    tx.emit("evaluation.deleted", record.id, {"retriever_id": record.parent})
