"""Documents one at a time and in lists, through the HTTP API over real stores."""

from __future__ import annotations

from typing import Any

import pytest
from documents_world import TEXT, URI, Tenant, World, vector_of
from mixpeek.models.document_response import DocumentResponse
from mixpeek.models.generic_delete_response import GenericDeleteResponse
from mixpeek.models.list_documents_response import ListDocumentsResponse

from mediatheca.kernel.documents import Document


def ids(found: dict[str, Any]) -> list[str]:
    return [document["document_id"] for document in found["results"]]


def test_a_document_is_created_read_changed_and_deleted(home: Tenant, path: str) -> None:
    made = home.call(
        "POST", path, {"title": "A red chair", "price": 12.5, "metadata": {"shelf": "a"}, "root_object_id": "obj_1"}
    )
    DocumentResponse.from_dict(made)
    assert made["document_id"].startswith("doc_")
    assert made["searchable_at"].endswith("Z")
    shown = home.call("GET", f"{path}/{made['document_id']}")
    parsed = DocumentResponse.from_dict(shown)
    assert parsed is not None
    assert parsed.internal is not None
    assert parsed.internal.lineage is not None
    assert parsed.internal.lineage.source_type == "direct_upsert"
    assert parsed.additional_properties["title"] == "A red chair"
    assert (shown["metadata"], shown["root_object_id"]) == ({"shelf": "a"}, "obj_1")
    assert shown["created_at"] == shown["_internal"]["created_at"]
    changed = home.call("PATCH", f"{path}/{made['document_id']}", {"price": 9, "metadata": {"row": 3}})
    assert (changed["title"], changed["price"]) == ("A red chair", 9)
    assert changed["metadata"] == {"shelf": "a", "row": 3}
    assert changed["updated_at"] > changed["created_at"]
    gone = home.call("DELETE", f"{path}/{made['document_id']}")
    GenericDeleteResponse.from_dict(gone)
    assert gone["success"] is True
    home.call("GET", f"{path}/{made['document_id']}", status=404)
    home.call("DELETE", f"{path}/{made['document_id']}", status=404)
    home.call("PATCH", f"{path}/{made['document_id']}", {"price": 1}, status=404)


def test_a_null_removes_a_key_and_a_metadata_key(home: Tenant, path: str) -> None:
    home.call("POST", path, {"document_id": "d", "a": 1, "b": 2, "metadata": {"x": 1, "y": 2}})
    changed = home.call("PATCH", f"{path}/d", {"a": None, "metadata": {"x": None}})
    assert "a" not in changed
    assert changed["metadata"] == {"y": 2}
    assert home.call("PATCH", f"{path}/d", {"metadata": None})["metadata"] == {}


def test_put_replaces_the_payload_and_keeps_vectors_and_lineage(home: Tenant, path: str) -> None:
    vector = vector_of("chair")
    home.call(
        "POST",
        path,
        {"document_id": "d", "a": 1, "metadata": {"x": 1}, "root_object_id": "o", "vectors": {URI: vector}},
    )
    changed = home.call("PUT", f"{path}/d", {"b": 2})
    assert "a" not in changed
    assert (changed["b"], changed["metadata"], changed["root_object_id"]) == (2, {}, "o")
    shown = home.call("GET", f"{path}/d", return_vectors=True)
    assert shown["vectors"][TEXT.name] == pytest.approx(vector)
    assert shown["vector_hydration_incomplete"] is False


