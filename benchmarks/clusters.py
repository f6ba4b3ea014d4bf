"""Clusters: what computing 100,000 vectors takes in time and memory, and what searches notice of it.

First the computing process alone, over planted groups with a tenth of noise; then a run beside clients that search.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import orjson

from benchmarks import _load
from benchmarks._data import texts
from benchmarks._library import fill, rows
from benchmarks._report import Report, percentile
from benchmarks._server import Api, Server
from benchmarks.plugins.trivial import EXTRACTOR, hash_text
from mediatheca.jobs.compute import compute, default_threads
from mediatheca.kernel.cluster_metrics import adjusted_rand
from mediatheca.kernel.clustering import Labels, Matrix, unit_rows

VECTORS = int(os.environ.get("BENCHMARK_VECTORS", "100000"))
SERVED = int(os.environ.get("BENCHMARK_DOCUMENTS", "100000"))
DIMENSIONS = 384
GROUPS = 60
NOISE = 0.1
MEMORY_MB = 4_096
CLIENTS = 4
ASKED = 400
METHODS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], str]] = {
    "kmeans": ({"n_clusters": GROUPS}, [], "<= 60"),
    "hdbscan": ({"min_cluster_size": 50, "min_samples": 10}, [{"method": "pca", "n_components": 50}], "<= 150"),
}
"""Algorithm → parameters, steps before, and the bound in seconds."""


def planted(count: int, seed: int = 0) -> tuple[Matrix, Labels]:
    """Vectors around `GROUPS` directions of different spread, a tenth anywhere (-1)."""
    generator = np.random.default_rng(seed)
    centres = unit_rows(generator.normal(size=(GROUPS, DIMENSIONS)).astype(np.float32))
    truth = generator.integers(0, GROUPS, count).astype(np.int32)
    spread = generator.uniform(0.4, 1.2, GROUPS).astype(np.float32)[truth][:, None]
    found = centres[truth] + spread * generator.normal(size=(count, DIMENSIONS)).astype(np.float32) / DIMENSIONS**0.5
    noise = generator.random(count) < NOISE
    found[noise] = generator.normal(size=(int(noise.sum()), DIMENSIONS))
    truth[noise] = -1
    return unit_rows(found), truth


def run() -> Report:
    report = Report("clusters")
    computing(report)
    beside(report)
    return report


def computing(report: Report) -> None:
    """The child process: algorithm, figures and layout."""
    vectors, truth = planted(VECTORS)
    for name, (params, steps, bound) in METHODS.items():
        options = {"clusterer": name, "params": params, "steps": steps, "vis_components": 2}
        began = time.perf_counter()
        result = compute(
            "cluster", {"vectors_0": vectors}, options, memory_mb=MEMORY_MB, threads=default_threads(),
            stop=lambda: None, deadline_s=600,
        )  # fmt: skip
        taken = time.perf_counter() - began
        report.add(f"{name}, {VECTORS:,} x {DIMENSIONS}", taken, "s", bound)
        report.add(f"{name}: memory of the computing process", result.peak_mb, "MB", f"<= {MEMORY_MB}")
        own = truth >= 0
        agreement = adjusted_rand(truth[own], result.arrays["labels"][own])
        report.add(f"{name}: agreement with the planted groups", agreement, "", ">= 0.95")


def beside(report: Report) -> None:
    """p95 of searches while a run goes on, against the same searches alone."""
    bodies = [" ".join(text.split()[: 10 + row % 31]) for row, text in enumerate(texts(SERVED, words=40, seed=40))]
    asked = [orjson.dumps({"inputs": {"query": text}}) for text in texts(ASKED, words=3, seed=41)]
    with Server() as server:
        vectors = np.stack([hash_text(body) for body in bodies])
        library = fill(server, rows(bodies), vectors, EXTRACTOR, input_mappings={"text": "body"})
        search = {"feature_uri": library.feature_uri, "query": "{{INPUT.query}}", "top_k": 100}
        stages = [{"stage_id": "feature_search", "parameters": {"searches": [search]}}]
        path = library.retriever("search", stages, {"query": "string"}, cache_config={"enabled": False})
        _load.measure(server.url, path, asked[:50], clients=CLIENTS, requests=100)
        idle = _load.measure(server.url, path, asked, clients=CLIENTS, requests=ASKED)
        report.latencies(f"searches, {CLIENTS} clients, nothing else", idle.latencies_ms)
        body = {
            "collection_ids": [library.collection_id], "enrich_source_collection": False,
            "vector_config": {"clustering_method": "kmeans", "algorithm_params": {"n_clusters": GROUPS}},
        }  # fmt: skip
        cluster = library.api.post("/v1/clusters", body)["cluster_id"]
        began = time.perf_counter()
        run_id = library.api.post(f"/v1/clusters/{cluster}/execute", {})["additional_data"]["run_id"]
        clients = _load.start(server.url, path, asked, clients=CLIENTS)
        ended = _wait(library.api, f"/v1/clusters/{cluster}/executions/{run_id}")
        taken = time.perf_counter() - began
        clients.stop()
        busy = clients.result()
        report.latencies(f"searches, {CLIENTS} clients, while {SERVED:,} documents are clustered", busy.latencies_ms)
        ratio = percentile(busy.latencies_ms, 0.95) / max(percentile(idle.latencies_ms, 0.95), 1e-3)
        report.add("p95 while clustering, of p95 idle", ratio, "x", "<= 2")
        report.add("errors of searches", idle.errors + busy.errors, "", "<= 0")
        report.add(f"run over {SERVED:,} documents, output collection and all", taken, "s")
        report.add("documents in a cluster", ended["vectors_clustered"], "")


def _wait(api: Api, path: str) -> dict[str, Any]:
    while True:
        found: dict[str, Any] = api.get(path)
        if found["status"] in ("completed", "failed", "canceled"):
            if found["status"] != "completed":
                raise RuntimeError(f"the run {found['status']}: {found['error_message']}")
            return found
        time.sleep(0.2)
