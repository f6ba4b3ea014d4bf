"""One peer in a process and an environment of its own: loads the vectors, then answers rounds of queries.

`python _peer.py ENGINE FOLDER`; FOLDER holds `data.npz`. Every line read from standard input names a filter; every
answer is a line of JSON. Imports nothing of ours: it runs where only the peers are installed.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 1_000
Search = Callable[[list[float], str], list[int]]


def chromadb(folder: Path, data: Any) -> Search:
    """Persistent client, HNSW with the same m and construction width as ours, search width as ours."""
    import chromadb as engine  # type: ignore[import-not-found]

    client = engine.PersistentClient(str(folder), engine.Settings(anonymized_telemetry=False))
    hnsw = {"space": "cosine", "max_neighbors": 16, "ef_construction": 100, "ef_search": 400}
    table = client.create_collection("vectors", configuration={"hnsw": hnsw}, embedding_function=None)
    for start in range(0, len(data["vectors"]), BATCH):
        rows = range(start, start + BATCH)
        table.add(
            ids=[str(row) for row in rows],
            embeddings=data["vectors"][start : start + BATCH],
            metadatas=[_payload(data, row) for row in rows],
        )
    where: dict[str, Any] = {
        "no filter": None,
        "filter 1 %": {"category": "c7"},
        "filter 10 %": {"price": {"$lt": 10.0}},
    }

    def search(query: list[float], name: str) -> list[int]:
        found = table.query(query_embeddings=[query], n_results=10, where=where[name], include=["metadatas"])
        return [row["number"] for row in found["metadatas"][0]]

    return search


def lancedb(folder: Path, data: Any) -> Search:
    """A table with its HNSW index and scalar indexes on both filter fields; filtered before the search."""
    import lancedb as engine  # type: ignore[import-not-found]
    import pyarrow as pa

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(data["vectors"].reshape(-1)), data["vectors"].shape[1])
    payloads = [_payload(data, row) for row in range(len(data["vectors"]))]
    columns = {name: [payload[name] for payload in payloads] for name in ("category", "price", "number")}
    table = engine.connect(str(folder)).create_table("vectors", pa.table({"vector": vectors, **columns}))
    table.create_index("cosine", vector_column_name="vector", index_type="IVF_HNSW_SQ", num_partitions=1)
    table.create_scalar_index("category", index_type="BITMAP")
    table.create_scalar_index("price")
    where = {"no filter": None, "filter 1 %": "category = 'c7'", "filter 10 %": "price < 10"}

    def search(query: list[float], name: str) -> list[int]:
        asked = table.search(query).distance_type("cosine").ef(400).limit(10)
        condition = where[name]
        if condition is not None:
            asked = asked.where(condition, prefilter=True)
        return [row["number"] for row in asked.to_list()]

    return search


def qdrant_local(folder: Path, data: Any) -> Search:
    """`QdrantClient(path=…)`: numpy, no graph."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(folder))
    size = data["vectors"].shape[1]
    client.create_collection("vectors", models.VectorParams(size=size, distance=models.Distance.COSINE))
    for start in range(0, len(data["vectors"]), BATCH):
        points = [
            models.PointStruct(id=row, vector=data["vectors"][row].tolist(), payload=_payload(data, row))
            for row in range(start, start + BATCH)
        ]
        client.upsert("vectors", points)
    field = models.FieldCondition
    conditions: dict[str, Any] = {
        "no filter": None,
        "filter 1 %": models.Filter(must=[field(key="category", match=models.MatchValue(value="c7"))]),
        "filter 10 %": models.Filter(must=[field(key="price", range=models.Range(lt=10))]),
    }

    def search(query: list[float], name: str) -> list[int]:
        found = client.query_points("vectors", query, query_filter=conditions[name], limit=10, with_payload=True)
        return [(point.payload or {})["number"] for point in found.points]

    return search


def _payload(data: Any, row: int) -> dict[str, Any]:
    price = round(float(data["prices"][row]), 4)
    return {"category": f"c{data['categories'][row]}", "price": price, "number": row}


def _rss_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def _disk_mb(folder: Path) -> float:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*")) / 2**20


def main(engine: str, folder: Path) -> None:
    """Load, say so, answer rounds until standard input ends."""
    warnings.simplefilter("ignore")
    data = dict(np.load(folder / "data.npz"))
    store = folder / engine
    began = time.perf_counter()
    search = {"chromadb": chromadb, "lancedb": lancedb, "qdrant_local": qdrant_local}[engine](store, data)
    loaded = time.perf_counter() - began
    del data["vectors"]
    queries = data["queries"].tolist()
    print(json.dumps({"loaded_s": loaded, "disk_mb": _disk_mb(store)}), flush=True)
    for line in sys.stdin:
        latencies, answers = [], []
        for query in queries[: int(line.split("|")[1])]:
            began = time.perf_counter()
            answers.append(search(query, line.split("|")[0]))
            latencies.append((time.perf_counter() - began) * 1e3)
        print(json.dumps({"latencies_ms": latencies, "answers": answers, "rss_mb": _rss_mb()}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
