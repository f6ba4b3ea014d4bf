"""Trained weight sets: fixed weights for the searches of a learning retriever, fitted to a golden data set.

Every query is answered once with equal weights; what each search said of each document is enough to try all candidates.
The gate measures through the whole pipeline. It is never shown a query whose judgments took part in choosing the
weights it is measured with (cross-fitting), so a set cannot pass by having learned the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from mediatheca.flows.evaluation.datasets import grades_of, require_dataset
from mediatheca.flows.evaluation.evaluations import LOCK, WEIGHT_SET, check_task, finish, mark_begun
from mediatheca.flows.evaluation.gate import PRIMARY, THRESHOLD, significance, verdict
from mediatheca.flows.ingest.plan import add_task
from mediatheca.flows.learning.config import learners, learning_config, searches_of
from mediatheca.flows.learning.settings import static_settings, write_settings
from mediatheca.flows.replay import MAX_DEPTH
from mediatheca.flows.retrievers import Compiled, views
from mediatheca.flows.services import Services
from mediatheca.jobs.worker import Run
from mediatheca.kernel import clock
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import BadRequestError, ConflictError, MediathecaError, NotFoundError, ValidationError
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.metrics import METRICS, judge, means, measure
from mediatheca.kernel.weight_search import Trial, best, candidates, cross_fitted, named, ndcg_of, trial
from mediatheca.stores.db.tx import ReadTx, Record, Tx

KIND = WEIGHT_SET
JOB = "retriever.train_weights"
TASK = "retriever.weight_training"
MIN_QUERIES = 5
MAX_QUERIES = 2_000
_MEASURED = ("ndcg", "precision", "recall", "map", "mrr")
_CHECK_EVERY = 20


class TrainingSpec(BaseModel):
    """What weights are trained on, and what decides whether they may be shipped."""

    model_config = ConfigDict(extra="ignore")

    evaluation_dataset_id: str | None = Field(None, description="Id or name; by default that of learning_config.")
    k: int = Field(10, ge=1, le=MAX_DEPTH)
    primary_metric: str = PRIMARY
    regression_threshold: float = Field(THRESHOLD, ge=0, le=1)
    seed: int = Field(0, ge=0, le=2**31)
    ship: bool = Field(False, description="Ship the set as soon as it passes the gate.")

    @field_validator("primary_metric")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in METRICS:
            raise ValueError(f"'{value[:50]}' is no metric; known: {', '.join(METRICS)}")
        return value

    @property
    def measured(self) -> list[str]:
        return list(dict.fromkeys([self.primary_metric, *_MEASURED]))


def start_training(tx: Tx, retriever: Record, spec: TrainingSpec) -> Record:
    """Store a pending weight set and enqueue its training.

    Raises:
        BadRequestError: the retriever does not learn, or has one search only.
        ValidationError: no data set is named, or it does not exist.
    """
    found = learning_config(retriever.body["stages"])
    searches = searches_of(retriever.body["stages"])
    if not found.learns or found.error or len(searches) < 2:
        reason = found.error or "it needs a feature_search stage with fusion 'learned' and two searches at least"
        raise BadRequestError(f"retriever '{retriever.name}' has no weights to train: {reason}")
    name = spec.evaluation_dataset_id or found.config.evaluation_dataset_id
    if not name:
        message = "is required: the golden data set to train on (or name it in learning_config)"
        raise ValidationError.at(("body", "evaluation_dataset_id"), message, "missing")
    dataset = require_dataset(tx, name, "evaluation_dataset_id")
    ident = new_id("ws")
    task = add_task(tx, TASK, {"weight_set_id": ident, "retriever_id": retriever.id})
    body = {
        "retriever_id": retriever.id,
        "dataset_id": dataset.id,
        "dataset_name": dataset.name,
        "config": spec.model_dump(mode="json"),
        "searches": searches,
        "status": "pending",
        "task_id": task,
    }
    made = tx.put(KIND, "ws", ident, body, parent=retriever.id, ident=ident)
    tx.enqueue(JOB, {"weight_set_id": ident}, lock=LOCK, group=ident, max_attempts=3)
    tx.emit("weight_set.created", ident, {"retriever_id": retriever.id, "dataset_id": dataset.id})
    return made


def weight_set_view(tx: ReadTx, record: Record) -> dict[str, Any]:
    body = record.body
    told = ("retriever_id", "dataset_id", "dataset_name", "config", "status", "task_id", "weights", "verdict")
    scores = ("baseline_metrics", "candidate_metrics", "significance", "queries", "baseline_weight_set_id")
    ended = ("retriever_version", "dataset_version", "started_at", "completed_at", "error_message")
    return {
        "weight_set_id": record.id,
        **{name: body.get(name) for name in (*told, *scores, *ended)},
        "shipped": static_settings(tx, record.parent).shipped_weight_set == record.id,
        "created_at": record.created_at,
    }


def get_weight_set(tx: ReadTx, retriever_id: str, ident: str) -> Record:
    found = tx.find(KIND, ident, retriever_id)
    if found is None:
        raise NotFoundError("weight set", ident)
    return found


# ---- the gate


def ship(tx: Tx, retriever: Record, record: Record) -> None:
    """Put a weight set live.

    Raises:
        ConflictError: the gate refuses it, or what it was measured on is not what is there now.
    """
    refusal = _refusal(tx, retriever, record)
    if refusal:
        raise ConflictError(f"weight set '{record.id}' cannot be shipped: {refusal}")
    values = {"shipped_weight_set": record.id, "shipped_weights": record.body["weights"]}
    write_settings(tx, retriever.id, values)
    tx.emit("weight_set.shipped", record.id, {"retriever_id": retriever.id})


def _refusal(tx: ReadTx, retriever: Record, record: Record) -> str:
    body, again = record.body, "train a new one"
    if body["status"] != "completed":
        return f"its training is {body['status']}"
    if not body["verdict"]["passed"]:
        return str(body["verdict"]["reason"])
    if body["searches"] != searches_of(retriever.body["stages"]):
        return f"the searches of the retriever are others by now; {again}"
    wanted = learning_config(retriever.body["stages"]).config.evaluation_dataset_id
    if wanted and wanted not in (body["dataset_id"], body["dataset_name"]):
        return f"it was measured on data set '{body['dataset_name']}', and learning_config names '{wanted}'; {again}"
    dataset = tx.find("evaluation_dataset", body["dataset_id"])
    if dataset is None or dataset.version != body["dataset_version"]:
        return f"the data set was changed or deleted since it was measured; {again}"
    live = static_settings(tx, retriever.id).shipped_weight_set
    if live not in (body["baseline_weight_set_id"], record.id):
        return f"it was measured against what was live before '{live or 'rank fusion'}'; {again}"
    return ""


def unship(tx: Tx, retriever_id: str) -> None:
    """Back to fusion by rank, wherever no learned weights are used."""
    write_settings(tx, retriever_id, {"shipped_weight_set": None, "shipped_weights": {}})


def remove_weight_set(tx: Tx, record: Record) -> None:
    """Raises ConflictError while it is trained, or live."""
    if record.body["status"] not in ("completed", "failed"):
        task = record.body["task_id"]
        raise ConflictError(f"weight set '{record.id}' is {record.body['status']}; cancel task '{task}' first")
    if static_settings(tx, record.parent).shipped_weight_set == record.id:
        raise ConflictError(f"weight set '{record.id}' is live; take it back first (…/weight-sets/unship)")
    tx.remove(record)
    tx.emit("weight_set.deleted", record.id, {"retriever_id": record.parent})


# ---- the job


@dataclass(frozen=True, slots=True)
class _Work:
    """What one training needs."""

    record: Record
    spec: TrainingSpec
    searches: Mapping[str, float]
    queries: Sequence[Mapping[str, Any]]
    low: float
    high: float
    arms: Compiled
    """The retriever up to its learned stage, by rank, with everything that was found."""
    whole: Compiled
    known: Mapping[str, Any]


def run_training(services: Services, run: Run) -> None:
    """The handler of `retriever.train_weights`. Running it again starts over."""
    ident = run.job.payload["weight_set_id"]
    with services.db.begin(run.job.scope) as tx:
        record = tx.find(KIND, ident)
        if record is None or record.body["status"] in ("completed", "failed"):
            tx.finish_job(run.job.job_id, run.job.token)
            return
        begun = mark_begun(tx, record.body["task_id"])
        if begun:
            body = {**record.body, "status": "in_progress", "started_at": wire_time(clock.now())}
            record = tx.change(record, body)
    try:
        result = _train(services, run, _work(services, run, record)) if begun else _failed("cancelled")
    except MediathecaError as error:
        result = _failed(error.message)
    wanted = result["status"] == "completed" and record.body["config"]["ship"] and result["verdict"]["passed"]
    finish(services, run, KIND, ident, result, then=_ship_now if wanted else None)


def _failed(message: str) -> dict[str, Any]:
    return {"status": "failed", "error_message": message}


def _ship_now(tx: Tx, ident: str) -> None:
    """Ship what has just passed; somebody may have changed the retriever meanwhile, and then it stays unshipped."""
    record = tx.get(KIND, ident)
    retriever = tx.find("retriever", record.parent)
    if retriever is not None and not _refusal(tx, retriever, record):
        ship(tx, retriever, record)


def _work(services: Services, run: Run, record: Record) -> _Work:
    scope = run.job.scope
    with services.db.read(scope) as tx:
        retriever = tx.get("retriever", record.body["retriever_id"])
        dataset = tx.find("evaluation_dataset", record.body["dataset_id"])
        collections = views(
            tx, [] if retriever.body.get("inference_only") else retriever.body["collection_ids"] or None
        )
        live = static_settings(tx, retriever.id).shipped_weight_set
    if dataset is None:
        raise BadRequestError("the data set was deleted before the training began")
    config = learning_config(retriever.body["stages"]).config
    whole = services.plans.get(scope, retriever.id)
    stages = _up_to_fusion(retriever.body["stages"])
    plan = services.retrieve.compile(stages, collections, retriever.body["input_schema"])
    known = {"retriever_version": whole.version, "dataset_version": dataset.version, "baseline_weight_set_id": live}
    queries = [query for query in dataset.body["queries"] if query["query_input"] and any(grades_of(query).values())]
    spec = TrainingSpec.model_validate(record.body["config"])
    searches, arms = record.body["searches"], replace(whole, plan=plan, cache=None)
    low, high = config.min_weight, config.max_weight
    return _Work(record, spec, searches, queries[:MAX_QUERIES], low, high, arms, whole, known)


def _up_to_fusion(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The stages up to the learned one, which gives all it found, by rank."""
    number, parameters = next(iter(learners(stages)))
    open_wide = {**parameters, "fusion": "rrf", "final_top_k": MAX_DEPTH, "group_by": None, "facets": []}
    open_wide.pop("fusion_method", None)
    last = {**stages[number], "config": {**stages[number]["config"], "parameters": open_wide}, "parameters": open_wide}
    return [*map(dict, stages[:number]), last]


