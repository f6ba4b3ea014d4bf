"""Namespaces: names and ids, extractors, and deleting one with everything in it."""

from __future__ import annotations

import httpx
import pytest

from helpers import failed, ok
from server import Tenant


def test_the_documented_request_works_as_printed(admin: httpx.Client) -> None:
    body = {
        "namespace_name": "production",
        "feature_extractors": [{"feature_extractor_name": "multimodal_extractor", "version": "v1"}],
    }
    made = ok(admin.post("/v1/namespaces", json=body))
    assert made["namespace_id"].startswith("ns_")
    assert made["feature_extractors"][0]["feature_extractor_id"] == "multimodal_extractor_v1"
    assert not made.get("warnings")


def test_a_namespace_is_found_by_id_and_by_name(admin: httpx.Client, namespace: str) -> None:
    assert ok(admin.get(f"/v1/namespaces/{namespace}")) == ok(admin.get("/v1/namespaces/main"))


def test_a_taken_name_is_refused_and_says_by_whom(admin: httpx.Client, namespace: str, stranger: Tenant) -> None:
    error = failed(admin.post("/v1/namespaces", json={"namespace_name": "main"}), 409)
    assert error["details"]["existing_id"] == namespace
    with stranger.client() as other:
        ok(other.post("/v1/namespaces", json={"namespace_name": "main"}))


def test_an_unknown_extractor_is_not_found(admin: httpx.Client) -> None:
    body = {"namespace_name": "typo", "feature_extractors": [{"feature_extractor_name": "text_extracto"}]}
    error = failed(admin.post("/v1/namespaces", json=body), 404)
    assert error["details"]["did_you_mean"] == "text_extractor_v1"
    failed(admin.get("/v1/namespaces/typo"), 404)


@pytest.mark.parametrize("name", ["x", "-minus", "ns_looks_like_an_id", "a/b", "e" * 101, ""])
def test_a_bad_name_is_refused(admin: httpx.Client, name: str) -> None:
    assert "namespace_name" in failed(admin.post("/v1/namespaces", json={"namespace_name": name}), 422)["message"]


def test_an_id_may_be_chosen_and_two_organizations_may_choose_the_same(admin: httpx.Client, stranger: Tenant) -> None:
    assert ok(admin.post("/v1/namespaces", json={"namespace_id": "shop", "name": "Shop"}))["namespace_id"] == "shop"
    failed(admin.post("/v1/namespaces", json={"namespace_name": "shop"}), 409)
    with stranger.client() as other:
        ok(other.post("/v1/namespaces", json={"namespace_id": "shop", "name": "Their shop"}))
    assert ok(admin.get("/v1/namespaces/shop"))["namespace_name"] == "Shop"


def test_a_standalone_namespace_keeps_its_vectors(admin: httpx.Client) -> None:
    body = {"namespace_id": "byo", "vector_configs": [{"name": "v", "dimension": 4}]}
    made = ok(admin.post("/v1/namespaces/standalone", json=body))
    assert (made["namespace_id"], made["mode"]) == ("byo", "standalone")
    assert made["vector_configs"] == [{"name": "v", "dimension": 4, "metric": "cosine"}]


def test_namespaces_are_listed_both_ways(admin: httpx.Client) -> None:
    for name in ("alpha", "beta", "gamma"):
        ok(admin.post("/v1/namespaces", json={"namespace_name": name}))
    newest = ["gamma", "beta", "alpha"]
    assert [n["namespace_name"] for n in ok(admin.get("/v1/namespaces"))["results"]] == newest
    assert [n["namespace_name"] for n in ok(admin.post("/v1/namespaces/list"))["results"]] == newest
    body = {"search": "BET", "sort": {"field": "namespace_name", "direction": "asc"}}
    assert [n["namespace_name"] for n in ok(admin.post("/v1/namespaces/list", json=body))["results"]] == ["beta"]


def test_a_namespace_is_changed(admin: httpx.Client, namespace: str) -> None:
    indexes = [{"field_name": "price", "type": "float"}]
    changed = ok(admin.patch("/v1/namespaces/main", json={"description": "d", "payload_indexes": indexes}))
    assert (changed["description"], changed["payload_index_count"]) == ("d", 1)
    assert ok(admin.put("/v1/namespaces/main", json={"namespace_name": "renamed"}))["namespace_id"] == namespace
    failed(admin.get("/v1/namespaces/main"), 404)


def test_the_new_name_works_as_a_header_and_the_old_one_does_not(admin: httpx.Client, namespace: str) -> None:
    assert admin.get("/v1/buckets", headers={"X-Namespace": "main"}).status_code == 200
    ok(admin.patch("/v1/namespaces/main", json={"namespace_name": "renamed"}))
    assert admin.get("/v1/buckets", headers={"X-Namespace": "renamed"}).status_code == 200
    failed(admin.get("/v1/buckets", headers={"X-Namespace": "main"}), 404)


def test_a_namespace_with_buckets_is_only_deleted_with_force(
    admin: httpx.Client, client: httpx.Client, bucket: str
) -> None:
    blob = {"property": "text", "data": "x" * 20_000}
    ok(client.post(f"/v1/buckets/{bucket}/objects", json={"title": "t", "blobs": [blob]}))
    error = failed(admin.delete("/v1/namespaces/main"), 409)
    assert error["details"] == {"retryable": False, "bucket_count": 1, "collection_count": 0}
    answer = ok(admin.delete("/v1/namespaces/main?force=true"))
    assert answer["success"] is True
    failed(admin.get("/v1/namespaces/main"), 404)
    failed(client.get("/v1/buckets"), 404)


def test_deleting_a_namespace_removes_every_row_and_file(
    admin: httpx.Client, client: httpx.Client, bucket: str, tenant: Tenant, namespace: str
) -> None:
    ok(client.post(f"/v1/buckets/{bucket}/objects", json={"blobs": [{"property": "text", "data": "y" * 20_000}]}))
    services = tenant.server.app.services
    prefix = f"{tenant.organization_id}/{namespace}/"
    assert len(list(services.blobs.list(prefix))) == 1
    ok(admin.delete("/v1/namespaces/main?force=true"))
    assert list(services.blobs.list(prefix)) == []
    ok(admin.post("/v1/namespaces", json={"namespace_name": "main", "namespace_id": namespace[:60]}))
    assert ok(client.get("/v1/buckets"))["results"] == []


def test_statistics_count_what_is_inside(
    admin: httpx.Client, client: httpx.Client, bucket: str, namespace: str
) -> None:
    ok(client.post(f"/v1/buckets/{bucket}/objects", json={"title": "one"}))
    stats = ok(admin.get("/v1/namespaces/main/stats"))
    assert (stats["namespace_id"], stats["bucket_count"], stats["object_count"]) == (namespace, 1, 1)
    assert ok(admin.post("/v1/namespaces/stats/batch", json={"namespace_ids": ["main"]}))["stats"][namespace] == stats
    failed(admin.post("/v1/namespaces/stats/batch", json={"namespace_ids": ["main", "nope"]}), 404)


def test_features_that_are_missing_are_refused_rather_than_ignored(admin: httpx.Client) -> None:
    assert (
        failed(admin.post("/v1/namespaces", json={"namespace_name": "tmp", "ttl_seconds": 60}), 403)["type"]
        == "NotEnabledError"
    )
