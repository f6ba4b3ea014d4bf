"""Uploads in parts that were begun and never completed are aborted, against a real S3 server; others are left alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import httpx
import pytest

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.ids import new_uuid
from mediatheca.stores.blobs.obstore import ObstoreBlobs
from mediatheca.stores.blobs.s3_parts import S3Parts
from s3_server import options

SOON = timedelta(minutes=5)


@pytest.fixture
def parts(endpoint: str) -> S3Parts:
    found = S3Parts.of("tests", options(endpoint))
    assert found is not None
    return found


def begin(parts: S3Parts, key: str) -> str:
    """As a writer does that is killed: one part is there, and nothing more comes."""
    with httpx.Client(trust_env=False) as client:
        answer = parts._send(client, "POST", f"/{key}", {"uploads": ""})
        answer.raise_for_status()
    found = next(each for each in ElementTree.fromstring(answer.content) if each.tag.endswith("UploadId"))
    return str(found.text)


def unfinished(parts: S3Parts, prefix: str) -> set[str]:
    with httpx.Client(trust_env=False) as client:
        return {key for key, _, _ in parts._unfinished(client, prefix)}


def test_what_was_begun_long_ago_below_our_prefix_is_aborted(parts: S3Parts) -> None:
    home = new_uuid()
    keys = {f"{home}/a film.mp4", f"{home}/übung+1&2", f"{home}x/of somebody else"}
    for key in keys:
        begin(parts, key)
    now = datetime.now(UTC)
    assert unfinished(parts, home) == keys
    assert parts.abort(f"{home}/", now - SOON) == 0
    assert unfinished(parts, home) == keys
    assert parts.abort(f"{home}/", now + SOON) == 2
    assert unfinished(parts, home) == {f"{home}x/of somebody else"}
    assert parts.abort(f"{home}/", now + SOON) == 0


def test_a_store_sweeps_its_own_and_keeps_its_blobs(endpoint: str, parts: S3Parts) -> None:
    home = new_uuid()
    store = ObstoreBlobs(f"s3://tests/{home}", options(endpoint))
    store.put("large", bytes(12 << 20))
    begin(parts, f"{home}/fresh")
    store.sweep()
    assert unfinished(parts, f"{home}/") == {f"{home}/fresh"}  # a writer of today may live
    assert [info.key for info in store.list()] == ["large"]


def test_keys_that_the_server_does_not_know_are_a_clear_error(endpoint: str) -> None:
    found = S3Parts.of("tests", options(endpoint, secret_access_key="wrong"))
    assert found is not None
    with pytest.raises(UnavailableError, match="s3:ListBucketMultipartUploads") as caught:
        found.abort("x/", datetime.now(UTC))
    assert "wrong" not in str(caught.value)


def test_a_server_that_is_not_there_is_a_clear_error() -> None:
    found = S3Parts.of("tests", options("http://127.0.0.1:9"))
    assert found is not None
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9 does not answer"):
        found.abort("x/", datetime.now(UTC))


def test_the_place_and_the_keys_are_found_as_the_store_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "ENDPOINT_URL", "ENDPOINT_URL_S3", "REGION", "DEFAULT_REGION", "SESSION_TOKEN"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    assert S3Parts.of("films", {}) is None  # a role of the machine
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t")
    found = S3Parts.of("films", {})
    assert found == S3Parts("https://s3.eu-west-3.amazonaws.com/films", "eu-west-3", "k", "s", "t")
    virtual = {"virtual_hosted_style_request": "true"}
    for given, base in (
        (virtual, "https://films.s3.eu-west-3.amazonaws.com"),
        ({"endpoint": "https://store.example/"}, "https://store.example/films"),
        ({"endpoint": "https://films.store.example", **virtual}, "https://films.store.example"),
    ):
        made = S3Parts.of("films", given)
        assert made is not None
        assert made.base == base
