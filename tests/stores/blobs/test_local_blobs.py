"""Blobs on a local disk: the contract, the signatures behind a real HTTP server, and what a bad disk or crash does."""

from __future__ import annotations

import errno
import http.server
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

import httpx
import pytest

from mediatheca.kernel.errors import (
    ForbiddenError,
    MediathecaError,
    NotFoundError,
    PayloadTooLargeError,
    UnavailableError,
    ValidationError,
)
from mediatheca.kernel.ids import new_uuid
from mediatheca.stores.blobs import local
from mediatheca.stores.blobs.local import LocalBlobs
from mediatheca.stores.blobs.signing import PATH
from mediatheca.testing.blobs import BlobStoreContract, Send

SECRET = b"a secret of 16 bytes or more"


def _server(store: LocalBlobs) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(lambda key: store.get(key))

        def do_PUT(self) -> None:
            self._answer(self._store)

        def _store(self, key: str) -> bytes:
            left = int(self.headers["content-length"])
            with store.open_put(key, self.grant.max_bytes) as upload:
                while left:
                    chunk = self.rfile.read(min(left, 64))
                    left -= len(chunk)
                    upload.write(chunk)
            return b""

        def _answer(self, act) -> None:
            parts = urlsplit(self.path)
            key = unquote(parts.path.removeprefix(PATH))
            try:
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self.grant = store.verify(self.command, key, query)
                status, body = 200, act(key)
            except MediathecaError as error:
                status, body = error.status, error.message.encode()
                self.rfile.read(0)
            self.close_connection = True
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def store(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs", SECRET)


@pytest.fixture
def send(store: LocalBlobs) -> Iterator[Send]:
    server = _server(store)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()

    def send(method: str, url: str, body: bytes) -> tuple[int, bytes]:
        answer = httpx.request(method, f"http://127.0.0.1:{server.server_port}{url}", content=body, trust_env=False)
        return answer.status_code, answer.content

    yield send
    server.shutdown()
    thread.join()
    server.server_close()


class TestLocalBlobs(BlobStoreContract):
    @pytest.fixture
    def store(self, store: LocalBlobs) -> LocalBlobs:
        return store

    @pytest.fixture
    def send(self, send: Send) -> Send:
        return send


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


def files(store: LocalBlobs) -> list[str]:
    return sorted(str(path.relative_to(store._root)) for path in store._root.rglob("*") if path.is_file())


# Signatures


def test_a_grant_says_what_was_signed(store: LocalBlobs) -> None:
    url = store.sign("PUT", "a/ü b.txt", expires_s=60, content_type="text/plain; charset=utf-8", max_bytes=7)
    assert urlsplit(url).path == "/v1/blobs/a/%C3%BC%20b.txt"
    grant = store.verify("PUT", "a/ü b.txt", query_of(url))
    assert (grant.method, grant.key, grant.content_type, grant.max_bytes) == (
        "PUT",
        "a/ü b.txt",
        "text/plain; charset=utf-8",
        7,
    )
    assert 55 < grant.expires_at - time.time() <= 60


def test_head_is_allowed_where_get_is(store: LocalBlobs) -> None:
    store.put("k", b"x")
    query = query_of(store.sign("GET", "k", expires_s=60))
    assert store.verify("HEAD", "k", query).method == "GET"
    for method in ("PUT", "DELETE", "POST", "get", ""):
        with pytest.raises(ForbiddenError, match="not signed"):
            store.verify(method, "k", query)


@pytest.mark.parametrize(
    "change",
    [
        {"exp": "99999999999"},
        {"exp": ""},
        {"exp": "-1"},
        {"exp": "1e9"},
        {"exp": "٣"},
        {"exp": "9" * 5000},
        {"max": "1000000"},
        {"max": "-5"},
        {"max": "0100"},
        {"ct": "text/html"},
        {"ct": None},
        {"max": None},
        {"exp": None},
        {"sig": None},
        {"sig": ""},
        {"sig": "é"},
        {"sig": "A" * 43},
    ],
)
def test_a_changed_url_is_refused(store: LocalBlobs, change: dict[str, str | None]) -> None:
    query = query_of(store.sign("PUT", "k", expires_s=60, content_type="image/png", max_bytes=100))
    changed = {name: value for name, value in {**query, **change}.items() if value is not None}
    with pytest.raises(ForbiddenError, match="ask for a new one"):
        store.verify("PUT", "k", changed)


def test_an_unknown_query_parameter_changes_nothing(store: LocalBlobs) -> None:
    query = query_of(store.sign("PUT", "k", expires_s=60)) | {"cache": "1"}
    assert store.verify("PUT", "k", query).max_bytes is None


def test_content_type_and_key_cannot_be_shifted_into_each_other(store: LocalBlobs) -> None:
    query = query_of(store.sign("PUT", "k\u2028x", expires_s=60, content_type="a"))
    with pytest.raises(ForbiddenError):
        store.verify("PUT", "k", query | {"ct": "\u2028xa"})


def test_another_secret_refuses_the_url(store: LocalBlobs, tmp_path: Path) -> None:
    other = LocalBlobs(tmp_path / "blobs", b"another secret of 16 bytes")
    with pytest.raises(ForbiddenError):
        other.verify("PUT", "k", query_of(store.sign("PUT", "k", expires_s=60)))


def test_an_unsigned_request_does_not_learn_whether_a_blob_exists(store: LocalBlobs) -> None:
    store.put("there", b"x")
    messages = set()
    for key in ("there", "missing", "../../etc/passwd"):
        with pytest.raises(ForbiddenError) as caught:
            store.verify("GET", key, {"exp": "99999999999", "sig": "x"})
        messages.add(caught.value.message)
    assert len(messages) == 1
    with pytest.raises(NotFoundError):
        store.verify("GET", "missing", query_of(store.sign("GET", "missing", expires_s=60)))


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        LocalBlobs(tmp_path, b"short")


# Uploads in pieces


def write_then_fail(upload: local.Upload) -> None:
    upload.write(b"new")
    raise ConnectionError("the client went away")


def test_an_upload_that_fails_leaves_the_old_blob(store: LocalBlobs) -> None:
    store.put("k", b"old")
    with pytest.raises(ConnectionError), store.open_put("k") as upload:
        write_then_fail(upload)
    assert store.get("k") == b"old"
    assert files(store) == ["=k"]


def test_an_upload_beyond_its_size_is_refused_and_nothing_is_kept(store: LocalBlobs) -> None:
    with store.open_put("k", 10) as upload:
        upload.write(b"0123456789")
    store.delete("k")
    with pytest.raises(PayloadTooLargeError, match="10 bytes"), store.open_put("k", 10) as upload:
        upload.write(b"0123456789x")
    assert files(store) == []
    with store.open_put("k", 10) as upload:
        upload.write(b"1234567890")
    assert upload.info == store.head("k")


def test_an_upload_is_invisible_until_it_is_whole(store: LocalBlobs) -> None:
    with store.open_put("k") as upload:
        upload.write(b"half")
        assert store.head("k") is None
        assert list(store.list()) == []
    assert store.get("k") == b"half"


def test_an_upload_with_a_bad_key_is_refused(store: LocalBlobs) -> None:
    with pytest.raises(ValidationError, match="key"):
        store.open_put("../k")


# The disk


def test_a_second_name_of_an_old_file_is_not_taken_for_left_behind(store: LocalBlobs, tmp_path: Path) -> None:
    store.put("old", b"x")
    path = Path(store.local_path("old") or "")
    os.utime(path, (0, time.time() - 2 * 24 * 3600))
    made = tmp_path / "blobs/.tmp" / new_uuid()  # as a copy begins
    os.link(path, made)
    store.sweep()
    assert made.exists()


def test_what_a_killed_writer_left_is_swept_a_day_later(store: LocalBlobs, tmp_path: Path) -> None:
    fresh, stale = (tmp_path / "blobs/.tmp" / name for name in ("fresh", "stale"))
    for path in (fresh, stale):
        path.write_bytes(b"x")
    os.utime(stale, (0, time.time() - 2 * 24 * 3600))
    again = LocalBlobs(tmp_path / "blobs", SECRET)
    assert files(again) == [".tmp/fresh"]
    assert list(again.list()) == []


def note(calls: list[str], call: str) -> None:
    """In other threads are servers of other tests."""
    if threading.current_thread() is threading.main_thread():
        calls.append(call)


def test_a_file_is_synced_before_its_name_appears(store: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def spy_fsync(descriptor: int) -> None:
        note(calls, f"fsync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        fsync(descriptor)

    def spy_rename(self: Path, target: Path) -> Path:
        note(calls, f"rename {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "rename", spy_rename)
    store.put("a/b", b"x")
    named = [call if not call.startswith("fsync 0") else "fsync temp" for call in calls]
    assert named[0] == "fsync temp"
    assert named[-3:].count("fsync a") == 1
    assert "fsync blobs" in named[-2:]
    assert named.index("rename =b") < named.index("fsync a")


def test_many_blobs_share_one_sync_before_their_names_appear(
    store: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    together, rename = local.syncfs, Path.rename
    assert together is not None

    def spy_sync(descriptor: int) -> None:
        note(calls, "sync")
        together(descriptor)

    def spy_rename(self: Path, target: Path) -> Path:
        note(calls, "rename")
        return rename(self, target)

    monkeypatch.setattr(local, "syncfs", spy_sync)
    monkeypatch.setattr(Path, "rename", spy_rename)
    store.put_many([(f"d{number}/x", b"x", "") for number in range(10)])
    # A rename is tried twice where the directory was missing.
    assert calls == ["sync", *["rename"] * 20, "sync"]


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(store: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        patch.setattr(local, "syncfs", full)
        with pytest.raises(UnavailableError, match="disk is full; free some space"):
            store.put("k", b"x")
        with pytest.raises(UnavailableError, match="disk is full"):
            store.put_many([(f"many/{number}", b"x", "") for number in range(5)])
        with pytest.raises(UnavailableError, match="disk is full"):
            store.check()
    assert files(store) == []


def test_a_vanished_directory_is_an_error_not_a_missing_blob(store: LocalBlobs) -> None:
    (store._root / ".tmp").rmdir()
    with pytest.raises(UnavailableError, match="its directory has gone"):
        store.put("k", b"x")


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnavailableError, match="blob store at"):
        LocalBlobs(tmp_path / "file" / "blobs", SECRET)


def test_empty_directories_do_not_pile_up(store: LocalBlobs) -> None:
    store.put("a/b/c/d", b"x")
    store.put("a/e", b"x")
    store.delete("a/b/c/d")
    assert sorted(path.name for path in store._root.rglob("*")) == [".tmp", "=e", "a"]


def test_two_stores_share_a_directory(store: LocalBlobs, tmp_path: Path) -> None:
    other = LocalBlobs(tmp_path / "blobs", SECRET)
    store.put("k", b"x")
    assert other.get("k") == b"x"
    assert other.verify("GET", "k", query_of(store.sign("GET", "k", expires_s=60))).key == "k"