def test_a_document_id_is_taken_once(home: Tenant, path: str) -> None:
    home.call("POST", path, {"document_id": "d", "a": 1})
    refused = home.call("POST", path, {"document_id": "d", "a": 2}, status=409)
    assert refused["error"]["details"]["existing_id"] == "d"
    assert home.call("GET", f"{path}/d")["a"] == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"_internal": {}}, "_internal"),
        ({"__x": 1}, "__x"),
        ({"_internal_x": 1}, "_internal_x"),
        ({"document_id": "other"}, "document_id"),
        ({"collection_id": "other"}, "collection_id"),
        ({"root_object_id": "o"}, "root_object_id"),
        ({"document_blobs": []}, "document_blobs"),
        ({"metadata": "text"}, "metadata"),
        ({"vectors": [1, 2]}, "vectors"),
        ({"vectors": {"nothing": [1.0]}}, "vectors.nothing"),
        ({"vectors": {"letters": [1.0] * 7}}, "vectors.letters"),
        ({"vectors": {"letters": [[1.0] * 8]}}, "vectors.letters"),
        ({"vectors": {"letters": ["1"] * 8}}, "vectors.letters"),
        ({"vectors": {"letters": [1e300] * 8}}, "vectors.letters"),
        ({"text": "x" * (1 << 20)}, "1048576"),
        ({"number": 1 << 70}, "number"),
    ],
)
def test_a_patch_that_may_not_be_is_refused_with_the_field(home: Tenant, path: str, body: Any, field: str) -> None:
    home.call("POST", path, {"document_id": "d", "a": 1})
    for method in ("PATCH", "PUT"):
        refused = home.call(method, f"{path}/d", body, status=422)
        assert field in refused["error"]["message"]
        assert refused["detail"][0]["loc"][0] == "body"
    assert home.call("GET", f"{path}/d")["a"] == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"document_id": ""}, "document_id"),
        ({"document_id": 5}, "document_id"),
        ({"document_id": "a/b"}, "document_id"),
        ({"document_id": "x" * 600}, "document_id"),
        ({"collection_id": "col_other"}, "collection_id"),
        ({"source_type": "elsewhere"}, "source_type"),
        ({"root_object_id": 5}, "root_object_id"),
        ({"lineage_chain": "x"}, "lineage_chain"),
        ({"features": {}}, "features"),
        ({"features": [{"feature_extractor_id": "x", "vectors": {"letters": [1]}}]}, "features.0.vectors.letters"),
    ],
)
def test_a_creation_that_may_not_be_is_refused_with_the_field(home: Tenant, path: str, body: Any, field: str) -> None:
    refused = home.call("POST", path, body, status=422)
    assert field in refused["error"]["message"]
    assert home.call("GET", f"{path}/count")["count"] == 0


