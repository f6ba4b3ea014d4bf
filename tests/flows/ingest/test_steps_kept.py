"""Steps of extractors are kept in the database and the blob store, each namespace its own."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from counted_shop import Counted
from datapath_app import Application
from datapath_shop import Shop

from mediatheca.extractors import Artifact, Dropped, Row
from mediatheca.flows.ingest.cache import ResultCache, evict, file_of
from mediatheca.flows.ingest.cache_file import Entry, StoredArtifact
from mediatheca.flows.ingest.spool import Spool
from mediatheca.kernel import clock
from mediatheca.telemetry import WORK

KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def counted(application: Application, shop: Shop, tmp_path: Path) -> Counted:
    return Counted(application, shop, tmp_path)


def cache_of(counted: Counted) -> ResultCache:
    return ResultCache(counted.application.services, counted.scope)


def test_a_step_is_there_at_once_and_for_others_after_the_flush(counted: Counted) -> None:
    cache = cache_of(counted)
    assert cache.recall(KEY) is None
    cache.remember(KEY, b"made")
    assert cache.recall(KEY) == b"made"
    assert cache_of(counted).recall(KEY) is None
    cache.flush()
    assert cache.recall(KEY) == cache_of(counted).recall(KEY) == b"made"
    assert cache_of(counted).recall(OTHER) is None


def test_steps_of_another_namespace_are_not_seen(counted: Counted, application: Application) -> None:
    cache = cache_of(counted)
    cache.remember(KEY, b"made")
    cache.flush()
    stranger = application.scope(application.shop())
    assert ResultCache(application.services, stranger).recall(KEY) is None
    assert ResultCache(application.services, replace(counted.scope, namespace_id="ns_none")).recall(KEY) is None


def test_a_step_whose_file_is_gone_or_torn_is_made_again(counted: Counted) -> None:
    cache, blobs = cache_of(counted), counted.application.services.blobs
    for number, spoil in enumerate((b"torn", b"")):
        cache.remember(KEY, b"made")
        cache.flush()
        (row,) = counted.entries()
        blobs.put(file_of(counted.scope, row["key"]), spoil)
        assert cache.recall(KEY) is None, number
        assert counted.entries() == []
    cache.remember(KEY, b"made")
    cache.flush()
    (row,) = counted.entries()
    blobs.delete(file_of(counted.scope, row["key"]))
    assert cache.recall(KEY) is None


def test_threads_remember_and_recall_side_by_side(counted: Counted) -> None:
    cache, wrong = cache_of(counted), []

    def work(number: int) -> None:
        for turn in range(20):
            key = f"{number:02d}{turn:02d}".ljust(64, "0")
            cache.remember(key, key.encode())
            if turn % 7 == 0:
                cache.flush()
            if cache.recall(key) != key.encode():
                wrong.append(key)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache.flush()
    assert wrong == []
    assert len(counted.entries()) == len(counted.files()) == 80


def test_a_step_that_is_used_stays_longer(counted: Counted) -> None:
    cache = cache_of(counted)
    cache.remember(KEY, b"made")
    cache.flush()
    (before,) = counted.entries()
    moment = clock.now()
    assert cache.recall(KEY) == b"made"
    cache.flush()
    (after,) = counted.entries()
    assert before["last_used_at"] <= moment <= after["last_used_at"]


def test_what_was_dropped_and_large_files_are_kept_with_an_item(counted: Counted, tmp_path: Path) -> None:
    services, cache = counted.application.services, cache_of(counted)
    (tmp_path / "segment").write_bytes(b"f" * 5_000_000)
    video = Artifact(b"", "video/mp4", ".mp4", str(tmp_path / "segment"), "processed")
    rows = [Row({"n": 1}, artifacts={"segment_url": video, "picture": Artifact(b"p" * 2_000_000, "image/png", ".png")})]
    cache.add(KEY, Entry(rows, [Dropped("page 2", "torn", kind="page")]))
    (tmp_path / "segment").unlink()
    ((key, entry),) = cache_of(counted).load([KEY])
    assert (key, entry.dropped) == (KEY, [Dropped("page 2", "torn", kind="page")])
    stored = entry.rows[0].artifacts["segment_url"]
    assert isinstance(stored, StoredArtifact)
    assert (stored.size(), stored.role) == (5_000_000, "processed")
    with Spool(services.blobs) as spool:
        spool.add({"copied/one.mp4": stored, "copied/two.png": entry.rows[0].artifacts["picture"]})
    assert services.blobs.get("copied/one.mp4") == b"f" * 5_000_000
    (row,) = counted.entries()
    assert row["size_bytes"] > 7_000_000


def test_an_entry_that_lost_a_file_beside_it_is_made_again(counted: Counted) -> None:
    services, rows = counted.application.services, [Row({}, artifacts={"a": Artifact(b"p" * 2_000_000, "a/b", ".c")})]
    for spoil in (services.blobs.delete, lambda key: services.blobs.put(key, b"torn")):
        cache_of(counted).add(KEY, Entry(rows))
        ((_, entry),) = cache_of(counted).load([KEY])
        stored = entry.rows[0].artifacts["a"]
        assert isinstance(stored, StoredArtifact)
        spoil(stored.key)
        assert list(cache_of(counted).load([KEY])) == []
        assert counted.files() == counted.entries() == []


def test_an_eviction_takes_the_files_beside_an_entry_too(
    counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, cache = counted.application.services, cache_of(counted)
    for number in range(3):
        data = bytes([number]) * 3_000_000
        cache.add(f"{number}" * 64, Entry([Row({}, artifacts={"a": Artifact(data, "a/b", ".c")})]))
    cache.flush()
    assert len(counted.files()) == 6
    monkeypatch.setattr("mediatheca.flows.ingest.cache._ROOM", 0.0)
    squeezed = replace(services, settings=services.settings.model_copy(update={"cache_mb": 1}))
    assert evict(squeezed) >= 3
    assert counted.files() == counted.entries() == []


def test_an_entry_that_would_take_half_of_all_room_is_not_kept(counted: Counted) -> None:
    services = counted.application.services
    small = replace(services, settings=services.settings.model_copy(update={"cache_mb": 4}))
    ResultCache(small, counted.scope).add(KEY, Entry([Row({}, artifacts={"a": Artifact(b"x" * 3_000_000)})]))
    assert counted.entries() == []


def test_where_the_time_of_items_went_is_counted(counted: Counted) -> None:
    def spent() -> float:
        name = "mediatheca_extraction_seconds_total"
        return sum(WORK.get_sample_value(name, {"part": part}) or 0 for part in ("decode", "model", "other"))

    before = spent()
    counted.shop.create([{"text": "one"}])
    assert counted.process(counted.collection())["status"] == "COMPLETED"
    assert spent() > before
