"""The demo, step by step, over plain HTTP: everything it does can be repeated with curl."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from mediatheca.demo.data import PHOTOS, TEXTS, photo_folder

console = Console(width=max(100, Console().width))
NEXT = "Next: start your own server with '.venv/bin/mediatheca serve' and follow README.md."


class DemoError(Exception):
    """A step failed; the message says which."""


class Client:
    """A few lines of HTTP, remembering the last call as a curl line."""

    def __init__(self, url: str, key: str) -> None:
        self.url, self.key = url, key
        self.headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._read(self._http.post(path, json=body, headers=self.headers), path)

    def get(self, path: str) -> dict[str, Any]:
        return self._read(self._http.get(path, headers=self.headers), path)

    def curl(self, path: str, body: dict[str, Any]) -> str:
        """The line that repeats a call."""
        headers = " ".join(f"-H '{name}: {value}'" for name, value in self.headers.items())
        data = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
        return f"curl -s {self.url}{path} {headers} -H 'Content-Type: application/json' -d '{data}'"

    @staticmethod
    def _read(response: httpx.Response, path: str) -> dict[str, Any]:
        if response.status_code >= 300:
            raise DemoError(f"{path} answered {response.status_code}: {response.text[:500]}")
        result: dict[str, Any] = response.json()
        return result


def run(*, keep: bool = False) -> int:
    """The whole demo. Returns the exit code."""
    started = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="mediatheca-demo-"))
    key = os.environ.get("MEDIATHECA_API_KEY") or f"sk_{secrets.token_urlsafe(24)}"
    server, url = _start_server(home, key)
    try:
        console.print(f"[bold]Mediatheca[/] on {url}")
        client = Client(url, key)
        collections = _ingest(client)
        for title, path, body in _searches(client, collections):
            _show(client, title, path, body)
        console.print(f"\nDone in {time.monotonic() - started:.0f} s.")
        if keep:
            console.print(f"The server keeps running on {url} until Ctrl-C; the curl lines above work.")
            server.wait()
        console.print(f"The curl lines work while the server runs: 'mediatheca demo --keep'. {NEXT}", highlight=False)
        return 0
    except KeyboardInterrupt:
        return 0
    except (DemoError, httpx.HTTPError, FileNotFoundError) as error:
        console.print(f"[red]The demo failed:[/] {error}", highlight=False)
        console.print(f"The server's log: {home / 'server.log'}")
        return 1
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
        if server.returncode in (0, -15):
            shutil.rmtree(home, ignore_errors=True)


def _start_server(home: Path, key: str) -> tuple[subprocess.Popen[str], str]:
    """A server with the embedded defaults on a free port; built models are kept in ./data/models for the next start."""
    models = os.environ.get("MEDIATHECA_MODELS_DIR") or str(Path("data/models").absolute())
    environment = {**os.environ, "MEDIATHECA_API_KEY": key, "MEDIATHECA_MODELS_DIR": models}
    command = [sys.executable, "-m", "mediatheca.cli", "serve", "--port", "0", "--data", str(home)]
    log = (home / "server.log").open("w")
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)  # noqa: S603
    line = server.stdout.readline() if server.stdout else ""
    url = next((word for word in line.split() if word.startswith("http://")), "")
    for _ in range(200):
        if not url or server.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/v1/health", trust_env=False).status_code == 200:
                return server, url
        except httpx.TransportError:
            time.sleep(0.05)
    server.kill()
    raise SystemExit(f"the server did not start; its log:\n{(home / 'server.log').read_text()[-2000:]}")


def _ingest(client: Client) -> dict[str, dict[str, Any]]:
    """Namespace, two buckets, two collections, all objects, both batches to the end."""
    extractors = [{"feature_extractor_name": name, "version": "v1"} for name in ("text_extractor", "image_extractor")]
    namespace = client.post("/v1/namespaces", {"namespace_name": "demo", "feature_extractors": extractors})
    client.headers["X-Namespace"] = namespace["namespace_id"]
    photos = _bucket(client, "photos", {"photo": "image", "caption": "string", "price": "float"})
    texts = _bucket(client, "texts", {"body": "text", "topic": "string"})
    collections = {
        "photos": _collection(
            client, photos, "photo-search", "image_extractor", {"image": "photo"}, ["caption", "price"]
        ),
        "texts": _collection(client, texts, "text-search", "text_extractor", {"text": "body"}, ["topic"]),
    }
    with _progress() as progress:
        _upload(client, photos, _photo_objects(), progress, "uploading photographs")
        _upload(client, texts, _text_objects(), progress, "uploading texts")
        for name, collection in collections.items():
            _process(client, collection, progress, f"understanding {name}")
    return {name: client.get(f"/v1/collections/{made['collection_id']}") for name, made in collections.items()}


def _progress() -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:24}"),
        BarColumn(40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console)


def _bucket(client: Client, name: str, fields: dict[str, str]) -> str:
    schema = {"properties": {field: {"type": kind} for field, kind in fields.items()}}
    return str(client.post("/v1/buckets", {"bucket_name": name, "bucket_schema": schema})["bucket_id"])


def _collection(
    client: Client, bucket: str, name: str, extractor: str, inputs: dict[str, str], passed: list[str]
) -> dict[str, Any]:
    config = {
        "feature_extractor_name": extractor,
        "version": "v1",
        "input_mappings": inputs,
        "field_passthrough": passed,
    }
    source = {"type": "bucket", "bucket_ids": [bucket]}
    return client.post("/v1/collections", {"collection_name": name, "source": source, "feature_extractor": config})


def _photo_objects() -> list[dict[str, Any]]:
    folder, found = photo_folder(), []
    for file, caption, price in PHOTOS:
        kind = "jpeg" if file.endswith(".jpg") else "png"
        data = f"data:image/{kind};base64," + base64.b64encode((folder / file).read_bytes()).decode()
        blob = {"property": "photo", "type": "image", "data": data}
        found.append({"key_prefix": f"/photos/{file}", "caption": caption, "price": price, "blobs": [blob]})
    return found


def _text_objects() -> list[dict[str, Any]]:
    return [{"topic": topic, "blobs": [{"property": "body", "type": "text", "data": text}]} for topic, text in TEXTS]


def _upload(client: Client, bucket: str, objects: list[dict[str, Any]], progress: Progress, title: str) -> None:
    bar = progress.add_task(title, total=len(objects))
    for start in range(0, len(objects), 10):
        done = client.post(f"/v1/buckets/{bucket}/objects/batch", {"objects": objects[start : start + 10]})
        if done["failed_count"]:
            raise DemoError(f"some objects were refused: {done['failed'][:3]}")
        progress.update(bar, advance=done["succeeded_count"])


def _process(client: Client, collection: dict[str, Any], progress: Progress, title: str) -> None:
    started = client.post(f"/v1/collections/{collection['collection_id']}/trigger", {})
    bucket = collection["source"]["bucket_ids"][0]
    bar = progress.add_task(title, total=started["object_count"])
    while True:
        batch = client.get(f"/v1/buckets/{bucket}/batches/{started['batch_id']}")
        progress.update(bar, completed=batch["progress"]["processed"])
        if batch["status"] == "COMPLETED":
            return
        if batch["status"] in ("FAILED", "CANCELED", "COMPLETED_WITH_ERRORS"):
            raise DemoError(f"{title}: {batch['status']}: {batch['failed_objects'][:3]}")
        time.sleep(0.15)


def _searches(client: Client, collections: dict[str, dict[str, Any]]) -> list[tuple[str, str, dict[str, Any]]]:
    """text → text, image → image, text → image, and text with a filter."""
    texts, photos = collections["texts"], collections["photos"]
    by_text = _retriever(client, "by-text", texts, {"input_mode": "text", "text": "{{INPUT.query}}"})
    like = _retriever(client, "like-this", photos, {"input_mode": "content", "value": "{{INPUT.image}}"}, "image")
    photo_by_text = _retriever(client, "photo-by-text", photos, {"input_mode": "text", "text": "{{INPUT.query}}"})
    documents = client.post(
        f"/v1/collections/{photos['collection_id']}/documents/list?return_presigned_urls=true", {"limit": 50}
    )
    cat = next(doc for doc in documents["results"] if "cat" in doc["caption"])
    cheap = {"AND": [{"field": "price", "operator": "lt", "value": 30}]}
    return [
        ("text → text: 'how do I make good espresso?'", by_text, _query({"query": "how do I make good espresso?"})),
        ("image → image: like the photograph of the cat", like, _query({"image": cat["thumbnail_url"]})),
        ("text → image: 'a ride into space'", photo_by_text, _query({"query": "a ride into space"})),
        ("text + filter: 'stones', price < 30", photo_by_text, {**_query({"query": "stones"}), "filters": cheap}),
    ]


def _query(inputs: dict[str, str]) -> dict[str, Any]:
    return {"inputs": inputs, "limit": 4, "return_urls": True}


def _retriever(
    client: Client, name: str, collection: dict[str, Any], query: dict[str, str], field: str = "query"
) -> str:
    uri = collection["vector_indexes"][0]["feature_uri"]
    parameters = {"searches": [{"feature_uri": uri, "query": query, "top_k": 20}], "final_top_k": 10}
    stage = {
        "stage_name": "search",
        "stage_type": "filter",
        "config": {"stage_id": "feature_search", "parameters": parameters},
    }
    body = {
        "retriever_name": name,
        "collection_identifiers": [collection["collection_id"]],
        "stages": [stage],
        "input_schema": {field: {"type": "image" if field == "image" else "string", "required": True}},
    }
    made = client.post("/v1/retrievers", body)
    return f"/v1/retrievers/{made['retriever']['retriever_id']}/execute"


def _show(client: Client, title: str, path: str, body: dict[str, Any]) -> None:
    started = time.perf_counter()
    found = client.post(path, body)["documents"]
    elapsed = (time.perf_counter() - started) * 1e3
    table = Table(title=f"{title}  ({elapsed:.0f} ms)", title_justify="left", title_style="bold", width=console.width)
    table.add_column("score", justify="right", style="green", width=6)
    table.add_column("what", ratio=3)
    if any("price" in document for document in found):
        table.add_column("price", justify="right", width=6)
        table.add_column("thumbnail", ratio=2, overflow="ellipsis", no_wrap=True, style="blue")
    for document in found:
        row = [f"{document['score']:.3f}", str(document.get("caption") or document.get("text"))]
        if "price" in document:
            link = document["thumbnail_url"]
            row += [f"{document['price']:.2f}", f"[link={link}]{link}[/link]"]
        table.add_row(*row)
    if not found:
        raise DemoError(f"{title}: nothing was found")
    console.print()
    console.print(table)
    console.print(client.curl(path, body), style="dim", soft_wrap=True, highlight=False)
