"""Costly results are computed once in a namespace, whatever is processed again, and come back bit for bit."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from counted_shop import Counted
from datapath_app import Application
from datapath_plugins.counted import weights_of
from datapath_shop import Shop, content, ok
from sqlalchemy import update

from mediatheca.flows.ingest.cache import UNUSED_DAYS, ResultCache, evict, file_of
from mediatheca.kernel import clock
from mediatheca.stores.db import tables
from mediatheca.stores.documents.payloads import encode_json

OBJECTS = [content(number, 1) for number in range(3)]


@pytest.fixture
def counted(application: Application, shop: Shop, tmp_path: Path) -> Counted:
    return Counted(application, shop, tmp_path)


def stored(counted: Counted, collection: str) -> list[tuple[bytes, bytes, list[bytes]]]:
    """Payload, vector and artifacts of every document, as bytes, without what names the collection."""
    services = counted.application.services
    found = []
    for row in counted.shop.documents(collection):
        (document,) = services.documents.get(collection, [row["document_id"]], vectors=True)
        payload = {name: value for name, value in document.payload.items() if name != "thumbnail_url"}
        files = [services.blobs.get(file["key"]) for file in document.system["document_blobs"]]
        found.append((encode_json(payload, "", ""), document.vectors["counted_extractor_v1_grams"].tobytes(), files))
    return sorted(found)


def test_a_second_collection_computes_nothing_and_gets_identical_documents(counted: Counted) -> None:
    counted.shop.create(OBJECTS)
    first, second = counted.collection(), counted.collection()
    assert counted.process(first)["status"] == "COMPLETED"
    assert counted.computed == 3
    assert counted.process(second)["status"] == "COMPLETED"
    assert counted.computed == 3
    assert stored(counted, first) == stored(counted, second) != []
    assert len(counted.entries()) == len(counted.files()) == 3


def test_running_a_batch_again_computes_nothing(counted: Counted) -> None:
    counted.shop.create(OBJECTS)
    collection = counted.collection()
    counted.process(collection)
    before = stored(counted, collection)
    batch = counted.process(collection, dedup_strategy="replace")
    assert batch["progress"]["written"] == len(before)
    assert counted.computed == 3
    assert stored(counted, collection) == before


def test_equal_objects_are_computed_once_and_each_gets_its_documents(counted: Counted) -> None:
    counted.shop.create([{**content(1, 1), "number": number} for number in range(4)])
    collection = counted.collection()
    assert counted.process(collection)["status"] == "COMPLETED"
    assert counted.computed == 1
    assert {row["number"] for row in counted.shop.documents(collection)} == {0, 1, 2, 3}


def test_only_fields_that_the_extractor_reads_make_a_difference(counted: Counted) -> None:
    (ident,) = counted.shop.create([{**content(1, 1), "tag": "a"}])
    collection = counted.collection()
    counted.process(collection)
    counted.shop.update(ident, {"number": 77})
    counted.process(collection)
    assert counted.computed == 1
    assert {row["number"] for row in counted.shop.documents(collection)} == {77}
    counted.shop.update(ident, {"tag": "b"})
    counted.process(collection)
    assert counted.computed == 2
    facts = [row["facts"] for row in counted.shop.documents(collection)]
    assert all(entry["tag"] == "b" and entry["seen"] == ["tag"] for entry in facts)


def test_other_weights_miss(counted: Counted) -> None:
    counted.shop.create(OBJECTS)
    counted.process(counted.collection())
    weights_of(str(counted.path)).write_text("sha256:second")
    counted.process(counted.collection())
    assert counted.computed == 6


def test_a_collection_takes_no_vectors_of_other_weights(counted: Counted) -> None:
    counted.shop.create(OBJECTS)
    collection = counted.collection()
    counted.process(collection)
    before = stored(counted, collection)
    weights_of(str(counted.path)).write_text("sha256:second")
    batch = counted.process(collection, dedup_strategy="replace")
    assert batch["status"] == "FAILED"
    failure = counted.shop.failures(batch["batch_id"])[0]
    assert "sha256:first" in failure["reason"]
    assert "make a new collection" in failure["reason"]
    assert stored(counted, collection) == before


def test_other_parameters_miss(counted: Counted) -> None:
    counted.shop.create(OBJECTS)
    counted.process(counted.collection())
    counted.parameters["artifact_bytes"] = 7
    counted.process(counted.collection())
    assert counted.computed == 6


def test_another_tenant_and_another_namespace_miss(application: Application, tmp_path: Path) -> None:
    first = Counted(application, application.shop(), tmp_path)
    neighbour = Counted(application, Shop.make(first.shop.client, "second"), tmp_path)
    shops = [neighbour, Counted(application, application.shop(), tmp_path)]
    for number, counted in enumerate(shops, start=1):
        counted.shop.create(OBJECTS)
        counted.process(counted.collection())
        assert counted.computed == 3 * number


def test_failures_are_tried_again_and_what_worked_is_not(counted: Counted, tmp_path: Path) -> None:
    counted.shop.create([*OBJECTS, {"number": 9, "text": f"!until {tmp_path / 'now'}"}])
    collection = counted.collection()
    batch = counted.process(collection)
    assert batch["status"] == "COMPLETED_WITH_ERRORS"
    assert len(counted.entries()) == 3
    (tmp_path / "now").touch()
    counted.process(collection, dedup_strategy="replace")
    assert counted.computed == 5


@pytest.mark.parametrize("damage", ["torn", "flipped", "foreign", "gone"])
def test_a_broken_file_is_a_miss_and_leaves_nothing_behind(counted: Counted, damage: str) -> None:
    counted.shop.create(OBJECTS)
    counted.process(counted.collection())
    cache, blobs = ResultCache(counted.application.services, counted.scope), counted.application.services.blobs
    first, second, third = (row["key"] for row in counted.entries())
    path = file_of(counted.scope, first)
    data = blobs.get(path)
    match damage:
        case "torn":
            blobs.put(path, data[: len(data) // 2])
        case "flipped":
            blobs.put(path, data[:-200] + bytes([data[-200] ^ 1]) + data[-199:])
        case "foreign":
            blobs.put(path, blobs.get(file_of(counted.scope, second)))
        case "gone":
            blobs.delete(path)
    assert {key for key, _ in cache.load([first, second, third, "0" * 64])} == {second, third}
    assert blobs.head(path) is None
    assert {row["key"] for row in counted.entries()} == {second, third}
    counted.process(counted.collection())
    assert counted.computed == 4
    assert len(counted.entries()) == 3
    assert blobs.get(path) == data


def test_what_was_not_used_for_longest_is_evicted_first(tmp_path: Path) -> None:
    application = Application(tmp_path / "data")
    try:
        counted = Counted(application, application.shop(), tmp_path)
        collection, services = counted.collection(), application.services
        for number in range(4):
            counted.shop.create([content(number, 1)])
            counted.process(collection)
        oldest, *_, newest = (row["key"] for row in counted.entries())
        assert list(ResultCache(services, counted.scope).load([oldest]))
        assert evict(services) == 0
        with application.db.system() as connection:
            connection.execute(update(tables.cached_results).values(size_bytes=400 << 10))
        assert evict(limited(application, 1)) == 2
        assert [row["key"] for row in counted.entries()] == [newest, oldest]
        assert sorted(counted.files()) == sorted(file_of(counted.scope, key) for key in (newest, oldest))
        assert evict(limited(application, 0)) == 2
        assert counted.files() == []
    finally:
        application.close()


def limited(application: Application, cache_mb: int) -> Any:
    settings = application.services.settings.model_copy(update={"cache_mb": cache_mb})
    return dataclasses.replace(application.services, settings=settings)


def test_what_nobody_uses_for_a_month_goes_though_there_is_room(counted: Counted) -> None:
    counted.shop.create(OBJECTS)
    counted.process(counted.collection())
    old, *kept = (row["key"] for row in counted.entries())
    table, long_ago = tables.cached_results, clock.now() - timedelta(days=UNUSED_DAYS + 1)
    with counted.application.db.system() as connection:
        connection.execute(update(table).where(table.c.key == old).values(last_used_at=long_ago))
    evict(counted.application.services)  # as the chore of the application does, which may be faster
    assert [row["key"] for row in counted.entries()] == kept


def test_a_deleted_namespace_takes_its_entries_and_files_with_it(counted: Counted) -> None:
    counted.shop.create(OBJECTS)
    counted.process(counted.collection())
    scope = counted.scope
    assert counted.files()
    ok(counted.shop.client.delete(f"/v1/namespaces/{counted.shop.namespace}?force=true"))
    with counted.application.db.read(scope) as tx:
        assert tx.count("cached_results", {}) == 0
    assert list(counted.application.services.blobs.list(f"{scope.organization_id}/{scope.namespace_id}/")) == []


def test_extractors_that_do_not_ask_for_it_keep_nothing(application: Application, shop: Shop) -> None:
    shop.create(OBJECTS)
    shop.process()
    with application.db.read(application.scope(shop)) as tx:
        assert tx.count("cached_results", {}) == 0