def _train(services: Services, run: Run, work: _Work) -> dict[str, Any]:
    kept, trials = _trials(services, run, work)
    if len(trials) < MIN_QUERIES:
        message = f"{len(trials)} queries of the data set could be used; training needs {MIN_QUERIES} at least"
        raise BadRequestError(message)
    tried = candidates(len(work.searches), low=work.low, high=work.high, seed=work.spec.seed)
    values = np.vstack([ndcg_of(one, tried, work.spec.k) for one in trials])
    names = list(work.searches)
    weights = [named(tried[number], names) for number in cross_fitted(values)]
    measured = _measured(services, run, work, kept, weights)
    baseline = means([entry[0] for entry in measured.values()])
    candidate = means([entry[1] for entry in measured.values()])
    spec, metric = work.spec, work.spec.primary_metric
    before, after = ({ident: entry[side][metric] for ident, entry in measured.items()} for side in (0, 1))
    return {
        "status": "completed",
        "error_message": None,
        "weights": named(tried[best(values)], names),
        "queries": len(measured),
        "baseline_metrics": baseline,
        "candidate_metrics": candidate,
        "verdict": {**verdict(candidate, baseline, metric, spec.regression_threshold), "k": spec.k},
        "significance": significance(after, before, metric),
        **work.known,
    }


