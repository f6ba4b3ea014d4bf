"""A server of our own in its own process, on a fresh data directory, and what can be seen of it from outside."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from benchmarks._report import OUT, ROOT

KEY = "sk_benchmark_0123456789abcdef0123456789"
NAMESPACE = "benchmark"


class Server:
    """`mediatheca serve` as a user starts it; settings by environment."""

    def __init__(self, data: Path | None = None, **settings: str) -> None:
        OUT.mkdir(exist_ok=True)
        self._own = data is None
        self.data = Path(tempfile.mkdtemp(prefix="server-", dir=OUT)) if data is None else data
        models = str(OUT / "models")  # built once: no benchmark measures that
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MEDIATHECA_")},
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
            "MEDIATHECA_API_KEY": KEY,
            "MEDIATHECA_PLUGINS": "benchmarks.plugins",
            "MEDIATHECA_MODELS_DIR": models,
            **{f"MEDIATHECA_{name.upper()}": value for name, value in settings.items()},
        }
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        self.start_s = 0.0
        """From the command to the first healthy answer."""

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._own and kind is None:
            shutil.rmtree(self.data, ignore_errors=True)

    def start(self) -> None:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "mediatheca.cli", "serve", "--port", str(port), "--data", str(self.data)]
        started = time.perf_counter()
        with open(f"{self.data}.log", "a") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._environment, text=True, cwd=ROOT
            )
        self._until_healthy(started)

    def _until_healthy(self, started: float) -> None:
        while time.perf_counter() - started < 120:
            if self._process is None or self._process.poll() is not None:
                break
            if self.answers("/v1/health", 2.0) == 200:
                self.start_s = time.perf_counter() - started
                return
            time.sleep(0.01)
        raise RuntimeError(f"the server did not start; see {self.data}.log")

    def answers(self, path: str, timeout_s: float) -> int:
        """Status of a GET, 0 when there is no answer."""
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def stop(self) -> None:
        """As an operator stops it."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def log(self) -> str:
        return Path(f"{self.data}.log").read_text()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def memory_mb(self, kind: str = "VmRSS") -> float:
        """`VmRSS` (resident) or `RssAnon` (its own, without mapped files) of the server process."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))

    def disk_mb(self, part: str = "") -> float:
        """Allocated blocks; files of the index are sparse."""
        files = (path.lstat() for path in (self.data / part).rglob("*"))
        return sum(stat.st_blocks * 512 for stat in files) / 2**20


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


class Api:
    """Requests of an administrator: bodies as dicts, errors raised."""

    def __init__(self, server: Server) -> None:
        self.headers = {"Authorization": f"Bearer {KEY}", "X-Namespace": NAMESPACE}
        self._http = httpx.Client(base_url=server.url, timeout=600, trust_env=False, headers=self.headers)

    def post(self, path: str, body: Any) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        return self._read(self._http.post(path, content=data, headers=headers))

    def get(self, path: str) -> dict[str, Any]:
        return self._read(self._http.get(path))

    def patch(self, path: str, body: Any) -> dict[str, Any]:
        return self._read(self._http.patch(path, json=body))

    @staticmethod
    def _read(response: httpx.Response) -> dict[str, Any]:
        if response.status_code >= 300:
            raise RuntimeError(f"{response.request.url} answered {response.status_code}: {response.text[:500]}")
        found: dict[str, Any] = orjson.loads(response.content)
        return found

    def namespace(self) -> None:
        headers = {"X-Namespace": ""}
        extractors = [
            {"feature_extractor_name": name, "version": "v1"}
            for name in ("benchmark_trivial_extractor", "text_extractor", "passthrough_extractor")
        ]
        body = {"namespace_name": NAMESPACE, "feature_extractors": extractors}
        self._read(self._http.post("/v1/namespaces", json=body, headers=headers))

    def bucket(self, name: str, fields: dict[str, str]) -> str:
        schema = {"properties": {field: {"type": kind} for field, kind in fields.items()}}
        return str(self.post("/v1/buckets", {"bucket_name": name, "bucket_schema": schema})["bucket_id"])

    def collection(self, name: str, bucket: str, extractor: str, **config: Any) -> dict[str, Any]:
        """The collection as it is shown."""
        body = {
            "collection_name": name,
            "source": {"type": "bucket", "bucket_ids": [bucket]},
            "feature_extractor": {"feature_extractor_name": extractor, "version": "v1", **config},
        }
        made = self.post("/v1/collections", body)
        return self.get(f"/v1/collections/{made['collection_id']}")

    def retriever(self, name: str, collection: dict[str, Any], mode: str, **stage: Any) -> str:
        """A one-stage search for ten results; the path to execute it."""
        uri = collection["vector_indexes"][0]["feature_uri"]
        query = {"input_mode": mode, "value": "{{INPUT.query}}"}
        search = {"feature_uri": uri, "query": query, "top_k": 10, **stage}
        parameters = {"searches": [search], "final_top_k": 10}
        config = {"stage_id": "feature_search", "parameters": parameters}
        body = {
            "retriever_name": name,
            "collection_identifiers": [collection["collection_id"]],
            "stages": [{"stage_name": "search", "stage_type": "filter", "config": config}],
            "input_schema": {"query": {"type": "string" if mode == "text" else "array", "required": True}},
        }
        made = self.post("/v1/retrievers", body)
        return f"/v1/retrievers/{made['retriever_id']}/execute"

    def wait(self, bucket: str, batch_id: str, pause_s: float = 0.05) -> dict[str, Any]:
        """Until a batch is completed, that is: until everything in it can be found."""
        while True:
            batch = self.get(f"/v1/buckets/{bucket}/batches/{batch_id}")
            if batch["status"] == "COMPLETED":
                return batch
            if batch["status"] not in ("QUEUED", "PROCESSING"):
                raise RuntimeError(f"batch {batch['status']}: {batch.get('failed_objects', [])[:3]}")
            time.sleep(pause_s)