def test_nan_is_refused(home: Tenant, path: str) -> None:
    for body in ('{"a": NaN}', '{"a": {"b": [Infinity]}}'):
        answer = home.client.post(f"/v1{path}", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422
        assert "body" in answer.text


def test_vectors_go_by_index_name_feature_uri_or_output(home: Tenant, path: str) -> None:
    for name in (TEXT.name, URI, URI.replace("mixpeek://", "mediatheca://"), "letters"):
        made = home.call("POST", path, {"vectors": {name: [1, 0, 0, 0, 0, 0, 0, 0.5]}})
        shown = home.call("GET", f"{path}/{made['document_id']}", return_vector_names=URI)
        assert shown["vectors"] == {TEXT.name: [1, 0, 0, 0, 0, 0, 0, 0.5]}
    features = [{"feature_extractor_id": "x", "payload": {"size": 3}, "vectors": {"pixels": [1, 2, 3, 4]}}]
    made = home.call("POST", path, {"features": features})
    shown = home.call("GET", f"{path}/{made['document_id']}", return_vectors=True)
    assert (shown["size"], shown["vectors"]["image_extractor_v1_pixels"]) == (3, [1, 2, 3, 4])
    assert "vectors" not in home.call("GET", f"{path}/{made['document_id']}")


def test_a_written_document_is_searchable_when_the_answer_comes(home: Tenant, path: str) -> None:
    for text in ("aaaa", "eeee", "oooo"):
        home.call("POST", path, {"document_id": text, "title": text, "vectors": {"letters": vector_of(text)}})
        found = home.call("POST", "/documents/search", {"query": text, "page_size": 1})
        assert ids(found) == [text]
        assert found["documents"] == found["results"]
    home.call("PATCH", f"{path}/aaaa", {"vectors": {"letters": vector_of("uuuu")}, "title": "uuuu"})
    found = home.call("POST", "/documents/search", {"query": "uuuu", "page_size": 1})
    assert [(d["document_id"], d["title"]) for d in found["results"]] == [("aaaa", "uuuu")]
    home.call("DELETE", f"{path}/aaaa")
    assert "aaaa" not in ids(home.call("POST", "/documents/search", {"query": "uuuu", "page_size": 10}))


def test_a_deleted_document_can_be_written_again(home: Tenant, path: str) -> None:
    for round_number in range(4):
        home.call("POST", path, {"document_id": "d", "round": round_number, "vectors": {"letters": vector_of("aa")}})
        assert home.call("GET", f"{path}/d")["round"] == round_number
        found = home.call("POST", "/documents/search", {"query": "aa"})
        assert [d["round"] for d in found["results"]] == [round_number]
        home.call("DELETE", f"{path}/d")
        assert home.call("POST", f"{path}/list")["results"] == []


def test_lists_are_by_id_and_page_by_cursor_and_by_offset(home: Tenant, path: str) -> None:
    for number in (3, 1, 4, 0, 2):
        home.call("POST", path, {"document_id": f"d{number}", "n": number})
    first = home.call("POST", f"{path}/list", {"limit": 2})
    ListDocumentsResponse.from_dict(first)
    assert (ids(first), first["pagination"]["total"], first["total_documents"]) == (["d0", "d1"], 5, 5)
    seen, found = ids(first), first
    while found["pagination"]["next_cursor"]:
        found = home.call("POST", f"{path}/list", {"limit": 2, "cursor": found["pagination"]["next_cursor"]})
        seen += ids(found)
    assert seen == ["d0", "d1", "d2", "d3", "d4"]
    assert found["pagination"]["page"] == 3
    assert ids(home.call("GET", path, page=2, page_size=2)) == ["d2", "d3"]
    assert ids(home.call("GET", path, offset=4, limit=2)) == ["d4"]
    assert home.call("POST", f"{path}/list", {"include_total": False})["pagination"]["total"] is None
    for bad in ({"limit": 0}, {"limit": 1001}, {"cursor": "nonsense"}, {"offset": 10_001}):
        home.call("POST", f"{path}/list", bad, status=422)


def test_lists_filter_sort_search_and_select(home: Tenant, path: str) -> None:
    rows = [("a", "red", 3), ("b", "blue", 1), ("c", "red", 2), ("d", "green", None)]
    for ident, color, price in rows:
        body = {"document_id": ident, "color": color, "metadata": {"note": f"note of {ident}", "color": color}}
        home.call("POST", path, body if price is None else {**body, "price": price})
    assert ids(home.call("POST", f"{path}/list", {"filters": {"color": "red"}})) == ["a", "c"]
    tree = {
        "AND": [
            {"field": "metadata.color", "operator": "eq", "value": "red"},
            {"field": "price", "operator": "gt", "value": 2},
        ]
    }
    assert ids(home.call("POST", f"{path}/list", {"filters": tree})) == ["a"]
    by_price = {"sort": {"field": "price", "direction": "desc"}}
    assert ids(home.call("POST", f"{path}/list", by_price)) == ["a", "c", "b", "d"]
    assert ids(home.call("GET", path, sort="price")) == ["b", "c", "a", "d"]
    paged = home.call("POST", f"{path}/list", {**by_price, "limit": 3})
    rest = home.call("POST", f"{path}/list", {**by_price, "limit": 3, "cursor": paged["pagination"]["next_cursor"]})
    assert ids(paged) + ids(rest) == ["a", "c", "b", "d"]
    assert paged["results"][0]["color"] == "red"
    found = home.call("POST", f"{path}/list", {"search": "NOTE OF B"})
    assert (ids(found), found["total_count"]) == (["b"], 1)
    chosen = home.call("POST", f"{path}/list", {"select": ["price", "metadata.note"], "limit": 1})["results"]
    collection = path.split("/")[2]
    assert chosen == [{"document_id": "a", "collection_id": collection, "price": 3, "metadata": {"note": "note of a"}}]
    home.call("POST", f"{path}/list", {"filters": {"field": "a", "operator": "sounds_like", "value": 1}}, status=422)


def test_lists_group_and_partition(home: Tenant, path: str) -> None:
    for number in range(12):
        home.call("POST", path, {"document_id": f"d{number:02}", "color": ["red", "blue", "red"][number % 3]})
    found = home.call("POST", f"{path}/list", {"group_by": "color", "limit": 1})
    ListDocumentsResponse.from_dict(found)
    assert [(group["group_key"], group["count"], len(group["documents"])) for group in found["groups"]] == [
        ("red", 8, 8)
    ]
    assert (found["group_by_field"], found["stats"]["total_groups"], found["results"]) == ("color", 2, [])
    rest = home.call(
        "POST",
        f"{path}/list",
        {"group_by": {"field": "color"}, "limit": 1, "cursor": found["pagination"]["next_cursor"]},
    )
    assert [group["group_key"] for group in rest["groups"]] == ["blue"]
    parts = [ids(home.call("POST", f"{path}/list", {"partition": {"index": n, "count": 3}})) for n in range(3)]
    assert sorted(ident for part in parts for ident in part) == [f"d{number:02}" for number in range(12)]
    assert max(map(len, parts)) < 12
    home.call("POST", f"{path}/list", {"partition": {"index": 3, "count": 3}}, status=422)


def test_lists_return_vectors_when_asked(home: Tenant, path: str) -> None:
    home.call("POST", path, {"document_id": "d", "vectors": {"letters": vector_of("a"), "pixels": [1, 0, 0, 0]}})
    assert "vectors" not in home.call("GET", path)["results"][0]
    assert set(home.call("GET", path, return_vectors="true")["results"][0]["vectors"]) == {
        TEXT.name,
        "image_extractor_v1_pixels",
    }
    named = home.call("POST", f"{path}/list", {"return_vector_names": [TEXT.name]})
    assert set(named["results"][0]["vectors"]) == {TEXT.name}


def test_artifacts_become_signed_urls_that_work(home: Tenant, path: str) -> None:
    collection = path.split("/")[2]
    key = f"{home.scope.organization_id}/thumb.jpg"
    home.world.services.blobs.put(key, b"picture", "image/jpeg")
    system = {
        "source_type": "bucket",
        "source_object_id": "obj_1",
        "root_bucket_id": "bkt_1",
        "lineage_path": f"bkt_1/{collection}",
        "feature_extractor_id": "image_extractor_v1",
        "document_blobs": [{"field": "thumbnail_url", "role": "thumbnail", "type": "image/jpeg", "key": key}],
        "source_blobs": [{"field": "photo", "type": "image", "key": None, "url": "http://example.org/a.jpg"}],
    }
    payload = {"thumbnail_url": key, "note": key + "x"}
    home.derive(
        collection, [Document("d", collection, payload, object_id="obj_1", root_object_id="obj_1", system=system)]
    )
    plain = home.call("GET", f"{path}/d")
    DocumentResponse.from_dict(plain)
    assert plain["thumbnail_url"] == key
    assert [(b["field"], b["role"], b["type"]) for b in plain["document_blobs"]] == [
        ("thumbnail_url", "thumbnail", "image"),
        ("photo", "source", "image"),
    ]
    signed = home.call("GET", f"{path}/d", return_presigned_urls=True)
    parsed = DocumentResponse.from_dict(signed)
    assert parsed is not None
    assert parsed.document_blobs is not None
    assert signed["thumbnail_url"] == parsed.document_blobs[0].presigned_url
    assert signed["note"] == key + "x"
    fetched = home.client.get(signed["thumbnail_url"], headers={"Authorization": ""})
    assert (fetched.status_code, fetched.content) == (200, b"picture")
    assert signed["_internal"]["lineage"]["chain"][0]["feature_extractor_id"] == "image_extractor_v1"
    assert (signed["source_object_id"], signed["source_type"]) == ("obj_1", "bucket")


def test_documents_are_found_by_id_alone(home: Tenant, path: str) -> None:
    home.collection("empty")
    home.call("POST", path, {"document_id": "d", "a": 1})
    assert home.call("GET", "/documents/d")["a"] == 1
    assert home.call("PATCH", "/documents/d", {"a": 2})["a"] == 2
    assert home.call("PUT", "/documents/d", {"b": 3})["b"] == 3
    namespace = home.scope.namespace_id
    assert home.call("GET", f"/namespaces/{namespace}/documents/d")["b"] == 3
    assert home.call("GET", "/namespaces/shop/documents/d")["b"] == 3
    for method in ("GET", "PATCH", "PUT"):
        home.call(method, "/documents/nothing", {} if method != "GET" else None, status=404)


def test_names_work_in_place_of_ids(home: Tenant, path: str) -> None:
    home.call("POST", "/collections/things/documents", {"document_id": "d", "collection_id": "things"})
    assert home.call("GET", "/collections/things/documents/d")["collection_id"] == path.split("/")[2]


def test_lists_span_collections(home: Tenant, path: str) -> None:
    other = f"/collections/{home.collection('others')}/documents"
    for number in range(3):
        home.call("POST", path, {"document_id": f"d{number}", "in": "things"})
        home.call("POST", other, {"document_id": f"d{number}", "in": "others"})
    seen, cursor = [], None
    for _ in range(3):
        found = home.call("POST", "/documents/list", {"limit": 2, "cursor": cursor})
        ListDocumentsResponse.from_dict(found)
        seen += [(document["in"], document["document_id"]) for document in found["results"]]
        cursor = found["pagination"]["next_cursor"]
    assert seen == [
        ("things", "d0"),
        ("things", "d1"),
        ("things", "d2"),
        ("others", "d0"),
        ("others", "d1"),
        ("others", "d2"),
    ]
    assert (cursor, found["total_count"]) == (None, 6)
    some = home.call("POST", "/documents/list", {"collection_ids": ["others", "typo"]})
    assert (some["unknown_collection_ids"], some["total_count"]) == (["typo"], 3)
    home.call("POST", "/documents/list", {"collection_ids": ["typo"]}, status=404)


def test_a_collection_without_documents_answers_everything(home: Tenant, path: str) -> None:
    assert home.call("POST", f"{path}/list")["results"] == []
    assert home.call("GET", f"{path}/count")["count"] == 0
    home.call("GET", f"{path}/d", status=404)
    home.call("DELETE", f"{path}/d", status=404)
    assert home.call("POST", "/documents/search", {"query": "a"})["results"] == []


def test_another_tenant_sees_and_changes_nothing(home: Tenant, world: World, path: str) -> None:
    home.call("POST", path, {"document_id": "d", "a": 1})
    stranger = world.tenant()
    own = stranger.collection()
    assert stranger.call("POST", f"/collections/{own}/documents/list")["results"] == []
    for method, body in (("GET", None), ("PATCH", {"a": 2}), ("PUT", {"a": 2}), ("DELETE", None)):
        stranger.call(method, f"{path}/d", body, status=404)
        if method != "DELETE":
            stranger.call(method, "/documents/d", body, status=404)
    stranger.call("POST", path, {"a": 1}, status=404)
    stranger.call("POST", f"{path}/list", status=404)
    stranger.call("GET", f"/namespaces/{home.scope.namespace_id}/documents/d", status=404)
    rows = [{"document_id": "x", "vectors": {}}]
    stranger.call("POST", f"/namespaces/{home.scope.namespace_id}/documents/upsert", {"documents": rows}, status=404)
    for suffix, body in (
        ("batch", {"updates": [{"document_id": "d", "update_data": {"a": 2}}]}),
        ("distinct", {"field": "a"}),
        ("aggregate", {"aggregations": [{"function": "count", "alias": "n"}]}),
    ):
        stranger.call("POST", f"{path}/{suffix}", body, status=404)
    stranger.call("DELETE", f"{path}/batch", {"document_ids": ["d"]}, status=404)
    stranger.call("PATCH", f"{path}/bulk", {"update_data": {"a": 2}}, status=404)
    for suffix in ("count", "d/lineage", "d/ancestors", "d/descendants", "d/diagnostics"):
        stranger.call("GET", f"{path}/{suffix}", status=404)
    assert stranger.call("POST", "/documents/batch-get", {"document_ids": ["d"]})["not_found"] == ["d"]
    assert home.call("GET", f"{path}/d")["a"] == 1


def test_writes_leave_events_in_the_name_of_the_key(home: Tenant, path: str) -> None:
    home.call("POST", path, {"document_id": "d"})
    home.call("PATCH", f"{path}/d", {"a": 1})
    home.call("DELETE", f"{path}/d")
    for kind in ("document.created", "document.updated", "document.deleted"):
        assert home.events(kind) == [("d", home.key_id)]


def test_broken_unicode_and_huge_numbers_are_refused_wherever_they_stand(home: Tenant, path: str) -> None:
    home.call("POST", path, {"document_id": "d"})
    half = '"\\ud800"'
    upsert, batch = "/namespaces/shop/documents/upsert", f"{path}/batch"
    for target, body in (
        (path, f'{{"a": {half}}}'),
        (path, f"{{{half}: 1}}"),
        (path, '{"__\\ud800": 1}'),
        (path, f'{{"document_id": {half}}}'),
        (path, f'{{"root_object_id": {half}}}'),
        (path, f'{{"vectors": {{{half}: [1]}}}}'),
        (path, f'{{"metadata": {{"deep": [{{{half}: 1}}]}}}}'),
        (path, '{"n": 123456789012345678901234567890}'),
        (
            upsert,
            f'{{"documents": [{{"document_id": {half}, "vectors": {{}}}}], "options": {{"idempotency_key": "k"}}}}',
        ),
        (
            upsert,
            '{"documents": [{"payload": {"n": 123456789012345678901234567890}}], "options": {"idempotency_key": "l"}}',
        ),
    ):
        answer = home.client.post(f"/v1{target}", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, (body, answer.text)
    body = (
        f'{{"updates": [{{"document_id": {half}, "update_data": {{}}}}, {{"document_id": {half}, "update_data": 5}}]}}'
    )
    answer = home.client.post(f"/v1{batch}", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["failed_count"]) == (200, 2)
    for ident in ("%00", "a%0ab", "x" * 600):
        home.call("GET", f"{path}/{ident}", status=404)
        home.call("DELETE", f"{path}/{ident}", status=404)
        home.call("PATCH", f"{path}/{ident}", {"a": 1}, status=422)
    body = f'{{"document_ids": ["d", {half}]}}'
    answer = home.client.post("/v1/documents/batch-get", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    deep: Any = {}
    for _ in range(100):
        deep = {"a": deep}
    home.call("PATCH", f"{path}/d", deep, status=422)
    assert home.call("GET", f"{path}/count")["count"] == 1


def test_unknown_keys_of_a_request_are_reported(home: Tenant, path: str) -> None:
    home.call("POST", path, {"document_id": "d"})
    assert "colour" in home.call("POST", f"{path}/list", {"colour": 1})["warnings"][0]
    assert "reson" in home.call("DELETE", f"{path}/batch", {"document_ids": ["d"], "reson": "x"})["warnings"][0]