def _trials(services: Services, run: Run, work: _Work) -> tuple[list[Mapping[str, Any]], list[Trial]]:
    """The queries that could be answered, and what every search said of every document."""
    kept, trials = [], []
    for number, query in enumerate(work.queries):
        _pause(services, run, work, number)
        ran = services.replayer.run(run.job.scope, work.arms, query["query_input"], MAX_DEPTH)
        if ran.error is None and ran.arms:
            kept.append(query)
            trials.append(trial(ran.arms, work.searches, grades_of(query), work.spec.k))
    return kept, trials


def _measured(
    services: Services, run: Run, work: _Work, queries: Sequence[Mapping[str, Any]], weights: Sequence[dict[str, float]]
) -> dict[str, tuple[dict[str, float], dict[str, float]]]:
    """Query → metrics of what is live and of the trained weights, through the whole pipeline."""
    found = {}
    for number, (query, own) in enumerate(zip(queries, weights, strict=True)):
        _pause(services, run, work, number)
        given, scope, k = query["query_input"], run.job.scope, work.spec.k
        both = [services.replayer.run(scope, work.whole, given, k, weights=used) for used in (None, own)]
        if all(ran.error is None for ran in both):
            before, after = (measure(judge(r.ids, grades_of(query)), work.spec.measured, k) for r in both)
            found[query["query_id"]] = (before, after)
    if not found:
        raise BadRequestError("no query could be answered by the whole retriever: nothing was measured")
    return found


def _pause(services: Services, run: Run, work: _Work, number: int) -> None:
    run.check()
    if number % _CHECK_EVERY == 0:
        check_task(services, run, work.record.body["task_id"])
