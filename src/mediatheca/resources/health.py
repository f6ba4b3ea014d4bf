"""Health and metrics: what a load balancer, an operator and Prometheus ask. No key needed.

Everybody is told which backend works. What is wrong with one, how far the indexes are behind and how many jobs there
are is about all tenants' work: that is told to the operator only, an admin key of the organization that was made first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request, Response

from mediatheca import __version__
from mediatheca.api.deps import answer
from mediatheca.flows.services import Services
from mediatheca.kernel import clock
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.scope import Actor
from mediatheca.stores.db.keys import first_organization
from mediatheca.telemetry import DELIVERIES, JOBS, metrics

router = APIRouter(tags=["health"])
FRESH_S = 1.0
BEAT_S = 60.0
"""A scheduler silent for longer has stopped; it ticks every second."""


def checks(services: Services) -> dict[str, Callable[[], None]]:
    """Every backend by name; a check raises when it is not well."""
    return {
        "database": services.db.check,
        "documents": services.documents.check,
        "index": services.indexer.index.check,
        "blobs": services.blobs.check,
    }


def examine(services: Services) -> dict[str, Any]:
    """The state of each backend with the time its check took, in milliseconds."""
    found: dict[str, Any] = {}
    for name, check in checks(services).items():
        started = time.perf_counter()
        try:
            check()
            entry: dict[str, Any] = {"status": "OK"}
        except MediathecaError as error:
            entry = {"status": "ERROR", "error": error.message}
        found[name] = {**entry, "latency_ms": round((time.perf_counter() - started) * 1e3, 2)}
    return found


class Examination:
    """The last examination of a server: a check writes to every backend, and anybody may ask."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lock = threading.Lock()
        self._at = 0.0
        self._found: dict[str, Any] = {}

    def fresh(self) -> dict[str, Any]:
        """What it found, at most a second ago."""
        with self._lock:
            if not self._found or time.monotonic() - self._at > FRESH_S:
                self._found = examine(self._services)
                self._at = time.monotonic()
            return self._found


@router.get("/health", operation_id="healthcheck", response_model=None)
@router.get("/health/deep", operation_id="healthcheck_deep", response_model=None)
def health(request: Request) -> Response:
    """Every backend; 503 when one is not well. What is wrong is told to the operator only."""
    services: Services = request.app.state.services
    found = request.app.state.examination.fresh()
    well = all(entry["status"] == "OK" for entry in found.values())
    body: dict[str, Any] = {"status": "OK" if well else "DEGRADED", "version": __version__}
    body |= {name: entry["status"] for name, entry in found.items()}
    body["data"] = _flags({name: entry["status"] == "OK" for name, entry in found.items()}, services)
    if _is_operator(request):
        body |= {"backends": found, "index_lag": services.indexer.lag(), "jobs": services.queue.depth()}
        body["recall"] = services.recall.report()
    return answer(body, 200 if well else 503)


def _flags(well: dict[str, bool], services: Services) -> dict[str, bool]:
    """The same under the names clients know. Queue and caches are the database's and the process's own."""
    flags = {"metadata": well["database"], "task_queue": well["database"], "object_storage": well["blobs"]}
    flags |= {"vector_store": well["index"] and well["documents"], "cache": True}
    return {**flags, "inference": bool(services.extractors)}


def _is_operator(request: Request) -> bool:
    """Whether the key is an admin's of the organization that the first start made."""
    try:
        actor: Actor = request.app.state.auth.actor(request.headers.get("authorization"))
        return "admin" in actor.permissions and actor.organization_id == first_organization(
            request.app.state.services.db
        )
    except MediathecaError:
        return False


@router.get("/health/liveness", operation_id="liveness", response_model=None)
async def liveness() -> Response:
    return answer({"status": "OK"})


@router.get("/health/beat", operation_id="scheduler_beat", response_model=None)
async def beat(request: Request) -> Response:
    """Whether the scheduler of this process still turns; 503 when it has been silent for too long."""
    age = time.monotonic() - request.app.state.scheduler.last_beat
    running = age < BEAT_S
    last = (clock.now() - timedelta(seconds=age)).isoformat()
    return answer(
        {"beat_running": running, "age_seconds": round(age, 3), "last_heartbeat": last}, 200 if running else 503
    )


metrics_router = APIRouter(tags=["health"])


@metrics_router.get("/metrics", operation_id="metrics", include_in_schema=False, response_model=None)
def prometheus(request: Request) -> Response:
    """Requests and the process for everybody; with the operator's key also jobs, index lag, documents, failures."""
    operator = _is_operator(request)
    if operator:
        JOBS.clear()
        for status, count in request.app.state.services.queue.depth().items():
            JOBS.labels(status).set(count)
        DELIVERIES.set(request.app.state.services.deliverer.waiting())
    body, media_type = metrics(work=operator)
    return Response(body, media_type=media_type)
