"""Benchmarks: several retrievers answer the questions of recorded sessions; which ranks what was liked higher.

What was recorded is biased towards what the baseline showed: a document it never showed could not be clicked. The
comparison says so, and adds a preference by interleaving, which depends less on the length of the lists, and a
counterfactual estimate, which takes into account that people look at the top first.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from mediatheca.flows.evaluation.counterfactual import counterfactual
from mediatheca.flows.evaluation.datasets import require_dataset
from mediatheca.flows.evaluation.evaluations import LOCK, CancelledError, check_task, finish, latency_of, mark_begun
from mediatheca.flows.evaluation.sessions import Session, SessionFilter, dataset_sessions, recorded_sessions
from mediatheca.flows.ingest.plan import add_task
from mediatheca.flows.learning.clicks import pages_of
from mediatheca.flows.replay import Ran, mean_of
from mediatheca.flows.retrievers import Compiled
from mediatheca.flows.services import Services
from mediatheca.jobs.worker import Run
from mediatheca.kernel import clock
from mediatheca.kernel.bandit import digest
from mediatheca.kernel.clicks import Page
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import ConflictError, MediathecaError, ValidationError
from mediatheca.kernel.ids import check_name, new_id
from mediatheca.kernel.metrics import judge, ndcg, recall
from mediatheca.kernel.rankings import team_draft
from mediatheca.kernel.significance import interval, paired_t
from mediatheca.stores.db.tx import Record, Tx

KIND = "benchmark"
JOB = "retriever.benchmark"
CUTOFFS = (1, 5, 10, 20)
DEPTH = 100
MAX_CANDIDATES = 10
_CHECK_EVERY = 20
_NOTICEABLE = 1e-9


class BenchmarkSpec(BaseModel):
    """`dataset_name` replays a golden data set instead of recorded sessions."""

    model_config = ConfigDict(extra="ignore")

    benchmark_name: str
    baseline_retriever_id: str
    candidate_retriever_ids: list[str] = Field(min_length=1, max_length=MAX_CANDIDATES)
    session_filter: SessionFilter | None = None
    session_count: int = Field(1_000, ge=10, le=10_000)
    dataset_name: str | None = None


def create_benchmark(tx: Tx, spec: BenchmarkSpec) -> Record:
    """Store a pending benchmark and enqueue it.

    Raises:
        ValidationError: a retriever or the data set is unknown, or a candidate is the baseline.
        ConflictError: the name is taken.
    """
    name = check_name("benchmark_name", spec.benchmark_name, "bench", high=255)
    (spec.session_filter or SessionFilter()).check()
    baseline = _retriever(tx, spec.baseline_retriever_id, ("body", "baseline_retriever_id"))
    candidates = [
        _retriever(tx, ident, ("body", "candidate_retriever_ids", number))
        for number, ident in enumerate(spec.candidate_retriever_ids)
    ]
    if baseline in candidates or len(set(candidates)) < len(candidates):
        message = "each retriever takes part once, and the baseline is no candidate"
        raise ValidationError.at(("body", "candidate_retriever_ids"), message, "unique")
    if spec.dataset_name is not None:
        require_dataset(tx, spec.dataset_name)
    ident = new_id("bench")
    body = spec.model_dump(mode="json", exclude={"benchmark_name"})
    body |= {"baseline_retriever_id": baseline, "candidate_retriever_ids": candidates, "status": "pending"}
    body["task_id"] = add_task(tx, JOB, {"benchmark_id": ident})
    made = tx.put(KIND, "bench", name, body, ident=ident)
    tx.enqueue(JOB, {"benchmark_id": ident}, lock=LOCK, group=ident, max_attempts=3)
    tx.emit("benchmark.created", ident, {"name": name})
    return made


def _retriever(tx: Tx, ident: str, place: tuple[str | int, ...]) -> str:
    found = tx.find("retriever", ident)
    if found is None:
        raise ValidationError.at(place, f"'{ident}' is no retriever of this namespace", "unknown")
    return found.id


def benchmark_view(record: Record) -> dict[str, Any]:
    body = record.body
    named = ("baseline_retriever_id", "candidate_retriever_ids", "session_filter", "dataset_name", "status", "task_id")
    told = ("results", "comparison", "started_at", "completed_at", "error_message", "warnings")
    return {
        "benchmark_id": record.id,
        "benchmark_name": record.name,
        **{name: body.get(name) for name in named},
        "session_count": body.get("sessions_used", body["session_count"]),
        **{name: body.get(name) for name in told},
        "created_at": record.created_at,
    }


def remove_benchmark(tx: Tx, record: Record) -> None:
    """Raises ConflictError while it runs."""
    if record.body["status"] not in ("completed", "failed"):
        task = record.body["task_id"]
        raise ConflictError(f"benchmark '{record.id}' is {record.body['status']}; cancel task '{task}' first")
    tx.remove(record)
    tx.emit("benchmark.deleted", record.id, {"name": record.name})


# ---- the job


@dataclass(frozen=True, slots=True)
class _Pipeline:
    """A retriever and its answers, one a session."""

    compiled: Compiled
    runs: list[Ran]


def run_benchmark(services: Services, run: Run) -> None:
    """The handler of `retriever.benchmark`. Running it again starts over."""
    ident = run.job.payload["benchmark_id"]
    with services.db.read(run.job.scope) as tx:
        record = tx.find(KIND, ident)
    if record is None or record.body["status"] in ("completed", "failed"):
        with services.db.begin(run.job.scope) as tx:
            tx.finish_job(run.job.job_id, run.job.token)
        return
    try:
        result = _benchmark(services, run, record)
    except MediathecaError as error:
        result = {"status": "failed", "error_message": error.message}
    finish(services, run, KIND, ident, result)


def _benchmark(services: Services, run: Run, record: Record) -> dict[str, Any]:
    body = record.body
    _tell(services, run, record.id, "building_sessions")
    sessions = _sessions(services, run, record)
    if not sessions:
        message = "no recorded session fits: record interactions with execution_id, or give dataset_name"
        return {"status": "failed", "error_message": message, "sessions_used": 0}
    _tell(services, run, record.id, "replaying")
    idents = [body["baseline_retriever_id"], *body["candidate_retriever_ids"]]
    compiled = [services.plans.get(run.job.scope, ident) for ident in idents]
    pipelines = [_Pipeline(one, []) for one in compiled]
    for number, session in enumerate(sessions):
        run.check()
        if number % _CHECK_EVERY == 0:
            check_task(services, run, body["task_id"])
        for pipeline in pipelines:  # in turns, so that a busy minute hits all of them
            pipeline.runs.append(services.replayer.run(run.job.scope, pipeline.compiled, session.inputs, DEPTH))
    _tell(services, run, record.id, "computing_metrics")
    with services.db.read(run.job.scope) as tx:
        pages = pages_of(tx, {ident for session in sessions for ident in session.executions})
    return _result(sessions, pipelines, record.id, pages)


def _tell(services: Services, run: Run, ident: str, status: str) -> None:
    with services.db.begin(run.job.scope) as tx:
        record = tx.get(KIND, ident)
        started = record.body.get("started_at") or wire_time(clock.now())
        tx.change(record, {**record.body, "status": status, "started_at": started})
        if status == "building_sessions" and not mark_begun(tx, record.body["task_id"]):
            raise CancelledError


def _sessions(services: Services, run: Run, record: Record) -> list[Session]:
    body = record.body
    with services.db.read(run.job.scope) as tx:
        if body.get("dataset_name"):
            return dataset_sessions(require_dataset(tx, body["dataset_name"]), body["session_count"])
        wanted = SessionFilter.model_validate(body.get("session_filter") or {})
        return recorded_sessions(tx, wanted, body["baseline_retriever_id"], body["session_count"], record.id)


def _result(
    sessions: Sequence[Session], pipelines: Sequence[_Pipeline], seed: str, pages: Mapping[str, Page]
) -> dict[str, Any]:
    baseline, *candidates = pipelines
    results = [_measured(sessions, pipeline, baseline) for pipeline in pipelines]
    comparisons = [
        _compared(sessions, pipeline, baseline, result, results[0], seed)
        for pipeline, result in zip(candidates, results[1:], strict=True)
    ]
    for pipeline, compared in zip(candidates, comparisons, strict=True):
        compared["counterfactual"] = counterfactual(_pairs(sessions, pipeline, baseline), pages)
    comparison = {
        "baseline_retriever_id": baseline.compiled.retriever_id,
        "comparisons": comparisons,
        "recommendation": _recommendation(comparisons),
    }
    warnings = [
        "recorded sessions favour what was shown: a document the recorded retriever never showed cannot count as liked"
    ]
    done = {"status": "completed", "results": results, "comparison": comparison, "warnings": warnings}
    return {**done, "sessions_used": len(sessions), "error_message": None}


def _measured(sessions: Sequence[Session], own: _Pipeline, baseline: _Pipeline) -> dict[str, Any]:
    pairs = _pairs(sessions, own, baseline)
    errors = Counter(_kind_of(ran.error) for ran in own.runs if ran.error is not None)
    shown = [ran for ran in own.runs if ran.error is None]
    stages = {name for ran in shown for name in ran.stages}
    latency: dict[str, Any] = latency_of([ran.latency_ms for ran in shown])
    latency["stage_latencies"] = {
        name: mean_of([ran.stages[name] for ran in shown if name in ran.stages]) for name in sorted(stages)
    }
    return {
        "retriever_id": own.compiled.retriever_id,
        "retriever_name": own.compiled.name,
        "pipeline_hash": _pipeline_hash(own.compiled),
        "metrics": _alignment(pairs),
        "taxonomy_deltas": None,
        "latency": latency,
        "failed_sessions": sum(errors.values()),
        "error_summary": dict(errors) or None,
    }


def _pairs(sessions: Sequence[Session], own: _Pipeline, baseline: _Pipeline) -> list[tuple[Session, Ran, Ran]]:
    """Sessions that both sides answered."""
    trios = zip(sessions, own.runs, baseline.runs, strict=True)
    return [(session, mine, theirs) for session, mine, theirs in trios if mine.error is None and theirs.error is None]


def _kind_of(error: str | None) -> str:
    return (error or "").split(":")[0][:100]


def _pipeline_hash(compiled: Compiled) -> str:
    data = orjson.dumps([compiled.plan.key, [view.collection_id for view in compiled.plan.collections]], default=str)
    return hashlib.sha256(data).hexdigest()[:16]


def _alignment(pairs: Sequence[tuple[Session, Ran, Ran]]) -> dict[str, Any]:
    deltas = [_rank(own, i) - _rank(base, i) for session, own, base in pairs for i in session.grades]
    changes = [_ndcg(own, session, 10) - _ndcg(base, session, 10) for session, own, base in pairs]
    bought = [_rank(own, ident) for session, own, _ in pairs for ident in session.purchased]
    return {
        "ndcg_at_k": {str(k): mean_of([_ndcg(own, session, k) for session, own, _ in pairs]) for k in CUTOFFS},
        "recall_at_k": {str(k): mean_of([_recall(own, session, k) for session, own, _ in pairs]) for k in CUTOFFS},
        "mean_rank_clicked": mean_of([_rank(own, ident) for session, own, _ in pairs for ident in session.clicked]),
        "mean_rank_purchased": mean_of(bought) if bought else None,
        "avg_position_delta": mean_of(deltas),
        "items_promoted": sum(delta < 0 for delta in deltas),
        "items_demoted": sum(delta > 0 for delta in deltas),
        "sessions_improved": sum(change > _NOTICEABLE for change in changes),
        "sessions_degraded": sum(change < -_NOTICEABLE for change in changes),
        "sessions_neutral": sum(abs(change) <= _NOTICEABLE for change in changes),
    }


def _rank(ran: Ran, ident: str) -> float:
    """1-based; one below the depth for what did not come back."""
    return float(ran.ids.index(ident) + 1 if ident in ran.ids else DEPTH + 1)


def _ndcg(ran: Ran, session: Session, k: int) -> float:
    return ndcg(judge(ran.ids, session.grades), k)


def _recall(ran: Ran, session: Session, k: int) -> float:
    return recall(judge(ran.ids, session.grades), k)


def _compared(
    sessions: Sequence[Session], own: _Pipeline, baseline: _Pipeline, result: Mapping[str, Any],
    reference: Mapping[str, Any], seed: str,
) -> dict[str, Any]:  # fmt: skip
    pairs = _pairs(sessions, own, baseline)
    deltas = [_ndcg(mine, session, 10) - _ndcg(theirs, session, 10) for session, mine, theirs in pairs]
    bounds = interval(deltas)
    means = {
        name: {
            str(k): mean_of([measure(mine, s, k) for s, mine, _ in pairs])
            - mean_of([measure(theirs, s, k) for s, _, theirs in pairs])
            for k in CUTOFFS
        }
        for name, measure in (("ndcg_delta", _ndcg), ("recall_delta", _recall))
    }
    return {
        "candidate_retriever_id": own.compiled.retriever_id,
        **means,
        "latency_delta_ms": result["latency"]["mean_ms"] - reference["latency"]["mean_ms"],
        "p_value": paired_t(deltas),
        "confidence_interval": list(bounds) if bounds else None,
        "taxonomy_wins": [],
        "taxonomy_losses": [],
        "interleaving": _interleaved(pairs, seed),
        "sessions_compared": len(pairs),
    }


def _interleaved(pairs: Sequence[tuple[Session, Ran, Ran]], seed: str) -> dict[str, int]:
    """Whose picks would have been liked more often, had the first ten of both been shown interleaved."""
    generator = random.Random(digest("interleaving", seed))
    found = Counter({"wins": 0, "losses": 0, "ties": 0})
    for session, own, base in pairs:
        draft = team_draft(own.ids, base.ids, 10, generator)
        mine = len(draft.first.intersection(session.grades))
        theirs = len(draft.second.intersection(session.grades))
        found["wins" if mine > theirs else "losses" if mine < theirs else "ties"] += 1
    return dict(found)


def _recommendation(comparisons: Sequence[Mapping[str, Any]]) -> str:
    better = [c for c in comparisons if c["confidence_interval"] and c["confidence_interval"][0] > 0]
    if better:
        best = max(better, key=lambda c: float(c["ndcg_delta"]["10"]))
        delta, name = best["ndcg_delta"]["10"], best["candidate_retriever_id"]
        return f"{name} ranks what was liked higher (nDCG@10 {delta:+.4f}, its 95 % interval above 0); consider it"
    worse = [c for c in comparisons if c["confidence_interval"] and c["confidence_interval"][1] < 0]
    if len(worse) == len(comparisons):
        return "every candidate ranks what was liked lower; keep the baseline"
    return "no candidate is better beyond chance; keep the baseline, or replay more sessions"
