"""The same hybrid search (vectors + BM25, fused by rank, ten documents) in txtai, haystack and qdrant-client (local).

The peers are libraries in the asking process; ours is a server behind HTTP. All hold the same documents with the same
vectors and are asked the same questions, round by round in turn: 100 candidates by vector, 100 by words, k = 60 of the
fusion where it can be set. Haystack has no lexical search on Qdrant without a model, so its words are looked up in its
own store in memory, joined in its pipeline: what its documentation shows.

Quality is told twice: nDCG@10 for the document that a question was made from (some of its words, its vector with much
noise), and the share of the first ten of an exact hybrid search. txtai wants torch, also where it only compares vectors
that it is given: `BENCHMARK_TORCH` says which (`torch==…+cpu` where there is such a build; else several gigabytes for a
GPU are installed).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from benchmarks import _load
from benchmarks._data import Matrix, clustered, texts
from benchmarks._library import Library, Row, fill, rows
from benchmarks._peers import PeerProcess, environment
from benchmarks._report import OUT, Report
from benchmarks._server import Server
from mediatheca.kernel.fusion import fuse
from mediatheca.kernel.lexical import Bm25
from mediatheca.kernel.metrics import judge, ndcg

COUNT = int(os.environ.get("BENCHMARK_DOCUMENTS", "100000"))
ROUNDS = 3
QUERIES = 200
SLOW = 15
"""Queries a round of engines that scan."""
ARM = 100
NOISE = 1.2
"""Length of the noise on a question's vector; a document's is 1."""
ENGINES = {"haystack": "peers-retrieval", "qdrant_local": "peers-retrieval", "txtai": "peers-txtai"}
"""Engine → the environment that it runs in."""
TORCH = os.environ.get("BENCHMARK_TORCH", "torch")
FILTERS = ("no filter", "filter 10 %")


@dataclass
class Job:
    """Documents, questions, and what is right."""

    held: list[Row]
    vectors: Matrix
    queries: Matrix
    questions: list[str]
    targets: list[int]
    exact: dict[str, list[list[int]]]
    """Filter → the first ten of the exact search, question by question."""


def run() -> Report:
    """Three rounds; in each, every engine answers its questions under both filters before the next begins."""
    report, job = Report("retrieval_peers"), _job()
    pythons = {"peers-retrieval": environment("peers-retrieval"), "peers-txtai": environment("peers-txtai", TORCH)}
    folder = Path(tempfile.mkdtemp(prefix="peers-", dir=OUT))
    prices = np.array([row.price for row in job.held])
    np.savez(folder / "data.npz", vectors=job.vectors, queries=job.queries, prices=prices)
    held = {"documents": [row.body for row in job.held], "queries": job.questions}
    (folder / "texts.json").write_text(json.dumps(held))
    peers: list[PeerProcess] = []
    try:
        with Server() as server:
            vector = {"field": "vector", "name": "vector", "dimensions": job.vectors.shape[1], "distance": "cosine"}
            parameters = {"vector_fields": [vector]}
            made = fill(server, job.held, job.vectors, "passthrough_extractor", parameters=parameters)
            report.add(f"mediatheca, load {COUNT:,} and build the graph", made.load_s, "s")
            path = _retriever(made)
            for engine, place in ENGINES.items():
                peers.append(PeerProcess(pythons[place], "_retrieval_peer.py", engine, folder))
                report.add(f"{engine}, load {COUNT:,}", peers[-1].loaded["loaded_s"], "s")
            for _ in range(ROUNDS):
                _ours(report, server, path, job)
                for peer in peers:
                    _theirs(report, peer, job)
    finally:
        for peer in peers:
            peer.close()
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _job() -> Job:
    """Questions are made from documents that the filter lets through, so that every search can find them."""
    random = np.random.default_rng(50)
    bodies = [" ".join(text.split()[: 10 + row % 31]) for row, text in enumerate(texts(COUNT, words=40, seed=40))]
    held, vectors = rows(bodies), clustered(COUNT, 1).vectors
    cheap = [row.number for row in held if row.price < 10]
    targets = [int(number) for number in random.choice(cheap, QUERIES, replace=False)]
    questions = [" ".join(random.choice(bodies[target].split(), 3, replace=False)) for target in targets]
    noise = random.standard_normal((QUERIES, vectors.shape[1])).astype(np.float32)
    queries = vectors[targets] + NOISE * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    job = Job(held, vectors, queries, questions, targets, {})
    for name in FILTERS:
        job.exact[name] = _exact(job, name)
    return job


def _exact(job: Job, name: str) -> list[list[int]]:
    """For the first `SLOW` questions, every vector and every text compared, fused by rank.

    How rare a word is counts over all documents.
    """
    counted = [Counter(row.body.split()) for row in job.held]
    passes = np.array([name == "no filter" or row.price < 10 for row in job.held])
    scores = np.where(passes, job.queries[:SLOW] @ job.vectors.T, -2.0)
    found = []
    for question, own in zip(job.questions[:SLOW], scores, strict=True):
        ranking: Bm25[int] = Bm25(question.split())
        for number, words in enumerate(counted):
            ranking.add(number, words)
        lexical = [(n, score) for n, score in ranking.scores().items() if passes[n]]
        lexical.sort(key=lambda entry: (-entry[1], entry[0]))
        dense = [(int(n), float(own[n])) for n in np.argsort(-own, kind="stable")[:ARM]]
        found.append([entry.key for entry in fuse("rrf", [dense, lexical[:ARM]], limit=10)])
    return found


def _retriever(made: Library) -> str:
    dense = {"feature_uri": made.feature_uri, "top_k": ARM}
    searches = [
        {**dense, "query": {"input_mode": "vector", "value": "{{INPUT.vector}}"}},
        {**dense, "query": {"input_mode": "text", "value": "{{INPUT.query}}"}, "lexical": True},
    ]
    stage = {"stage_id": "feature_search", "parameters": {"searches": searches, "final_top_k": 10}}
    inputs = {"query": "string", "vector": "array"}
    return made.retriever("hybrid", [stage], inputs, cache_config={"enabled": False})


def _ours(report: Report, server: Server, path: str, job: Job) -> None:
    pairs = list(zip(job.questions, job.queries, strict=True))
    cheap = {"filters": {"AND": [{"field": "price", "operator": "lt", "value": 10}]}}
    for name in FILTERS:
        more = {} if name == "no filter" else cheap
        bodies = [
            orjson.dumps({"inputs": {"query": text, "vector": vector}, **more}, option=orjson.OPT_SERIALIZE_NUMPY)
            for text, vector in pairs
        ]
        load = _load.measure(server.url, path, bodies, clients=1, requests=QUERIES, keep=True)
        if load.errors:
            raise RuntimeError(f"{load.errors} searches failed; see the server's log")
        _add(
            report, f"mediatheca over HTTP, {name}", load.latencies_ms, [found for _, found in load.answers], job, name
        )
    report.add("mediatheca, memory (RSS)", server.memory_mb(), "MB")


def _theirs(report: Report, peer: PeerProcess, job: Job) -> None:
    for name in FILTERS:
        got = peer.ask(f"{name}|{SLOW}")
        _add(report, f"{peer.engine}, {name}", got["latencies_ms"], got["answers"], job, name)
    report.add(f"{peer.engine}, memory (RSS)", got["rss_mb"], "MB")


def _add(report: Report, label: str, latencies: list[float], found: list[list[int]], job: Job, name: str) -> None:
    """Quality over the questions that every engine was asked."""
    report.latencies(label, latencies)
    asked = list(zip(found[:SLOW], job.targets, job.exact[name], strict=False))
    gains = [ndcg(judge([str(n) for n in numbers], {str(target): 1}), 10) for numbers, target, _ in asked]
    report.add(f"{label}, nDCG@10", sum(gains) / len(gains), "")
    shared = sum(len(set(numbers) & set(exact)) for numbers, _, exact in asked)
    report.add(f"{label}, share of the exact ten", shared / sum(len(exact) for *_, exact in asked), "")


if __name__ == "__main__":
    print(run().table())
