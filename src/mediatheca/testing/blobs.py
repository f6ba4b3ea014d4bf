"""The contract of a blob store as tests: subclass, and give `store` and `send` fixtures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from mediatheca.kernel.errors import NotFoundError, ValidationError
from mediatheca.stores.blobs.base import MAX_EXPIRES_S, BlobStore

Send: TypeAlias = Callable[[str, str, bytes], tuple[int, bytes]]
"""(method, URL from `sign`, body) → (status, body): a stranger's HTTP request."""

BAD_KEYS = [
    "",
    "/etc/passwd",
    "../secret",
    "a/../b",
    "a/./b",
    "a//b",
    "a/",
    "..",
    "a\\b",
    "a\x00b",
    "a\nb",
    "a\x7f",
    "\ud800",
    "x" * 201,
    "/".join(["x" * 100] * 11),
]
ODD_KEYS = [
    "plain.txt",
    "a b/c+d&e=f.txt",
    "100%25/%2e%2e/#?[x].jpg",
    "übung/日本語/🎞.mp4",
    "...",
    ".hidden/.tmp/..x",
    "=x/=y",
    ".=x/z",
    "quote'\"<>|*:;@$!~`^{}",
    "é" * 100,
]


class BlobStoreContract:
    """Every rule of `mediatheca.stores.blobs.base`."""

    @pytest.fixture
    def store(self) -> BlobStore:
        raise NotImplementedError("give an empty store")

    @pytest.fixture
    def send(self, store: BlobStore) -> Send:
        raise NotImplementedError("give a way to use signed URLs")

    def test_what_was_put_is_there(self, store: BlobStore) -> None:
        data = bytes(range(256)) * 5000
        info = store.put("ns/a.bin", data, "application/x-test")
        assert (info.key, info.size) == ("ns/a.bin", len(data))
        assert store.get("ns/a.bin") == data
        assert store.head("ns/a.bin") == info

    def test_an_empty_blob_is_a_blob(self, store: BlobStore) -> None:
        store.put("empty", b"")
        assert store.get("empty") == b""
        assert store.get("empty", 0, 10) == b""
        head = store.head("empty")
        assert head is not None
        assert head.size == 0

    def test_a_put_replaces_what_was_there(self, store: BlobStore) -> None:
        first = store.put("k", b"one")
        second = store.put("k", b"two")
        assert store.get("k") == b"two"
        assert first.etag != second.etag

    @pytest.mark.parametrize(
        ("start", "end", "expected"),
        [
            (0, None, b"0123456789"),
            (3, None, b"3456789"),
            (2, 5, b"234"),
            (8, 100, b"89"),
            (10, 20, b""),
            (50, None, b""),
            (5, 5, b""),
            (6, 2, b""),
        ],
    )
    def test_a_range_is_cut_at_the_end(self, store: BlobStore, start: int, end: int | None, expected: bytes) -> None:
        store.put("digits", b"0123456789")
        assert store.get("digits", start, end) == expected

    def test_a_missing_blob_is_an_error_that_names_it(self, store: BlobStore) -> None:
        for read in (store.get, store.open, lambda key: store.get(key, 1, 2)):
            with pytest.raises(NotFoundError, match="no/such"):
                read("no/such")
        assert store.head("no/such") is None

    def test_a_stream_reads_and_seeks(self, store: BlobStore) -> None:
        data = bytes(range(256)) * 9000
        store.put("stream", data)
        with store.open("stream") as file:
            assert file.read(10) == data[:10]
            assert file.seek(1_000_003) == 1_000_003
            assert file.read(1000) == data[1_000_003:1_001_003]
            assert file.seek(-5, 2) == len(data) - 5
            assert file.read() == data[-5:]
            file.seek(0)
            assert file.read() == data

    def test_a_local_path_holds_the_bytes(self, store: BlobStore) -> None:
        store.put("p/q.bin", b"abc")
        path = store.local_path("p/q.bin")
        if path is not None:
            assert path.endswith("q.bin")
            with open(path, "rb") as file:
                assert file.read() == b"abc"

    def test_many_are_put_together(self, store: BlobStore) -> None:
        blobs = [(f"many/{number % 7}/{number}", b"x" * number, "text/plain") for number in range(100)]
        store.put_many(iter(blobs))
        assert {info.key: info.size for info in store.list("many/")} == {key: len(data) for key, data, _ in blobs}
        store.put_many([])
        store.put_many([("soon", b"1", "text/plain")], durable=False)
        assert store.get("soon") == b"1"

    def test_many_are_read_together_in_order_with_gaps(self, store: BlobStore) -> None:
        store.put_many((f"r/{number}", b"x" * number, "text/plain") for number in range(40))
        keys = [f"r/{number}" for number in (3, 99, 0, 39, 3)]
        assert list(store.get_many(keys)) == [b"xxx", None, b"", b"x" * 39, b"xxx"]
        assert list(store.get_many([])) == []

    def test_many_are_deleted_together(self, store: BlobStore) -> None:
        for key in ("m/1", "m/2", "m/3"):
            store.put(key, b"1")
        store.delete_many(["m/1", "m/never", "m/3"])
        store.delete_many([])
        assert [info.key for info in store.list()] == ["m/2"]

    def test_a_copy_stays_as_it_was_made(self, store: BlobStore) -> None:
        store.put("c/source", b"first", "text/plain")
        info = store.copy("c/source", "c/copy/of.it")
        assert (info.key, info.size) == ("c/copy/of.it", 5)
        assert store.head("c/copy/of.it") == info
        store.put("c/source", b"second")
        assert store.get("c/copy/of.it") == b"first"
        store.delete("c/source")
        assert store.get("c/copy/of.it") == b"first"
        store.put("c/source", b"third")
        store.copy("c/source", "c/copy/of.it")
        assert store.get("c/copy/of.it") == b"third"
        with pytest.raises(NotFoundError, match="c/never"):
            store.copy("c/never", "c/other")
        assert store.head("c/other") is None

    def test_a_file_is_put_and_stays_where_it_was(self, store: BlobStore, tmp_path: Path) -> None:
        source = tmp_path / "a segment.mp4"
        source.write_bytes(bytes(range(256)) * 50_000)
        info = store.put_file("files/one.mp4", source, "video/mp4")
        assert (info.key, info.size) == ("files/one.mp4", 12_800_000)
        assert store.get("files/one.mp4") == source.read_bytes()
        assert store.head("files/one.mp4") == info
        source.unlink()
        assert store.get("files/one.mp4", 256, 258) == b"\0\1"

    def test_a_file_replaces_what_was_there(self, store: BlobStore, tmp_path: Path) -> None:
        store.put("files/two", b"before")
        (tmp_path / "empty").write_bytes(b"")
        store.put_file("files/two", tmp_path / "empty")
        assert store.get("files/two") == b""

    def test_a_file_that_is_not_there_is_an_error_that_names_it(self, store: BlobStore, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match=r"nothing\.mp4"):
            store.put_file("files/three", tmp_path / "nothing.mp4")
        assert list(store.list()) == []

    def test_a_blob_is_written_to_a_file(self, store: BlobStore, tmp_path: Path) -> None:
        data = bytes(range(256)) * 50_000
        store.put("files/four", data)
        store.put("files/empty", b"")
        for key, expected in (("files/four", data), ("files/empty", b"")):
            store.get_file(key, tmp_path / "out")
            assert (tmp_path / "out").read_bytes() == expected
        (tmp_path / "out").write_bytes(b"changed")
        assert store.get("files/four") == data
        with pytest.raises(NotFoundError, match="files/never"):
            store.get_file("files/never", tmp_path / "out")
        with pytest.raises(FileNotFoundError):
            store.get_file("files/four", tmp_path / "no" / "folder")

    def test_sweeping_leaves_blobs_alone(self, store: BlobStore) -> None:
        store.put("kept", b"1")
        store.sweep()
        assert [info.key for info in store.list()] == ["kept"]

    def test_of_many_with_one_bad_key_nothing_bad_is_kept(self, store: BlobStore) -> None:
        with pytest.raises(ValidationError):
            store.put_many([("good", b"1", "text/plain"), ("../bad", b"2", "text/plain")])
        assert [info.key for info in store.list()] in ([], ["good"])

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_a_bad_key_is_refused_everywhere(self, store: BlobStore, key: str) -> None:
        for use in (
            lambda: store.put(key, b"x"),
            lambda: store.get(key),
            lambda: store.put_file(key, Path(__file__)),
            lambda: store.open(key),
            lambda: store.get_file(key, Path("never")),
            lambda: store.head(key),
            lambda: store.delete(key),
            lambda: store.local_path(key),
            lambda: store.sign("GET", key, expires_s=60),
            lambda: store.copy(key, "good"),
            lambda: store.copy("good", key),
            lambda: list(store.get_many([key])),
            lambda: store.delete_many([key]),
        ):
            with pytest.raises(ValidationError, match="key"):
                use()

    def test_odd_keys_are_kept_apart_and_listed_as_given(self, store: BlobStore, send: Send) -> None:
        for key in ODD_KEYS:
            store.put(key, key.encode())
        assert sorted(info.key for info in store.list()) == sorted(ODD_KEYS)
        for key in ODD_KEYS:
            assert store.get(key) == key.encode()
            assert send("GET", store.sign("GET", key, expires_s=60), b"") == (200, key.encode())

    def test_a_key_may_begin_another(self, store: BlobStore) -> None:
        store.put("a", b"1")
        store.put("a/b", b"2")
        store.put("a/b/c", b"3")
        assert [store.get(key) for key in ("a", "a/b", "a/b/c")] == [b"1", b"2", b"3"]
        store.delete("a/b")
        assert [store.head(key) is not None for key in ("a", "a/b", "a/b/c")] == [True, False, True]

    def test_a_list_is_by_string_prefix_in_key_order(self, store: BlobStore) -> None:
        keys = ["b/1", "b/10", "b/2", "b/2/x", "bb", "c", "é/z"]
        for key in reversed(keys):
            store.put(key, b"x")
        assert [info.key for info in store.list()] == keys
        assert [info.key for info in store.list("b")] == ["b/1", "b/10", "b/2", "b/2/x", "bb"]
        assert [info.key for info in store.list("b/")] == ["b/1", "b/10", "b/2", "b/2/x"]
        assert [info.key for info in store.list("b/1")] == ["b/1", "b/10"]
        assert [info.key for info in store.list("b/2/")] == ["b/2/x"]
        assert list(store.list("nothing/here")) == []
        assert list(store.list("d")) == []

    def test_a_deleted_blob_is_gone_and_may_be_put_again(self, store: BlobStore) -> None:
        store.put("d/e/f", b"1")
        store.delete("d/e/f")
        store.delete("d/e/f")
        store.delete("never/was")
        assert store.head("d/e/f") is None
        assert list(store.list()) == []
        store.put("d/e/f", b"2")
        assert store.get("d/e/f") == b"2"

    def test_a_prefix_is_deleted_and_counted(self, store: BlobStore) -> None:
        for key in ("x/1", "x/2/3", "xy", "z"):
            store.put(key, b"1")
        assert store.delete_prefix("x/") == 2
        assert [info.key for info in store.list()] == ["xy", "z"]
        assert store.delete_prefix("x") == 1
        assert store.delete_prefix("x") == 0
        with pytest.raises(ValidationError, match="every blob"):
            store.delete_prefix("")
        assert [info.key for info in store.list()] == ["z"]

    def test_a_reader_sees_a_whole_blob_while_it_is_replaced(self, store: BlobStore) -> None:
        versions = [bytes([number]) * 200_000 for number in (1, 2)]
        store.put("busy", versions[0])
        done = threading.Event()

        def write() -> None:
            for number in range(20):
                store.put("busy", versions[number % 2])
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        while not done.is_set():
            assert store.get("busy") in versions
        writer.join()

    def test_puts_and_deletes_beside_each_other_lose_nothing(self, store: BlobStore) -> None:
        errors: list[BaseException] = []

        def churn(name: str) -> None:
            try:
                for _ in range(30):
                    store.put(f"same/dir/{name}", name.encode())
                    assert store.get(f"same/dir/{name}") == name.encode()
                    store.delete(f"same/dir/{name}")
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=churn, args=(str(number),)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert list(store.list()) == []

    def test_a_signed_get_serves_the_blob_and_nothing_else(self, store: BlobStore, send: Send) -> None:
        store.put("s/a.txt", b"content", "text/plain")
        store.put("s/b.txt", b"other", "text/plain")
        url = store.sign("GET", "s/a.txt", expires_s=60)
        assert send("GET", url, b"") == (200, b"content")
        assert send("GET", url.replace("a.txt", "b.txt"), b"")[0] == 403
        assert send("PUT", url, b"mine")[0] == 403
        assert send("GET", url.split("?")[0], b"")[0] in (401, 403)
        assert store.get("s/a.txt") == b"content"

    def test_a_signed_put_stores_the_blob(self, store: BlobStore, send: Send) -> None:
        url = store.sign("PUT", "up/load.bin", expires_s=60, max_bytes=100)
        assert send("PUT", url, b"x" * 100)[0] in (200, 201, 204)
        assert store.get("up/load.bin") == b"x" * 100
        assert send("PUT", url.replace("load.bin", "evil.bin"), b"x")[0] == 403
        assert store.head("up/evil.bin") is None

    def test_a_signed_put_is_bound_to_its_size_where_the_store_says_so(self, store: BlobStore, send: Send) -> None:
        url = store.sign("PUT", "big.bin", expires_s=60, max_bytes=100)
        status, _ = send("PUT", url, b"x" * 101)
        if store.bounds_put_size:
            assert status == 413
            assert store.head("big.bin") is None
        else:
            head = store.head("big.bin")
            assert head is not None
            assert head.size == 101

    def test_a_signed_url_expires(self, store: BlobStore, send: Send) -> None:
        store.put("old", b"x")
        url = store.sign("GET", "old", expires_s=1)
        time.sleep(2.1)
        assert send("GET", url, b"")[0] == 403

    def test_a_signed_get_of_nothing_is_404(self, store: BlobStore, send: Send) -> None:
        assert send("GET", store.sign("GET", "not/there", expires_s=60), b"")[0] == 404

    @pytest.mark.parametrize("expires_s", [0, -1, MAX_EXPIRES_S + 1])
    def test_the_life_of_a_url_has_limits(self, store: BlobStore, expires_s: int) -> None:
        with pytest.raises(ValidationError, match="expires_s"):
            store.sign("GET", "k", expires_s=expires_s)

    def test_a_check_leaves_nothing_behind(self, store: BlobStore) -> None:
        store.check()
        assert list(store.list()) == []
