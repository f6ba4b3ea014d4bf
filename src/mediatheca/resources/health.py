"""Health and metrics: what a load balancer, an operator and Prometheus ask. No key needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from mediatheca import __version__
from mediatheca.api.deps import answer
from mediatheca.flows.services import Services
from mediatheca.kernel.errors import MediathecaError
from mediatheca.telemetry import JOBS, metrics

router = APIRouter(tags=["health"])


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


@router.get("/health", operation_id="healthcheck", response_model=None)
@router.get("/health/deep", operation_id="healthcheck_deep", response_model=None)
def health(request: Request) -> Response:
    services: Services = request.app.state.services
    backends = examine(services)
    well = all(entry["status"] == "OK" for entry in backends.values())
    body = {"status": "OK" if well else "ERROR", "version": __version__, "backends": backends}
    body |= {name: entry["status"] for name, entry in backends.items()}
    return answer(body, 200 if well else 503)


@router.get("/health/liveness", operation_id="liveness", response_model=None)
async def liveness() -> Response:
    return answer({"status": "OK"})


metrics_router = APIRouter(tags=["health"])


@metrics_router.get("/metrics", operation_id="metrics", include_in_schema=False, response_model=None)
def prometheus(request: Request) -> Response:
    for status, count in request.app.state.services.queue.depth().items():
        JOBS.labels(status).set(count)
    body, media_type = metrics()
    return Response(body, media_type=media_type)
