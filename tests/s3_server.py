"""A real S3 server for tests: SeaweedFS, one binary."""

from __future__ import annotations

import json
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from mediatheca.kernel.errors import UnavailableError
from mediatheca.stores.blobs.obstore import ObstoreBlobs
from ports import free_ports

KEY, SECRET = "test-key", "test-secret"
TRIES = 4


def command(state: Path, ports: list[int]) -> list[str]:
    names = ["master.port", "volume.port", "filer.port", "s3.port"]
    names += [f"{name}.grpc" for name in names]
    credentials = [{"accessKey": KEY, "secretKey": SECRET}]
    identities = [{"name": "test", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}]
    (state / "s3.json").write_text(json.dumps({"identities": identities}))
    return [
        str(Path(sysconfig.get_path("scripts")) / "weed"),
        "server",
        "-s3",
        f"-dir={state}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-s3.config={state / 's3.json'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=30",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]


@contextmanager
def s3_server(state: Path) -> Iterator[str]:
    """Its address, while it runs; it keeps everything in `state`."""
    for number in range(TRIES):
        place, ports = state / str(number), free_ports(8)
        place.mkdir()
        with (place / "log").open("w") as log:
            process = subprocess.Popen(command(place, ports), stdout=log, stderr=log, cwd=place)
        try:
            url = f"http://127.0.0.1:{ports[3]}"
            if wait_for(url, process, place / "log"):
                yield url
                return
        finally:
            process.kill()
            process.wait()
    pytest.fail(f"the S3 server ended {TRIES} times:\n{(place / 'log').read_text()[-2000:]}")


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    """Whether it is up; False: it has ended, since somebody else has one of its ports."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        try:
            httpx.get(f"{url}/healthz", timeout=10, trust_env=False).raise_for_status()
            # The first write waits until a volume is there.
            probe = ObstoreBlobs("s3://tests/start", options(url))
            probe.check()
        except (httpx.HTTPError, UnavailableError):
            time.sleep(0.1)
        else:
            return True
    pytest.fail(f"no S3 server within 240 s:\n{log.read_text()[-2000:]}")


def options(endpoint: str, **changes: object) -> dict[str, object]:
    return {
        "endpoint": endpoint,
        "access_key_id": KEY,
        "secret_access_key": SECRET,
        "region": "us-east-1",
        "allow_http": "true",
        **changes,
    }
