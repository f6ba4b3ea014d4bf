"""Where an ingest's time goes that is neither decoding nor a model, and pictures beside the bare model, in turn."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import orjson

from benchmarks._data import english
from benchmarks._report import OUT, ROOT, Report
from benchmarks._server import Api, Server

RUNS = 5
PICTURES = 60
TEXTS = 500
_PART = re.compile(r'^mediatheca_extraction_seconds_total\{part="(\w+)"\} ([\d.e+-]+)$', re.MULTILINE)


def run() -> Report:
    """One extraction process; the time is from the first request until everything is searchable. The parts are
    measured in the process that extracts and read from `/metrics`."""
    report = Report("overhead")
    _bare()  # builds the model if it must
    for number in range(RUNS):
        bare = _bare()
        with Server(workers="1") as server:
            api = Api(server)
            api.namespace()
            wall, parts = _measured(server, api, "photo", "image", "image_extractor", _photos(PICTURES, number))
            report.add("bare model, pictures of 640 x 480", bare, "/s")
            report.add("pictures through the server", PICTURES / wall, "/s")
            report.add("share of the model's own throughput", 100 * PICTURES / wall / bare, "%", ">= 90")
            _add(report, "pictures", wall, parts)
            wall, parts = _measured(server, api, "body", "text", "text_extractor", _texts(number))
            _add(report, "texts", wall, parts)
    return report


def _add(report: Report, what: str, wall: float, parts: dict[str, float]) -> None:
    worked = parts["decode"] + parts["model"]
    report.add(f"{what}: neither decoding nor a model, of the whole time", 100 * (1 - worked / wall), "%", "<= 10")
    report.add(f"{what}: of that in the extraction process", 100 * parts["other"] / wall, "%")


def _measured(
    server: Server, api: Api, field: str, kind: str, extractor: str, made: Callable[[int], list[dict[str, Any]]]
) -> tuple[float, dict[str, float]]:
    bucket = api.bucket(f"{field}s", {field: kind})
    collection = api.collection(f"{field} found", bucket, extractor, input_mappings={kind: field})["collection_id"]
    _ingest(api, bucket, collection, made(1))  # the model is loaded
    before = _parts(server, api)
    wall = _ingest(api, bucket, collection, made(0))
    after = _parts(server, api)
    return wall, {part: after[part] - before[part] for part in after}


def _ingest(api: Api, bucket: str, collection: str, objects: list[dict[str, Any]]) -> float:
    body = orjson.dumps({"objects": objects})
    began = time.perf_counter()
    done = api.post(f"/v1/buckets/{bucket}/objects/batch", body)
    made = [row["object_id"] for row in done["succeeded"]]
    started = api.post(f"/v1/collections/{collection}/trigger", {"object_ids": made})
    api.wait(bucket, started["batch_id"])
    return time.perf_counter() - began


def _parts(server: Server, api: Api) -> dict[str, float]:
    text = httpx.get(f"{server.url}/metrics", headers=api.headers, timeout=60, trust_env=False).text
    return {part: float(spent) for part, spent in _PART.findall(text)}


def _photos(count: int, seed: int) -> Callable[[int], list[dict[str, Any]]]:
    def made(warm: int) -> list[dict[str, Any]]:
        pictures = _pictures(3 if warm else count, 1000 * seed + 500 * warm)
        uris = ("data:image/jpeg;base64," + base64.b64encode(data).decode() for data in pictures)
        return [{"blobs": [{"property": "photo", "type": "image", "data": uri}]} for uri in uris]

    return made


def _texts(seed: int) -> Callable[[int], list[dict[str, Any]]]:
    return lambda warm: [{"body": text} for text in english(8 if warm else TEXTS, seed=100 + 2 * seed + warm)]


def _pictures(count: int, seed: int) -> list[bytes]:
    """Photographs cut at random places, so that no two are the same."""
    from PIL import Image
    from skimage import data

    random, found = np.random.default_rng(seed), []
    photos = [Image.fromarray(photo).resize((960, 720)) for photo in (data.astronaut(), data.coffee(), data.rocket())]
    for number in range(count):
        left, top = int(random.integers(0, 320)), int(random.integers(0, 240))
        out = io.BytesIO()
        photos[number % 3].crop((left, top, left + 640, top + 480)).save(out, "JPEG", quality=90)
        found.append(out.getvalue())
    return found


def _bare() -> float:
    """Pictures a second of the model in a process of its own, on pixels."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.overhead"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout)


def _main() -> None:
    from PIL import Image

    from mediatheca.extractors.image_extractor import Params
    from mediatheca.kernel.discovery import discover
    from mediatheca.providers import ModelSettings, Provider
    from mediatheca.providers._catalog import ModelCatalog

    catalog = ModelCatalog(ModelSettings(OUT / "models"), list(discover("mediatheca.providers", Provider)))
    model = catalog.image(Params().embedding_model)
    pixels = [np.asarray(Image.open(io.BytesIO(data))) for data in _pictures(PICTURES // 3, 7)]
    model.embed_images(pixels[:1], [None])
    began = time.perf_counter()
    for picture in pixels:
        model.embed_images([picture], [None])
    print(len(pixels) / (time.perf_counter() - began))


if __name__ == "__main__":
    _main()
