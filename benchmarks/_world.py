"""The 6,000 objects that several benchmarks ingest, and the server that holds them."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import orjson

from benchmarks._data import Matrix, jpegs, texts
from benchmarks._server import Api, Server
from benchmarks.plugins.trivial import EXTRACTOR, hash_text, project_jpeg

TEXTS = 5_000
IMAGES = 1_000
PER_REQUEST = 1_000


@cache
def bodies(first: int = 0, seed: int = 1) -> list[bytes]:
    """Requests of 1,000 objects: five of texts, then one of pictures in base64. `first` numbers the objects."""
    objects: list[dict[str, Any]] = [
        {"number": first + number, "body": text} for number, text in enumerate(texts(TEXTS, seed=seed))
    ]
    for number, data in enumerate(_jpegs(seed)):
        uri = "data:image/jpeg;base64," + base64.b64encode(data).decode()
        blob = {"property": "photo", "type": "image", "data": uri}
        objects.append({"number": first + TEXTS + number, "blobs": [blob]})
    cuts = (objects[start : start + PER_REQUEST] for start in range(0, len(objects), PER_REQUEST))
    return [orjson.dumps({"objects": cut}) for cut in cuts]


@cache
def _jpegs(seed: int) -> list[bytes]:
    return jpegs(IMAGES, seed=seed + 1)


@cache
def vectors() -> Matrix:
    """What the extractor makes of them, row by number: shape (6000, 384)."""
    return np.stack([*(hash_text(text) for text in texts(TEXTS)), *(project_jpeg(data) for data in _jpegs(1))])


@dataclass
class World:
    """A bucket and the collection it feeds."""

    api: Api
    bucket: str
    collection: dict[str, Any]

    @property
    def collection_id(self) -> str:
        return str(self.collection["collection_id"])

    @property
    def index_name(self) -> str:
        return str(self.collection["vector_indexes"][0]["name"])


def prepare(server: Server) -> World:
    """An empty bucket and collection."""
    api = Api(server)
    api.namespace()
    bucket = api.bucket("things", {"body": "string", "photo": "image", "number": "integer"})
    inputs = {"text": "body", "image": "photo"}
    collection = api.collection("found", bucket, EXTRACTOR, input_mappings=inputs, field_passthrough=["number"])
    return World(api, bucket, collection)


@dataclass
class Ingested:
    """Seconds of one ingest of 6,000 objects."""

    upload_s: float
    total_s: float
    object_ids: list[str]

    @property
    def per_second(self) -> float:
        return (TEXTS + IMAGES) / self.total_s


def ingest(world: World, requests: list[bytes]) -> Ingested:
    """First request to everything searchable. Only the objects of these requests are sent through the collection."""
    began = time.perf_counter()
    made: list[str] = []
    for body in requests:
        done = world.api.post(f"/v1/buckets/{world.bucket}/objects/batch", body)
        made += [row["object_id"] for row in done["succeeded"]]
    uploaded = time.perf_counter()
    started = world.api.post(f"/v1/collections/{world.collection_id}/trigger", {"object_ids": made})
    world.api.wait(world.bucket, started["batch_id"])
    ended = time.perf_counter()
    if len(made) != TEXTS + IMAGES:
        raise RuntimeError(f"{len(made)} objects were created")
    return Ingested(uploaded - began, ended - began, made)
