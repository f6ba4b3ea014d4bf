"""Spans as a collector gets them: a small real server that speaks OTLP over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mediatheca import telemetry
from mediatheca.settings import Settings
from server import Server, new_tenant

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Keeps every span it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:
                data = handler.rfile.read(int(handler.headers["content-length"]))
                if handler.headers.get("content-encoding") == "gzip":
                    import gzip

                    data = gzip.decompress(data)
                sent = ExportTraceServiceRequest.FromString(data)
                self.spans += [s for r in sent.resource_spans for scope in r.scope_spans for s in scope.spans]
                handler.send_response(200)
                handler.end_headers()

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


def attributes(span: Any) -> dict[str, Any]:
    found = {}
    for entry in span.attributes:
        kind = entry.value.WhichOneof("value")
        found[entry.key] = getattr(entry.value, kind)
    return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    telemetry.configure_spans(made.url)
    yield made
    telemetry.close_spans()
    made.server.shutdown()
    made.server.server_close()


def executed(folder: Path, **headers: str) -> httpx.Response:
    server = Server(Settings(data_dir=folder, workers=0, log_level="error"))
    try:
        with new_tenant(server).client() as client:
            made = client.post("/v1/namespaces", json={"namespace_name": "traced"}).json()
            client.headers["X-Namespace"] = made["namespace_id"]
            schema = {"properties": {"title": {"type": "text"}}}
            bucket = client.post("/v1/buckets", json={"bucket_name": "things", "bucket_schema": schema}).json()
            source = {"bucket_ids": [bucket["bucket_id"]]}
            extractor = {"feature_extractor_name": "passthrough_extractor", "field_passthrough": ["title"]}
            declared = {"collection_name": "things", "source": source, "feature_extractor": extractor}
            collection = client.post("/v1/collections", json=declared).json()["collection_id"]
            written = client.post(f"/v1/collections/{collection}/documents", json={"title": "red fox"})
            assert written.status_code == 200, written.text
            stages = [
                {"stage_id": "feature_search", "parameters": {"searches": [{"lexical": True, "query": "hunter2 fox"}]}},
                {"stage_id": "limit", "parameters": {"limit": 1}},
            ]
            body = {"collection_identifiers": [collection], "stages": stages, "inputs": {"secret": "hunter2"}}
            return client.post("/v1/retrievers/execute", json=body, headers=headers)
    finally:
        server.close()


def test_an_execution_is_a_tree_of_spans_below_the_callers(collector: Collector, tmp_path: Path) -> None:
    answer = executed(tmp_path, traceparent=f"00-{TRACE}-{PARENT}-01")
    assert answer.status_code == 200, answer.text
    telemetry.close_spans()
    (execution,) = collector.named("retriever.execution")
    assert execution.trace_id.hex() == TRACE
    (request,) = [span for span in collector.named("request") if span.span_id == execution.parent_span_id]
    assert request.parent_span_id.hex() == PARENT
    stages = collector.named("retriever.stage")
    assert {span.parent_span_id for span in stages} == {execution.span_id}
    known = {attributes(span)["stage.id"]: attributes(span) for span in stages}
    assert set(known) == {"feature_search", "limit"}
    assert (known["limit"]["docs.in"], known["limit"]["docs.out"]) == (1, 1)
    (search,) = collector.named("search")
    assert attributes(search)["arm"] == "lexical"
    assert attributes(search)["docs.out"] == 1
    assert "hunter2" not in str(collector.spans)


def test_a_broken_traceparent_begins_a_trace_of_its_own(collector: Collector, tmp_path: Path) -> None:
    assert executed(tmp_path, traceparent="nonsense").status_code == 200
    telemetry.close_spans()
    (execution,) = collector.named("retriever.execution")
    assert execution.trace_id.hex() != TRACE


def test_an_error_is_told_by_its_type_and_not_by_its_words(collector: Collector) -> None:
    with pytest.raises(ValueError, match="hunter2"), telemetry.span("work"):
        raise ValueError("hunter2")
    telemetry.close_spans()
    (span,) = collector.named("work")
    assert attributes(span) == {"error.type": "ValueError"}
    assert "hunter2" not in str(span)


def test_without_a_collector_a_span_costs_nothing_and_takes_everything() -> None:
    with telemetry.span("work", a=1) as span:
        span.set_attributes({"docs.out": 5})
    with telemetry.request_span("request", {b"traceparent": b"nonsense"}) as span:
        span.set_attributes({"docs.out": 5})


def test_a_timing_header_holds_tokens_only() -> None:
    assert telemetry.server_timing([("total", 1.234), ("my stage, ü;x", 5)]) == "total;dur=1.23, my_stage____x;dur=5.00"
