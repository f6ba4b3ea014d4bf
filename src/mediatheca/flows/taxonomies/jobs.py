"""The jobs of taxonomies, for the composition root."""

from __future__ import annotations

from mediatheca.flows.services import Services
from mediatheca.flows.taxonomies import apply, infer
from mediatheca.jobs.queue import Job
from mediatheca.jobs.worker import Handler


def taxonomy_jobs(services: Services) -> dict[str, Handler]:
    """Kind of job → handler."""
    return {
        apply.JOB: lambda run: apply.run_apply(services, run),
        infer.JOB: lambda run: infer.run_inference(services, run),
    }


def taxonomy_died(services: Services, job: Job, message: str) -> None:
    """What a job that failed for good leaves behind says so."""
    if job.kind == apply.JOB:
        apply.apply_died(services, job, message)
    elif job.kind == infer.JOB:
        infer.inference_died(services, job, message)
