"""The jobs of triggers, for the composition root. Those that begin and follow runs are short, and may be handled by
several pools; a canary waits for its retriever."""

from __future__ import annotations

from mediatheca.flows.services import Services
from mediatheca.flows.triggers.actions import ACT
from mediatheca.flows.triggers.canary import run_canary
from mediatheca.flows.triggers.runs import WATCH, fire_trigger, watch_run
from mediatheca.flows.triggers.state import FIRE
from mediatheca.jobs.worker import Handler


def trigger_jobs(services: Services) -> dict[str, Handler]:
    """Kind of job → handler, of those that are quick."""
    return {FIRE: lambda run: fire_trigger(services, run), WATCH: lambda run: watch_run(services, run)}


def canary_jobs(services: Services) -> dict[str, Handler]:
    """Those that wait."""
    return {ACT: lambda run: run_canary(services, run)}
