"""Signed URLs: what they allow, and nothing more."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest

from helpers import failed, ok
from server import Tenant

DATA = bytes(range(256)) * 8


@pytest.fixture
def signed(tenant: Tenant) -> str:
    """A URL of a stored file of 2,048 bytes."""
    blobs = tenant.server.app.services.blobs
    key = f"{tenant.organization_id}/ns/test/file.bin"
    blobs.put(key, DATA)
    return tenant.server.url + blobs.sign("GET", key, expires_s=60, content_type="image/jpeg")


def changed(url: str, **query: str | None) -> str:
    parts = urlsplit(url)
    values = {**dict(parse_qsl(parts.query)), **query}
    return parts._replace(
        query=urlencode({name: value for name, value in values.items() if value is not None})
    ).geturl()


def test_a_signed_url_reads_without_a_key(signed: str) -> None:
    answer = httpx.get(signed)
    assert (answer.status_code, answer.content) == (200, DATA)
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-content-type-options"] == "nosniff"
    head = httpx.head(signed)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "2048", b"")
    assert httpx.get(signed, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    ("header", "status", "start", "end"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=2040-", 206, 2040, 2048),
        ("bytes=2040-9999", 206, 2040, 2048),
        ("bytes=-8", 206, 2040, 2048),
        ("bytes=-9999", 206, 0, 2048),
        ("bytes=5-2", 200, 0, 2048),
        ("bytes=0-1,5-6", 200, 0, 2048),
        ("pages=1", 200, 0, 2048),
        ("bytes=2048-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
    ],
)
def test_one_byte_range_is_honoured(signed: str, header: str, status: int, start: int, end: int) -> None:
    answer = httpx.get(signed, headers={"Range": header})
    assert (answer.status_code, answer.content) == (status, DATA[start:end])
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/2048"
    if status == 416:
        assert answer.headers["content-range"] == "bytes */2048"


@pytest.mark.parametrize(
    "query",
    [
        {"sig": None},
        {"sig": "AAAA"},
        {"exp": "99999999999"},
        {"ct": "text/html"},
        {"ct": None},
        {"max": "5"},
        {"exp": "x"},
    ],
)
def test_a_tampered_url_is_refused(signed: str, query: dict[str, str | None]) -> None:
    failed(httpx.get(changed(signed, **query)), 403)


def test_a_url_is_good_for_its_key_and_method_only(signed: str) -> None:
    failed(httpx.get(signed.replace("file.bin", "other.bin")), 403)
    failed(httpx.put(signed, content=b"x"), 403)
    assert httpx.post(signed, content=b"x").status_code == 405
    assert httpx.get(signed).content == DATA


@pytest.mark.parametrize("kind", ["text/html", "image/svg+xml", "text/html; charset=utf-8"])
def test_what_a_browser_would_run_is_offered_as_a_download(tenant: Tenant, kind: str) -> None:
    blobs = tenant.server.app.services.blobs
    blobs.put("t/evil.html", b"<script>")
    answer = httpx.get(tenant.server.url + blobs.sign("GET", "t/evil.html", expires_s=60, content_type=kind))
    assert answer.headers["content-disposition"] == 'attachment; filename="evil.html"'
    assert "sandbox" in answer.headers["content-security-policy"]


def test_a_put_is_capped_and_leaves_nothing_when_it_is_too_large(tenant: Tenant) -> None:
    blobs = tenant.server.app.services.blobs
    url = tenant.server.url + blobs.sign("PUT", "t/up.bin", expires_s=60, max_bytes=1000)
    failed(httpx.put(url, content=b"x" * 1001), 413)
    failed(httpx.put(url, content=(b"x" * 500 for _ in range(3))), 413)
    assert blobs.head("t/up.bin") is None
    assert ok(httpx.put(url, content=(b"x" * 500 for _ in range(2))))["size_bytes"] == 1000
    assert blobs.get("t/up.bin") == b"x" * 1000


def test_a_large_put_is_not_bound_by_the_cap_of_bodies(tenant: Tenant) -> None:
    blobs = tenant.server.app.services.blobs
    size = (tenant.server.app.services.settings.max_body_mb << 20) + 1
    url = tenant.server.url + blobs.sign("PUT", "t/large.bin", expires_s=60, max_bytes=size)
    assert (
        ok(httpx.put(url, content=(b"\0" * min(1 << 20, size - done) for done in range(0, size, 1 << 20))))[
            "size_bytes"
        ]
        == size
    )
    blobs.delete("t/large.bin")
