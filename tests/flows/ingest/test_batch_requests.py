"""What lists of batches and their submission accept: narrowing keys, `force`, and options that are not there."""

from __future__ import annotations

from typing import Any

from datapath_plugins.hashed import NAME
from datapath_process import wait_until
from datapath_shop import Shop, content, ok, parts_of


def listed(shop: Shop, path: str = "/v1/batches/list", **body: Any) -> list[str]:
    return sorted(row["batch_id"] for row in ok(shop.client.post(path, json=body))["results"])


def draft(shop: Shop, bucket: str | None = None, **body: Any) -> str:
    return str(ok(shop.client.post(f"/v1/buckets/{bucket or shop.bucket}/batches", json=body))["batch_id"])


def test_batches_are_listed_by_their_status_their_bucket_and_their_collection(shop: Shop) -> None:
    shop.create([content(1, 1)])
    other = shop.add_collection("other")
    mine = f"/v1/buckets/{shop.bucket}/batches/list"
    first = shop.ended(shop.trigger(other))["batch_id"]
    waiting = draft(shop, collection_ids=[shop.collection])
    schema = {"properties": {"text": {"type": "string"}}}
    elsewhere = ok(shop.client.post("/v1/buckets", json={"bucket_name": "empty", "bucket_schema": schema}))
    objects = f"/v1/buckets/{elsewhere['bucket_id']}/objects"
    ok(shop.client.post(objects, json={"key_prefix": "/a"}))
    far = draft(shop, elsewhere["bucket_id"])
    ended = shop.batch(first)["status"]
    for path in ("/v1/batches/list", mine):
        assert listed(shop, path, status=ended) == [first]
        assert listed(shop, path, status="canceled") == []
        assert listed(shop, path, collection_id=shop.collection, status="DRAFT") == [waiting]
        assert listed(shop, path, collection_id="no_such_collection") == []
        assert first in listed(shop, path, collection_id="other")
    assert listed(shop, status="draft") == sorted([waiting, far])
    assert listed(shop, bucket_id="empty") == listed(shop, bucket_id=[elsewhere["bucket_id"]]) == [far]
    assert listed(shop, mine, bucket_id="empty") == []
    either = {"OR": [{"status": "DRAFT"}, {"status": ended}]}
    assert listed(shop, bucket_id=shop.bucket, filters=either) == sorted([first, waiting])


def test_a_narrowing_key_of_another_type_is_refused(shop: Shop) -> None:
    for key in ("status", "bucket_id", "collection_id"):
        response = shop.client.post("/v1/batches/list", json={key: {"eq": "x"}})
        assert (response.status_code, key in response.text) == (422, True)


def test_a_batch_that_has_ended_runs_again_only_when_submitted_with_force(shop: Shop) -> None:
    shop.create([content(1, 1)])
    batch_id = draft(shop, dedup_strategy="force")
    path = f"/v1/buckets/{shop.bucket}/batches/{batch_id}/submit"
    task = ok(shop.client.post(path, params={"force": True}))["task_id"]
    first = shop.ended(batch_id)
    assert ok(shop.client.post(path))["task_id"] == task
    assert shop.batch(batch_id)["completed_at"] == first["completed_at"]
    again = ok(shop.client.post(path, params={"force": True}))
    assert again["task_id"] != task
    second = shop.ended(batch_id)
    assert (second["status"], second["documents_written"]) == ("COMPLETED", first["documents_written"])
    assert second["completed_at"] > first["completed_at"]


def test_options_that_are_not_there_are_answered_with_warnings(shop: Shop) -> None:
    (object_id,) = shop.create([content(1, 1)])
    path = f"/v1/buckets/{shop.bucket}/batches/{draft(shop)}"
    body = {"object_ids": [object_id]}
    added = ok(shop.client.post(f"{path}/objects", params={"skip_validation": True}, json=body))
    assert "skip_validation" in " ".join(added["warnings"])
    assert "warnings" not in ok(shop.client.post(f"{path}/objects", json=body))
    options = {"include_processing_history": True, "webhook_url": "https://example.com/hook", "colection_ids": []}
    said = " ".join(ok(shop.client.post(f"{path}/submit", json=options))["warnings"])
    assert all(name in said for name in ("include_processing_history", "webhook_url", "did you mean 'collection_ids'"))
    assert "warnings" not in ok(shop.client.post(f"{path}/submit", json={"include_processing_history": False}))


def test_a_draft_for_a_collection_that_its_bucket_does_not_feed_is_refused(shop: Shop) -> None:
    shop.create([content(1, 1)])
    body = {"collection_ids": [shop.collection, "nobody", "nothing"]}
    response = shop.client.post(f"/v1/buckets/{shop.bucket}/batches", json=body)
    assert (response.status_code, "nobody, nothing" in response.text) == (404, True)


def test_objects_of_several_buckets_are_triggered_by_their_ids(shop: Shop) -> None:
    schema = {"properties": {"text": {"type": "string"}}}
    other = ok(shop.client.post("/v1/buckets", json={"bucket_name": "more", "bucket_schema": schema}))["bucket_id"]
    body = {
        "collection_name": "both",
        "source": {"type": "bucket", "bucket_ids": [shop.bucket, other]},
        "feature_extractor": {"feature_extractor_name": NAME, "input_mappings": {"text": "text"}},
    }
    both = ok(shop.client.post("/v1/collections", json=body))["collection_id"]
    here, _ = shop.create([content(1, 1), content(2, 1)])
    there = ok(shop.client.post(f"/v1/buckets/{other}/objects", json={"text": "from the other bucket"}))["object_id"]
    path = f"/v1/collections/{both}/trigger"
    for batch_id in ok(shop.client.post(path, json={"object_ids": [there, here]}))["batch_ids"]:
        wait_until(lambda ident=batch_id: ok(shop.client.get(f"/v1/batches/{ident}"))["status"] == "COMPLETED")
    assert shop.texts(both) == sorted([*parts_of(1, 1), "from the other bucket"])
    response = shop.client.post(path, json={"object_ids": [there, "obj_of_nobody"]})
    assert (response.status_code, "obj_of_nobody" in response.text, there in response.text) == (404, True, False)


def test_an_empty_list_of_ids_chooses_nothing(shop: Shop) -> None:
    shop.create([content(1, 1), {"number": 2, "text": "!raise"}])
    batch = shop.process()
    for field in ("object_ids", "document_ids", "collection_ids", "tier_nums"):
        path = f"/v1/buckets/{shop.bucket}/batches/{batch['batch_id']}/retry"
        assert ok(shop.client.post(path, json={field: []}))["retried_object_count"] == 0
    assert shop.client.post(f"/v1/collections/{shop.collection}/trigger", json={"object_ids": []}).status_code == 400
