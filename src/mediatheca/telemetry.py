"""Logs (structlog), metrics (Prometheus) and, when an exporter is configured, spans (OpenTelemetry)."""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)

REQUESTS = Histogram("mediatheca_request_seconds", "HTTP requests.", ["method", "route", "status"], buckets=_BUCKETS)
WORK = CollectorRegistry()
"""What tenants' work amounts to: for the operator's eyes."""
JOBS = Gauge("mediatheca_jobs", "Jobs by status.", ["status"], registry=WORK)
DOCUMENTS = Counter("mediatheca_documents_written_total", "Documents committed to the document store.", registry=WORK)
INDEX_LAG = Gauge("mediatheca_index_lag", "Commits the index is behind the documents, all collections.", registry=WORK)
RECALL = Gauge("mediatheca_recall", "Share of the exact answer that sampled searches found.", registry=WORK)
CACHED_RESULTS = Counter(
    "mediatheca_cached_results_total", "Look-ups of costly extractor results.", ["outcome"], registry=WORK
)
FAILURES = Counter("mediatheca_object_failures_total", "Objects that failed in an extractor.", ["phase"], registry=WORK)

_tracer: Any = None


def observe_request(method: str, route: str, status: int, seconds: float) -> None:
    REQUESTS.labels(method, route, str(status)).observe(seconds)


def metrics(*, work: bool) -> tuple[bytes, str]:
    """The exposition, with what tenants' work amounts to or without, and its content type."""
    return generate_latest() + (generate_latest(WORK) if work else b""), CONTENT_TYPE_LATEST


def configure_logs(level: str, *, json: bool) -> None:
    """Structured logs on standard error."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def configure_spans(endpoint: str) -> None:
    """Send spans to an OTLP collector over HTTP. Needs the extra `telemetry`."""
    global _tracer
    if not endpoint:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "mediatheca"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces")))
    _tracer = provider.get_tracer("mediatheca")


def span(name: str, /, **attributes: Any) -> AbstractContextManager[Any]:
    """A span, when spans are configured; nothing otherwise."""
    return _NO_SPAN if _tracer is None else _tracer.start_as_current_span(name, attributes=attributes)


_NO_SPAN = nullcontext()
