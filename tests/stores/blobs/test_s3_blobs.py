"""Blobs in S3: the contract against a real S3 server (SeaweedFS, one binary), and what a wrong set-up says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.ids import new_uuid
from mediatheca.stores.blobs.obstore import ObstoreBlobs
from mediatheca.testing.blobs import BlobStoreContract, Send

KEY, SECRET = "test-key", "test-secret"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


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
        "-master.volumeSizeLimitMB=64",
        "-volume.max=30",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    state = tmp_path_factory.mktemp("s3")
    ports = free_ports(8)
    with (state / "log").open("w") as log:
        process = subprocess.Popen(command(state, ports), stdout=log, stderr=log, cwd=state)
    try:
        url = f"http://127.0.0.1:{ports[3]}"
        wait_for(url, process, state / "log")
        yield url
    finally:
        process.kill()
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            httpx.get(f"{url}/healthz", timeout=1, trust_env=False).raise_for_status()
            # The first write waits until a volume is there.
            probe = ObstoreBlobs("s3://tests/start", options(url))
            probe.check()
        except (httpx.HTTPError, UnavailableError):
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"no S3 server within 60 s:\n{log.read_text()[-2000:]}")


def options(endpoint: str, **changes: object) -> dict[str, object]:
    return {
        "endpoint": endpoint,
        "access_key_id": KEY,
        "secret_access_key": SECRET,
        "region": "us-east-1",
        "allow_http": "true",
        **changes,
    }


@pytest.fixture
def store(endpoint: str) -> ObstoreBlobs:
    return ObstoreBlobs(f"s3://tests/{new_uuid()}", options(endpoint))


@pytest.fixture
def send() -> Send:
    def send(method: str, url: str, body: bytes) -> tuple[int, bytes]:
        answer = httpx.request(method, url, content=body, trust_env=False)
        return answer.status_code, answer.content

    return send


class TestS3Blobs(BlobStoreContract):
    @pytest.fixture
    def store(self, store: ObstoreBlobs) -> ObstoreBlobs:
        return store

    @pytest.fixture
    def send(self, send: Send) -> Send:
        return send


def test_a_signed_get_answers_with_the_type_given_to_put(store: ObstoreBlobs) -> None:
    store.put("page", b"<p>", "text/html; charset=utf-8")
    answer = httpx.get(store.sign("GET", "page", expires_s=60), trust_env=False)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


def test_two_prefixes_of_a_bucket_do_not_see_each_other(endpoint: str, store: ObstoreBlobs) -> None:
    other = ObstoreBlobs(f"s3://tests/{new_uuid()}", options(endpoint))
    store.put("k", b"x")
    assert other.head("k") is None
    assert list(other.list()) == []


def test_a_large_blob_goes_up_in_parts(store: ObstoreBlobs) -> None:
    data = os.urandom(12 * 1024 * 1024)
    store.put("large", data)
    assert store.get("large", 6_000_000, 6_000_100) == data[6_000_000:6_000_100]
    head = store.head("large")
    assert head is not None
    assert head.size == len(data)


@pytest.mark.parametrize(
    ("url", "extra", "message"),
    [
        ("ftp://bucket", {}, "s3://bucket"),
        ("s3://", {}, "s3://bucket"),
        ("/some/path", {}, "s3://bucket"),
        ("s3://bucket", {"no_such_option": "1"}, "cannot be used"),
    ],
)
def test_a_wrong_address_is_refused_at_once(url: str, extra: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ObstoreBlobs(url, extra)


def test_wrong_credentials_are_a_clear_error(endpoint: str) -> None:
    store = ObstoreBlobs("s3://tests/x", options(endpoint, secret_access_key="wrong"))
    with pytest.raises(UnavailableError, match="refuses our credentials; check its key"):
        store.check()


def test_a_server_that_is_not_there_is_a_clear_error() -> None:
    (port,) = free_ports(1)
    store = ObstoreBlobs("s3://tests/x", options(f"http://127.0.0.1:{port}"))
    with pytest.raises(UnavailableError, match="check its address and that it runs"):
        store.check()
