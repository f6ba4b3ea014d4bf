"""One-stage searches over 6,000 documents through HTTP, beside the same index called in process."""

from __future__ import annotations

import numpy as np
import orjson

from benchmarks import _load
from benchmarks._data import recall, texts
from benchmarks._inside import ask
from benchmarks._report import Report, percentile
from benchmarks._server import Server
from benchmarks._world import IMAGES, TEXTS, World, bodies, ingest, prepare, vectors
from benchmarks.plugins.trivial import hash_text

RUNS = 5
QUERIES = 1_000


def run() -> Report:
    """Every run: a fresh server with 6,000 documents; one client, 32 clients, 32 clients beside an ingest."""
    report = Report("search")
    queries = texts(QUERIES, words=6, seed=21)  # all different: the server's query cache does not help
    requests = [orjson.dumps({"inputs": {"query": text}}) for text in queries]
    asked = np.stack([hash_text(text) for text in queries])
    for number in range(RUNS):
        with Server() as server:
            world = prepare(server)
            ingest(world, bodies())
            path = world.api.retriever("by-text", world.collection, "text")
            _load.measure(server.url, path, requests[:50], clients=1, requests=50)
            _alone(report, server, path, requests, asked)
            _crowd(report, server, path, requests)
            server.stop()
            inside = ask(server.data, world.collection_id, world.index_name, asked)
            report.latencies("index called in process", inside.latencies_ms)
            above = report.figures["1 client p50"].runs[-1] - percentile(inside.latencies_ms, 0.5)
            report.add("1 client p50 above the index in process", above, "ms", "<= 1.5")
            server.start()
            _beside_ingest(report, server, world, path, requests, number)
    return report


def _alone(report: Report, server: Server, path: str, requests: list[bytes], asked: np.ndarray) -> None:
    load = _load.measure(server.url, path, requests, clients=1, requests=QUERIES, keep=True)
    report.latencies("1 client", load.latencies_ms, p50="<= 3")
    found = [rows for _, rows in load.answers]
    report.add("recall@10 against an exact scan", recall(found, vectors(), asked, None), "", ">= 0.99")


def _crowd(report: Report, server: Server, path: str, requests: list[bytes]) -> None:
    load = _load.measure(server.url, path, requests, clients=32, requests=4 * QUERIES)
    report.latencies("32 clients, nothing else", load.latencies_ms, p95="<= 100")
    report.add("32 clients, requests a second", len(load.latencies_ms) / load.wall_s, "/s")
    report.add("32 clients, errors", load.errors, "", "<= 0")


def _beside_ingest(report: Report, server: Server, world: World, path: str, requests: list[bytes], number: int) -> None:
    """6,000 more documents into the collection that is searched."""
    again = prepare_again(server, world)
    clients = _load.start(server.url, path, requests, clients=32)
    done = ingest(again, bodies(TEXTS + IMAGES, seed=11))
    clients.stop()
    load = clients.result()
    report.latencies("32 clients beside an ingest", load.latencies_ms, p95="<= 200")
    report.add("32 clients beside an ingest, errors", load.errors, "", "<= 0")
    report.add("the ingest beside 32 clients, documents a second", done.per_second, "/s")


def prepare_again(server: Server, world: World) -> World:
    """The same collection after the server was restarted."""
    from benchmarks._server import Api

    return World(Api(server), world.bucket, world.collection)
