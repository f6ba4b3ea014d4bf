"""Chores: drafts that nobody submits, files that no document names; and documents of a declared form."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from counted_shop import Counted
from datapath_app import Application
from datapath_plugins.counted import NAME as COUNTED
from datapath_process import wait_until
from datapath_shop import Shop, content, ok
from tier_shop import listed, processed, reading

from mediatheca.flows.ingest.upkeep import DRAFT_AGE, reap_drafts, sweep_artifacts
from mediatheca.kernel import clock


def artifacts(application: Application, shop: Shop, collection: str) -> set[str]:
    scope = application.scope(shop)
    prefix = f"{scope.organization_id}/{scope.namespace_id}/artifacts/{collection}/"
    return {info.key for info in application.services.blobs.list(prefix)}


def swept(sweep: Callable[[], int]) -> int:
    """How many files went. The indexer puts tables in order now and then; what is swept waits for that."""
    return wait_until(sweep)


def named(shop: Shop, collection: str) -> set[str]:
    """Keys of the files that documents show."""
    found = shop.documents(collection)
    return {blob["url"] for row in found for blob in row["document_blobs"] if "/artifacts/" in blob["url"]}


def test_files_of_replaced_documents_are_swept_and_those_in_use_stay(
    application: Application, shop: Shop, tmp_path: Path
) -> None:
    counted = Counted(application, shop, tmp_path)
    collection = counted.collection()
    first, _ = shop.create([content(0, 1), content(1, 1)])
    processed(shop)
    before = artifacts(application, shop, collection)
    shop.update(first, content(0, 2))
    processed(shop)
    assert len(artifacts(application, shop, collection)) > len(named(shop, collection))
    assert swept(lambda: sweep_artifacts(application.services)) >= 1
    left = artifacts(application, shop, collection)
    assert left == named(shop, collection)
    assert before & left  # of the object that did not change
    assert sweep_artifacts(application.services) == 0


def test_a_file_that_only_a_document_of_a_later_tier_names_stays(
    application: Application, shop: Shop, tmp_path: Path
) -> None:
    counted = Counted(application, shop, tmp_path)
    first = counted.collection()
    last = reading(shop, "with thumbnails", [first], passthrough=["thumbnail_url"])
    (ident,) = shop.create([content(0, 1)])
    processed(shop)
    kept = {row["thumbnail_url"] for row in shop.documents(last)}
    assert kept
    for row in shop.documents(first):
        ok(shop.client.delete(f"/v1/collections/{first}/documents/{row['document_id']}"))
    assert sweep_artifacts(application.services) == 0
    assert artifacts(application, shop, first)
    shop.delete(ident)
    assert swept(lambda: sweep_artifacts(application.services)) == len(kept)


def test_files_of_a_deleted_collection_go_when_nothing_names_them(
    application: Application, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mediatheca.flows.ingest.upkeep._MOST", 1)
    counted = Counted(application, shop, tmp_path)
    first = counted.collection()
    last = reading(shop, "with thumbnails", [first], passthrough=["thumbnail_url"])
    shop.create([content(0, 1), content(1, 1)])
    processed(shop)
    ok(shop.client.delete(f"/v1/collections/{first}"))
    assert sweep_artifacts(application.services) == 0
    assert artifacts(application, shop, first) == {row["thumbnail_url"] for row in shop.documents(last)}
    ok(shop.client.delete(f"/v1/collections/{last}"))
    assert swept(lambda: sweep_artifacts(application.services)) >= 2
    assert artifacts(application, shop, first) == set()


def test_nothing_is_swept_while_something_is_processed(application: Application, shop: Shop, tmp_path: Path) -> None:
    counted = Counted(application, shop, tmp_path)
    collection = counted.collection()
    (ident,) = shop.create([content(0, 1)])
    processed(shop)
    shop.delete(ident)
    scope = application.scope(shop)
    with application.db.begin(scope) as tx:
        chunk = {"chunk_id": "open", "batch_id": "btch_x", "collection_id": collection, "tier": 0}
        tx.insert("chunks", [{**chunk, "status": "PROCESSING", "object_ids": [], "updated_at": clock.now()}])
    assert sweep_artifacts(application.services) == 0
    with application.db.begin(scope) as tx:
        tx.delete("chunks", {"chunk_id": "open"})
    with application.services.leases.acquire(scope, collection):  # canceled, and already writing
        assert sweep_artifacts(application.services) == 0
    assert swept(lambda: sweep_artifacts(application.services)) >= 1
    assert artifacts(application, shop, collection) == set()


def test_a_draft_that_nobody_submits_is_canceled_and_a_young_one_stays(application: Application, shop: Shop) -> None:
    shop.create([content(0, 1)])
    path = f"/v1/buckets/{shop.bucket}/batches"
    old, young = (ok(shop.client.post(path, json={}))["batch_id"] for _ in range(2))
    with application.db.begin(application.scope(shop)) as tx:
        tx.update("batches", {"batch_id": old}, {"updated_at": clock.now() - DRAFT_AGE - timedelta(seconds=1)})
    reap_drafts(application.services)  # unless the chore of the application was faster
    assert (shop.batch(old)["status"], shop.batch(young)["status"]) == ("CANCELED", "DRAFT")
    assert shop.client.post(f"{path}/{old}/submit").status_code == 409


@pytest.mark.parametrize("mode", ["strict", "warn", "off"])
def test_documents_are_held_against_the_schema_of_their_collection(shop: Shop, mode: str) -> None:
    schema = {"type": "object", "properties": {"number": {"type": "integer", "maximum": 1}}}
    extractor: dict[str, Any] = {"feature_extractor_name": "datapath_extractor", "input_mappings": {"text": "text"}}
    body = {
        "collection_name": f"checked {mode}",
        "source": {"type": "bucket", "bucket_id": shop.bucket},
        "feature_extractor": {**extractor, "field_passthrough": ["number"]},
        "document_schema": schema,
        "schema_validation": mode,
    }
    collection = ok(shop.client.post("/v1/collections", json=body))["collection_id"]
    shop.create([content(number, 1) for number in range(4)])
    batch = shop.ended(shop.trigger(collection))
    good = {row["number"] for row in shop.documents(collection)}
    entries = listed(shop, batch["batch_id"], outcome="all", collection_id=collection)
    outcomes = {(row["outcome"], row["kind"]) for row in entries}
    assert good == ({0, 1} if mode == "strict" else {0, 1, 2, 3})
    assert outcomes == {"strict": {("failed", "object")}, "warn": {("dropped", "warning")}, "off": set()}[mode]
    if mode == "warn":
        assert batch["status"] == "COMPLETED"
        assert {row["object_id"] for row in batch["partial_objects"]} == {row["object_id"] for row in entries}
    assert shop.client.post("/v1/collections", json={**body, "document_schema": {"type": "nothing"}}).status_code == 422


def test_a_counted_collection_of_a_collection_reuses_what_equal_documents_gave(
    application: Application, shop: Shop, tmp_path: Path
) -> None:
    counted = Counted(application, shop, tmp_path)
    reading(shop, "costly", [shop.collection], extractor=COUNTED, parameters=counted.parameters, passthrough=["number"])
    shop.create([content(5, 1), content(5, 1), content(5, 1)])
    assert processed(shop)["status"] == "COMPLETED"
    assert 1 <= counted.computed <= 3
    assert counted.computed == len({row["text"] for row in shop.documents()})
