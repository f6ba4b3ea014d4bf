"""One peer of the hybrid search in a process and an environment of its own: loads the documents, then answers rounds.

`python _retrieval_peer.py ENGINE FOLDER`; FOLDER holds `data.npz` and `texts.json`. Every line read from standard input
is `no filter|20` or `filter 10 %|20`: a filter and how many queries; every answer is a line of JSON. Imports nothing of
ours: it runs where only the peers are installed.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 1_000
ARM = 100
"""Candidates of each of the two searches; ten documents come of them."""
K1, B = 1.2, 0.75
Search = Callable[[str, list[float], str], list[int]]


def haystack(folder: Path, data: Any, texts: list[str]) -> Search:
    """A pipeline: embedding retriever on a Qdrant store (local mode), BM25 retriever in memory, joined by rank."""
    os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
    from haystack import Document, Pipeline  # type: ignore[import-not-found]
    from haystack.components.joiners import DocumentJoiner  # type: ignore[import-not-found]
    from haystack.components.retrievers.in_memory import InMemoryBM25Retriever  # type: ignore[import-not-found]
    from haystack.document_stores.in_memory import InMemoryDocumentStore  # type: ignore[import-not-found]
    from haystack_integrations.components.retrievers.qdrant import (  # type: ignore[import-not-found]
        QdrantEmbeddingRetriever,
    )
    from haystack_integrations.document_stores.qdrant import QdrantDocumentStore  # type: ignore[import-not-found]

    size = data["vectors"].shape[1]
    dense = QdrantDocumentStore(path=str(folder), embedding_dim=size, similarity="cosine", progress_bar=False)
    words = InMemoryDocumentStore(bm25_algorithm="BM25Okapi", bm25_parameters={"k1": K1, "b": B})
    for start in range(0, len(texts), BATCH):
        rows = range(start, min(start + BATCH, len(texts)))
        meta = [{"number": row, "price": float(data["prices"][row])} for row in rows]
        pairs = list(zip(rows, meta, strict=True))
        dense.write_documents(
            [Document(id=str(r), content=texts[r], meta=m, embedding=data["vectors"][r].tolist()) for r, m in pairs]
        )
        words.write_documents([Document(id=str(r), content=texts[r], meta=m) for r, m in pairs])
    pipeline = Pipeline()
    pipeline.add_component("dense", QdrantEmbeddingRetriever(dense, top_k=ARM))
    pipeline.add_component("words", InMemoryBM25Retriever(words, top_k=ARM))
    pipeline.add_component("joined", DocumentJoiner(join_mode="reciprocal_rank_fusion", top_k=10))
    pipeline.connect("dense", "joined")
    pipeline.connect("words", "joined")
    cheap = {"field": "meta.price", "operator": "<", "value": 10}

    def search(text: str, vector: list[float], name: str) -> list[int]:
        filters = None if name == "no filter" else cheap
        asked = {
            "dense": {"query_embedding": vector, "filters": filters},
            "words": {"query": text, "filters": filters},
        }
        return [document.meta["number"] for document in pipeline.run(asked)["joined"]["documents"]]

    return search


def qdrant_local(folder: Path, data: Any, texts: list[str]) -> Search:
    """One query with two prefetches, fused by rank; BM25 as sparse vectors, their word weights made here."""
    from qdrant_client import QdrantClient, models

    known: dict[str, int] = {}
    counts = [Counter(known.setdefault(word, len(known)) for word in text.split()) for text in texts]
    average = sum(sum(count.values()) for count in counts) / len(counts)
    client = QdrantClient(path=str(folder))
    client.create_collection(
        "texts",
        {"dense": models.VectorParams(size=data["vectors"].shape[1], distance=models.Distance.COSINE)},
        sparse_vectors_config={"words": models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    for start in range(0, len(texts), BATCH):
        points = []
        for row in range(start, min(start + BATCH, len(texts))):
            norm = K1 * (1 - B + B * sum(counts[row].values()) / average)
            weights = [n * (K1 + 1) / (n + norm) for n in counts[row].values()]
            sparse = models.SparseVector(indices=list(counts[row]), values=weights)
            payload = {"number": row, "price": float(data["prices"][row]), "body": texts[row]}
            vectors = {"dense": data["vectors"][row].tolist(), "words": sparse}
            points.append(models.PointStruct(id=row, vector=vectors, payload=payload))
        client.upsert("texts", points)
    cheap = models.Filter(must=[models.FieldCondition(key="price", range=models.Range(lt=10))])

    def search(text: str, vector: list[float], name: str) -> list[int]:
        keep = None if name == "no filter" else cheap
        words = [known[word] for word in dict.fromkeys(text.split()) if word in known]
        sparse = models.SparseVector(indices=words, values=[1.0] * len(words))
        found = client.query_points(
            "texts",
            prefetch=[
                models.Prefetch(query=vector, using="dense", limit=ARM, filter=keep),
                models.Prefetch(query=sparse, using="words", limit=ARM, filter=keep),
            ],
            query=models.RrfQuery(rrf=models.Rrf(k=60)),
            limit=10,
            with_payload=True,
        )
        return [(point.payload or {})["number"] for point in found.points]

    return search


def txtai(folder: Path, data: Any, texts: list[str]) -> Search:
    """Its hybrid index (Faiss + its BM25), fused by rank; vectors are looked up, not computed; filters in its SQL."""
    from txtai import Embeddings  # type: ignore[import-not-found]

    queries = json.loads((folder.parent / "texts.json").read_text())["queries"]
    known = dict(zip(texts, data["vectors"], strict=True)) | dict(zip(queries, data["queries"], strict=True))
    scoring = {"method": "bm25", "terms": True, "normalize": False, "k1": K1, "b": B}
    embeddings = Embeddings(
        method="external",
        transform=lambda wanted: np.stack([known[text] for text in wanted]),
        content=True,
        backend="faiss",
        scoring=scoring,
    )
    embeddings.index((row, {"text": text, "price": float(data["prices"][row])}, None) for row, text in enumerate(texts))

    def search(text: str, vector: list[float], name: str) -> list[int]:
        keep = "" if name == "no filter" else " and price < 10"
        found = embeddings.search(
            f"select id from txtai where similar(:text, {ARM}){keep}", 10, parameters={"text": text}
        )
        return [int(row["id"]) for row in found]

    return search


def _rss_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def main(engine: str, folder: Path) -> None:
    """Load, say so, answer rounds until standard input ends."""
    warnings.simplefilter("ignore")
    data, held = dict(np.load(folder / "data.npz")), json.loads((folder / "texts.json").read_text())
    began = time.perf_counter()
    loading = {"haystack": haystack, "qdrant_local": qdrant_local, "txtai": txtai}[engine]
    search = loading(folder / engine, data, held["documents"])
    print(json.dumps({"loaded_s": time.perf_counter() - began}), flush=True)
    del data["vectors"]
    vectors = data["queries"].tolist()
    for line in sys.stdin:
        name, count = line.strip().split("|")
        latencies, answers = [], []
        for text, vector in list(zip(held["queries"], vectors, strict=True))[: int(count)]:
            began = time.perf_counter()
            answers.append(search(text, vector, name))
            latencies.append((time.perf_counter() - began) * 1e3)
        print(json.dumps({"latencies_ms": latencies, "answers": answers, "rss_mb": _rss_mb()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
