"""Logs (structlog), metrics (Prometheus) and, when an exporter is configured, spans (OpenTelemetry)."""

from __future__ import annotations

import logging
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)

REQUESTS = Histogram("mediatheca_request_seconds", "HTTP requests.", ["method", "route", "status"], buckets=_BUCKETS)
WORK = CollectorRegistry()
"""What tenants' work amounts to: for the operator's eyes."""
JOBS = Gauge("mediatheca_jobs", "Jobs by status.", ["status"], registry=WORK)
DELIVERIES = Gauge("mediatheca_deliveries_waiting", "Messages that are still to be delivered.", registry=WORK)
ATTEMPTS = Counter(
    "mediatheca_delivery_attempts_total",
    "Attempts to deliver, by what came of it.",
    ["channel", "status"],
    registry=WORK,
)
DOCUMENTS = Counter("mediatheca_documents_written_total", "Documents committed to the document store.", registry=WORK)
INDEX_LAG = Gauge("mediatheca_index_lag", "Commits the index is behind the documents, all collections.", registry=WORK)
RECALL = Gauge("mediatheca_recall", "Share of the exact answer that sampled searches found.", registry=WORK)
RECALL.set(math.nan)  # until something was sampled: 0 would be an alarm
COLLECTION_RECALL = Gauge(
    "mediatheca_collection_recall",
    "The same for one collection, of those searched last.",
    ["collection"],
    registry=WORK,
)
CACHED_RESULTS = Counter(
    "mediatheca_cached_results_total", "Look-ups of costly extractor results.", ["outcome"], registry=WORK
)
EXTRACTION_SECONDS = Counter(
    "mediatheca_extraction_seconds_total",
    "Time that extraction processes spent on items: decoding, in models, and on all else.",
    ["part"],
    registry=WORK,
)
FAILURES = Counter("mediatheca_object_failures_total", "Objects that failed in an extractor.", ["phase"], registry=WORK)

_tracer: Any = None
_flush: Callable[[], None] | None = None


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
    global _tracer, _flush
    if not endpoint:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "mediatheca"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces")))
    _tracer, _flush = provider.get_tracer("mediatheca"), provider.shutdown


def close_spans() -> None:
    """Send what is left and stop; further spans are none."""
    global _tracer, _flush
    flush, _tracer, _flush = _flush, None, None
    if flush is not None:
        flush()


class Span(Protocol):
    """What a piece of work tells of itself while it runs."""

    def set_attributes(self, attributes: Mapping[str, Any]) -> None: ...


class _Nothing:
    """The span where none are configured."""

    __slots__ = ()

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Nobody hears."""


def span(name: str, /, **attributes: Any) -> AbstractContextManager[Span]:
    """A span, when spans are configured; nothing otherwise. An error that leaves it is recorded by its type alone:
    messages may hold what a caller sent."""
    return _NO_SPAN if _tracer is None else _traced(name, attributes, None)


def request_span(name: str, /, headers: Mapping[bytes, bytes], **attributes: Any) -> AbstractContextManager[Span]:
    """The span of a request: a child of the caller's, where the headers (W3C `traceparent`) name one."""
    if _tracer is None:
        return _NO_SPAN
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    names = ("traceparent", "tracestate")
    carrier = {name: headers[name.encode()].decode("latin-1") for name in names if name.encode() in headers}
    return _traced(name, attributes, TraceContextTextMapPropagator().extract(carrier))


@contextmanager
def _traced(name: str, attributes: Mapping[str, Any], parent: Any) -> Iterator[Span]:
    with _tracer.start_as_current_span(
        name, context=parent, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as made:
        try:
            yield made
        except BaseException as error:
            made.set_attributes({"error.type": type(error).__name__})
            raise


_NO_SPAN: AbstractContextManager[Span] = nullcontext(_Nothing())


def server_timing(parts: Iterable[tuple[str, float]]) -> str:
    """A `Server-Timing` header of (name, milliseconds): characters that no token may have become `_`."""
    return ", ".join(f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:60]};dur={taken:.2f}" for name, taken in parts)
