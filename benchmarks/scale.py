"""100,000 documents × 384 dimensions: filtered and unfiltered searches, restart, and the index built from nothing."""

from __future__ import annotations

import shutil
import time
from typing import Any

from benchmarks import _load
from benchmarks._catalogue import (
    COUNT,
    FILTERS,
    QUERIES,
    Catalogue,
    allowed,
    fill,
    generation,
    requests,
    wait_for_graph,
)
from benchmarks._data import Clustered, clustered, recall
from benchmarks._report import Report
from benchmarks._server import Api, Server

ROUNDS = 5


def run() -> Report:
    """One load (it takes minutes), then interleaved rounds of searches and restarts, then the index thrown away."""
    report = Report("scale")
    data = clustered(COUNT, QUERIES)
    with Server() as server:
        made = fill(server, data)
        report.add("100,000 documents by documents/upsert, vectors in JSON", COUNT / made.upsert_s, "/s")
        report.add("of that to the search graph in place", made.build_s, "s", note="built aside, after 2 s of quiet")
        for _ in range(ROUNDS):
            _searches(report, server, made, data)
            _restart(report, server, made, data)
        report.add("disk: documents", server.disk_mb("documents"), "MB")
        report.add("disk: index", server.disk_mb("index"), "MB")
        report.add("disk: everything", server.disk_mb(), "MB")
        _from_nothing(report, server, made, data)
    return report


def _searches(report: Report, server: Server, made: Catalogue, data: Clustered) -> None:
    for name in FILTERS:
        load = _load.measure(server.url, made.path, requests(data, name), clients=1, requests=QUERIES, keep=True)
        if load.errors:
            raise RuntimeError(f"{load.errors} searches failed")
        report.latencies(f"{name}, 1 client", load.latencies_ms)
        found = [rows for _, rows in load.answers]
        right = recall(found, data.vectors, data.queries, allowed(data, name))
        report.add(f"{name}, recall@10", right, "", ">= 0.98")
    report.add("memory: resident", server.memory_mb(), "MB")
    report.add("memory: its own (anonymous)", server.memory_mb("RssAnon"), "MB")


def _restart(report: Report, server: Server, made: Catalogue, data: Clustered) -> None:
    server.stop()
    server.start()
    report.add("clean restart to healthy", server.start_s, "s", "<= 3")
    began = time.perf_counter()
    answer = _one(server, made, data)
    while answer["degraded"]:
        time.sleep(0.02)
        answer = _one(server, made, data)
    total = server.start_s + time.perf_counter() - began
    report.add("clean restart to an answer from the index", total, "s", "<= 3")


def _one(server: Server, made: Catalogue, data: Clustered) -> dict[str, Any]:
    return Api(server).post(made.path, requests(data, "no filter")[0])


def _from_nothing(report: Report, server: Server, made: Catalogue, data: Clustered) -> None:
    """The index is deleted: until it is back the documents answer, exactly and marked as degraded."""
    server.stop()
    shutil.rmtree(server.data / "index")
    server.start()
    report.add("index deleted: start to healthy", server.start_s, "s")
    began = time.perf_counter()
    api, bodies = Api(server), requests(data, "no filter")
    latencies, answers = [], []
    for body in bodies:
        sent = time.perf_counter()
        answer = api.post(made.path, body)
        if not answer["degraded"]:
            break
        latencies.append((time.perf_counter() - sent) * 1e3)
        answers.append([row["number"] for row in answer["documents"]])
    if answers:
        right = recall(answers, data.vectors, data.queries[: len(answers)], None)
        report.latencies("index deleted: degraded search", latencies)
        report.add("index deleted: recall@10 of degraded answers", right, "", ">= 1", f"{len(answers)} searches")
    while api.post(made.path, bodies[0])["degraded"]:
        time.sleep(0.1)
    report.add("index deleted: until the index answers", time.perf_counter() - began, "s")
    wait_for_graph(server, made.collection_id, generation(server, made.collection_id))
    report.add("index deleted: until the search graph is back", time.perf_counter() - began, "s")
