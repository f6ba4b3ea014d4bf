"""Blobs in S3: the contract against a real S3 server (SeaweedFS, one binary), and what a wrong set-up says."""

from __future__ import annotations

import os

import httpx
import pytest

from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.ids import new_uuid
from mediatheca.stores.blobs.obstore import ObstoreBlobs
from mediatheca.testing.blobs import BlobStoreContract, Send
from ports import free_ports
from s3_server import options


@pytest.fixture
def store(endpoint: str) -> ObstoreBlobs:
    return ObstoreBlobs(f"s3://tests/{new_uuid()}", options(endpoint))


@pytest.fixture
def send() -> Send:
    def send(method: str, url: str, body: bytes) -> tuple[int, bytes]:
        answer = httpx.request(method, url, content=body, timeout=60, trust_env=False)
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
