"""The contract of connectors, as tests: subclass `ConnectorContract` and give it a store with an empty folder.

```python
class TestMyConnector(ConnectorContract):
    @pytest.fixture
    def connector(self): return my_connector

    @pytest.fixture
    def config(self, server): return {"bucket": "tests", "endpoint_url": server.url}

    @pytest.fixture
    def credentials(self): return {"key": "right"}              # or None, where it takes none

    @pytest.fixture
    def wrong_credentials(self): return {"key": "wrong"}        # None: everybody may read

    @pytest.fixture
    def store(self, server): return server.folder("some/folder")    # a `WritableFolder`
```

The client is the one of the server, here also for this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from mediatheca.connectors import Connector, Entry, Source, SourceError
from mediatheca.kernel.errors import PayloadTooLargeError, ValidationError
from mediatheca.stores.fetch import Fetcher
from mediatheca.stores.fetch.storage import StorageHttp

NAMES = (
    "a.txt", "b c.txt", "d+e.txt", "deep/er/f.txt", "deep/g.txt", "naïve/ünï.txt", "percent%20.txt", "漢字.txt",
    "q?x=1&y#z.txt",
)  # fmt: skip
"""Names that come apart where something is encoded once too often, or once too little."""


class WritableFolder(Protocol):
    """The other side of a store: a folder that a test writes to. `path`: as a sync names it."""

    path: str

    def put(self, name: str, data: bytes) -> None: ...

    def delete(self, name: str) -> None: ...


class ConnectorContract:
    """What a connector does, whatever it reads."""

    places = True
    """False where a connection is one folder, and paths mean nothing."""

    @pytest.fixture
    def http(self) -> Iterator[StorageHttp]:
        with StorageHttp(Fetcher(allow="127.0.0.1/32")) as made:
            yield made

    @pytest.fixture
    def source(
        self, connector: Connector, config: dict[str, Any], credentials: Any, store: WritableFolder, http: StorageHttp
    ) -> Source:
        return opened(connector, config, credentials, http, store.path)

    def test_its_name_and_its_words(self, connector: Connector) -> None:
        assert connector.name.isidentifier()
        assert connector.name.islower()
        assert connector.summary.endswith(".")
        assert connector.name not in connector.also

    def test_every_file_is_listed_once_whatever_its_name(self, source: Source, store: WritableFolder) -> None:
        for name in NAMES:
            store.put(name, name.encode())
        source.check()
        for limit in (2, 1000):
            found = every(source, limit)
            assert sorted(entry.path for entry in found) == sorted(NAMES)
            assert len({entry.key for entry in found}) == len(NAMES)
        sizes = {entry.path: entry.size for entry in found}
        assert sizes == {name: len(name.encode()) for name in NAMES}
        assert all(entry.modified is None or entry.modified.tzinfo is not None for entry in found)

    def test_every_file_is_read_whatever_its_name(self, source: Source, store: WritableFolder, tmp_path: Path) -> None:
        for name in NAMES:
            store.put(name, name.encode())
        for entry in every(source, 1000):
            content = source.read(entry, tmp_path / "file", 1000)
            assert (tmp_path / "file").read_bytes() == entry.path.encode()
            assert content.etag == entry.etag
            assert source.stat(entry).etag == entry.etag

    def test_a_cursor_goes_on_after_its_page_for_who_comes_later(
        self, connector: Connector, config: dict[str, Any], credentials: Any, store: WritableFolder, source: Source
    ) -> None:
        for number in range(7):
            store.put(f"{number}.txt", b"x")
        first = source.page(None, 3)
        assert first.cursor is not None
        with StorageHttp(Fetcher(allow="127.0.0.1/32")) as http:
            later = opened(connector, config, credentials, http, store.path)
            rest = [*first.entries, *every(later, 3, first.cursor)]
        assert [entry.path for entry in rest] == [f"{number}.txt" for number in range(7)]

    def test_an_empty_folder_has_no_files_and_its_neighbours_are_not_its_own(
        self, source: Source, store: WritableFolder
    ) -> None:
        listing = source.page(None, 10)
        assert (list(listing.entries), listing.cursor) == ([], None)
        if not self.places:
            return
        store.put(f"../{store.path.rstrip('/').rsplit('/', 1)[-1]}-next/a.txt", b"x")
        assert every(source, 10) == []

    def test_a_file_that_changed_is_told_and_has_another_etag(
        self, source: Source, store: WritableFolder, tmp_path: Path
    ) -> None:
        store.put("a.txt", b"before")
        (before,) = every(source, 10)
        store.put("a.txt", b"after")
        with pytest.raises(SourceError) as caught:
            source.read(before, tmp_path / "file", 1000)
        assert (caught.value.kind, caught.value.transient, caught.value.fatal) == ("changed", True, False)
        now = source.stat(before)
        assert now.etag != before.etag
        assert now.size == 5
        source.read(now, tmp_path / "file", 1000)
        assert (tmp_path / "file").read_bytes() == b"after"

    def test_a_file_that_is_gone_is_not_found(self, source: Source, store: WritableFolder) -> None:
        store.put("a.txt", b"x")
        (entry,) = every(source, 10)
        store.delete("a.txt")
        with pytest.raises(SourceError) as caught:
            source.stat(entry)
        assert (caught.value.kind, caught.value.fatal) == ("not_found", False)
        assert every(source, 10) == []

    def test_no_more_is_read_than_asked_for(self, source: Source, store: WritableFolder, tmp_path: Path) -> None:
        store.put("a.bin", bytes(100_000))
        (entry,) = every(source, 10)
        with pytest.raises(PayloadTooLargeError):
            source.read(entry, tmp_path / "file", 99_999)
        source.read(entry, tmp_path / "file", 100_000)

    def test_wrong_credentials_end_everything_and_are_not_repeated(
        self,
        connector: Connector,
        config: dict[str, Any],
        wrong_credentials: Mapping[str, Any] | None,
        store: WritableFolder,
        http: StorageHttp,
    ) -> None:
        if wrong_credentials is None:
            return
        source = opened(connector, config, wrong_credentials, http, store.path)
        with pytest.raises(SourceError) as caught:
            source.check()
        assert (caught.value.kind, caught.value.fatal) == ("access_denied", True)
        for value in wrong_credentials.values():
            assert str(value) not in caught.value.message
            assert str(value) not in repr(source)

    def test_a_place_that_is_not_there_ends_everything(
        self, connector: Connector, config: dict[str, Any], credentials: Any, http: StorageHttp
    ) -> None:
        if not self.places:
            return
        there = connector.config.model_validate(config).model_dump()
        name = next(each for each in ("bucket", "container") if each in there)
        elsewhere = {key: value for key, value in config.items() if key != name}
        source = opened(connector, elsewhere, credentials, http, "no-such-place-here/folder")
        with pytest.raises(SourceError) as caught:
            source.check()
        assert caught.value.fatal

    def test_nobody_is_asked_where_nobody_may_be(
        self, connector: Connector, config: dict[str, Any], credentials: Any, store: WritableFolder
    ) -> None:
        with StorageHttp(Fetcher()) as guarded:
            source = opened(connector, config, credentials, guarded, store.path)
            with pytest.raises(ValidationError):
                source.check()

    def test_a_path_that_names_nothing_is_refused(
        self, connector: Connector, config: dict[str, Any], credentials: Any, http: StorageHttp
    ) -> None:
        if not self.places:
            return
        for path in ("x\x00y", "place/x\ny", "x" * 2000):
            with pytest.raises(ValidationError) as caught:
                opened(connector, config, credentials, http, path)
            assert caught.value.errors[0].loc == ("body", "source_path")

    def test_unknown_keys_of_the_configuration_are_not_kept(self, connector: Connector, config: dict[str, Any]) -> None:
        kept = connector.config.model_validate({**config, "secret_access_key": "swordfish", "token": "swordfish"})
        assert "swordfish" not in kept.model_dump_json()


def opened(connector: Connector, config: Mapping[str, Any], credentials: Any, http: StorageHttp, path: str) -> Source:
    """The folder `path`."""
    held = None if credentials is None else connector.credentials.model_validate(credentials)
    return connector.open(connector.config.model_validate(config), held, http, path)


def every(source: Source, limit: int, cursor: str | None = None) -> list[Entry]:
    """All files, page by page."""
    found: list[Entry] = []
    while True:
        listing = source.page(cursor, limit)
        found += listing.entries
        if listing.cursor is None:
            return found
        assert listing.cursor != cursor
        cursor = listing.cursor
