"""The jobs of measuring, for the composition root."""

from __future__ import annotations

from mediatheca.flows.evaluation import benchmarks, evaluations, weight_sets
from mediatheca.flows.services import Services
from mediatheca.jobs.queue import Job
from mediatheca.jobs.worker import Handler


def evaluation_jobs(services: Services) -> dict[str, Handler]:
    """Kind of job → handler."""
    return {
        evaluations.JOB: lambda run: evaluations.run_evaluation(services, run),
        benchmarks.JOB: lambda run: benchmarks.run_benchmark(services, run),
        weight_sets.JOB: lambda run: weight_sets.run_training(services, run),
    }


def evaluation_died(services: Services, job: Job, message: str) -> None:
    """What a job that failed for good leaves behind says so."""
    kinds = {
        evaluations.JOB: (evaluations.KIND, "evaluation_id"),
        benchmarks.JOB: (benchmarks.KIND, "benchmark_id"),
        weight_sets.JOB: (weight_sets.KIND, "weight_set_id"),
    }
    if job.kind not in kinds:
        return
    kind, name = kinds[job.kind]
    with services.db.begin(job.scope) as tx:
        record = tx.find(kind, job.payload[name])
        if record is not None and record.body["status"] not in ("completed", "failed"):
            evaluations.end(tx, record, {"status": "failed", "error_message": message[:2_000]})
