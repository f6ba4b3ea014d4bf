"""2,000 objects that did not change, triggered again: what is computed once is not computed twice, and how long that
takes to find out. Beside it the ways in which something did change: ten objects, the documents, the collection."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._data import texts
from benchmarks._report import Report
from benchmarks._server import Api, Server
from benchmarks.plugins.counted import EXTRACTOR

RUNS = 5
COUNT = 2_000
CHANGED = 10


@dataclass
class World:
    """A filled bucket, a collection of it and one of that collection's documents."""

    api: Api
    bucket: str
    first: str
    second: str
    object_ids: list[str]
    calls: Path

    def triggered(self, collection: str, **body: Any) -> tuple[float, int]:
        """Seconds until the batch is completed, and the calls of the model meanwhile."""
        before, began = self._count(), time.perf_counter()
        started = self.api.post(f"/v1/collections/{collection}/trigger", body)
        self.api.wait(self.bucket, started["batch_id"])
        return time.perf_counter() - began, self._count() - before

    def _count(self) -> int:
        return self.calls.stat().st_size if self.calls.exists() else 0

    def documents(self, collection: str) -> int:
        return int(self.api.get(f"/v1/collections/{collection}/documents/count")["count"])


def run() -> Report:
    """A fresh server each run."""
    report = Report("retrigger")
    for number in range(RUNS):
        with Server() as server:
            _measure(report, _filled(server, number))
            report.add("server memory (RSS)", server.memory_mb(), "MB")
    return report


def _filled(server: Server, seed: int) -> World:
    api = Api(server)
    api.namespace()
    calls = server.data / "calls"
    bucket = api.bucket("things", {"body": "string", "number": "integer"})
    inputs, parameters = {"text": "body"}, {"count": str(calls)}
    first = api.collection("first", bucket, EXTRACTOR, input_mappings=inputs, parameters=parameters)
    source = {"type": "collection", "collection_id": first["collection_id"]}
    extractor = {"feature_extractor_name": EXTRACTOR, "version": "v1", "input_mappings": {"text": "text"}}
    second = api.post(
        "/v1/collections",
        {
            "collection_name": "second",
            "source": source,
            "feature_extractor": {**extractor, "parameters": {**parameters, "mark": "second"}},
        },
    )
    rows = [{"number": number, "body": text} for number, text in enumerate(texts(COUNT, seed=seed + 60))]
    made = [
        row["object_id"]
        for start in range(0, COUNT, 1_000)
        for row in api.post(f"/v1/buckets/{bucket}/objects/batch", {"objects": rows[start : start + 1_000]})[
            "succeeded"
        ]
    ]
    return World(api, bucket, first["collection_id"], second["collection_id"], made, calls)


def _measure(report: Report, world: World) -> None:
    seconds, calls = world.triggered(world.first)
    report.add(f"first run: {COUNT:,} objects, two tiers", seconds, "s")
    report.add("first run: model calls", calls, "")
    seconds, calls = world.triggered(world.first)
    report.add(f"again, unchanged: {COUNT:,} objects, two tiers", seconds, "s", "<= 2")
    report.add("again, unchanged: model calls", calls, "", "<= 0")
    for ident in world.object_ids[:CHANGED]:
        world.api.patch(f"/v1/buckets/{world.bucket}/objects/{ident}", {"body": f"changed {ident}"})
    seconds, calls = world.triggered(world.first)
    report.add(f"again, {CHANGED} objects changed", seconds, "s")
    report.add(f"again, {CHANGED} objects changed: model calls", calls, "", f"<= {2 * CHANGED}")
    seconds, calls = world.triggered(world.first, dedup_strategy="replace")
    report.add("again, documents written anew from kept results", seconds, "s")
    report.add("again, documents written anew: model calls", calls, "", "<= 0")
    for collection in (world.first, world.second):
        if (found := world.documents(collection)) != COUNT:
            raise RuntimeError(f"{found} documents of {COUNT}")
