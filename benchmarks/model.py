"""Texts through the bundled text model: the server beside the bare model, in turn."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import orjson

from benchmarks._data import english
from benchmarks._report import OUT, ROOT, Report
from benchmarks._server import Api, Server

RUNS = 5
COUNT = 500


def run() -> Report:
    """The model runs one text at a time on one thread in both; the server has one extraction process (2 cores)."""
    report = Report("model")
    _bare()  # builds the model if it must
    for number in range(RUNS):
        bare = _bare()
        served = _served(number)
        report.add("bare model, texts of 40 words", bare, "/s")
        report.add("through the server, until searchable", served, "/s")
        report.add("share of the model's own throughput", 100 * served / bare, "%", ">= 90")
    return report


def _bare() -> float:
    """Texts a second of the model in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.model"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout)


def _served(seed: int) -> float:
    with Server() as server:
        api = Api(server)
        api.namespace()
        bucket = api.bucket("texts", {"body": "text"})
        collection = api.collection("found", bucket, "text_extractor", input_mappings={"text": "body"})
        _ingest(api, bucket, collection["collection_id"], english(8, seed=99))  # the model is loaded
        return COUNT / _ingest(api, bucket, collection["collection_id"], english(COUNT, seed=5))


def _ingest(api: Api, bucket: str, collection_id: str, given: list[str]) -> float:
    body = orjson.dumps({"objects": [{"body": text} for text in given]})
    began = time.perf_counter()
    done = api.post(f"/v1/buckets/{bucket}/objects/batch", body)
    made = [row["object_id"] for row in done["succeeded"]]
    started = api.post(f"/v1/collections/{collection_id}/trigger", {"object_ids": made})
    api.wait(bucket, started["batch_id"])
    return time.perf_counter() - began


def _main() -> None:
    from mediatheca.extractors.text_extractor import Params
    from mediatheca.kernel.discovery import discover
    from mediatheca.providers import ModelSettings, Provider
    from mediatheca.providers._catalog import ModelCatalog

    catalog = ModelCatalog(ModelSettings(OUT / "models"), list(discover("mediatheca.providers", Provider)))
    model = catalog.text(Params().embedding_model)
    model.embed_texts(english(8, seed=99), query=False)
    given = english(COUNT, seed=5)
    began = time.perf_counter()
    for text in given:
        model.embed_texts([text], query=False)
    print(COUNT / (time.perf_counter() - began))


if __name__ == "__main__":
    _main()
