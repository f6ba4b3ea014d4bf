"""The reference page of `POST /v1/retrievers/{retriever_id}/execute`, field by field: headers, path, body, answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from compat_served import KEY, Served
from mixpeek import Mixpeek
from sdk_world import BUCKET, PRODUCTS, World, search_stage

QUERY = {"inputs": {"query": "something to drink from"}}
SHELF = [("Cup", "A white cup for coffee", 8.0), ("Pot", "A pot for tea", 20.0)]


@pytest.fixture
def world(served: Served, client: Mixpeek, namespace: str) -> World:
    """The products and two more, these with tags."""
    made = World(client, served.url, namespace)
    properties = {**BUCKET["properties"], "tags": {"type": "array"}}
    made.bucket = client.buckets.create(bucket_name="products", bucket_schema={"properties": properties})["bucket_id"]
    for product in PRODUCTS:
        made.fresh_object(**product)
    for name, description, price in SHELF:
        made.fresh_object(name=name, description=description, price=price, tags=["kitchen", "tea"])
    extractor = {
        "feature_extractor_name": "text_extractor",
        "version": "v1",
        "input_mappings": {"text": "description"},
        "field_passthrough": ["name", "price", "tags"],
    }
    source = {"type": "bucket", "bucket_ids": [made.bucket]}
    collection = client.collections.create(name="texts", source=source, feature_extractor=extractor)
    made.collection = collection["collection_id"]
    made.wait(client.collections.trigger(made.collection)["batch_id"])
    made.retriever = made.fresh_retriever("search")
    return made


class Api:
    """Bare HTTP, as the page shows it."""

    def __init__(self, url: str, world: World) -> None:
        self.world = world
        self.http = httpx.Client(base_url=url, timeout=60)

    def execute(
        self, body: Any, retriever: str = "", namespace: str | None = None, key: str = KEY, **query: Any
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}", "X-Namespace": namespace or self.world.namespace}
        path = f"/v1/retrievers/{retriever or self.world.retriever}/execute"
        return self.http.post(path, json=body, headers=headers, params=query)

    def found(self, **body: Any) -> dict[str, Any]:
        answer = self.execute({**QUERY, **body})
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    def names(self, **body: Any) -> list[str]:
        return [document["name"] for document in self.found(**body)["final_results"]]


@pytest.fixture
def api(world: World, served: Served) -> Iterator[Api]:
    made = Api(served.url, world)
    yield made
    made.http.close()


# ---- headers and path


def test_the_key_is_a_bearer_token_of_any_prefix(api: Api) -> None:
    assert api.execute(QUERY).status_code == 200
    for wrong in ("sk_1234567890abcdef", "x"):
        answer = api.execute(QUERY, key=wrong)
        assert (answer.status_code, answer.json()["success"]) == (401, False)
    bare = api.http.post(f"/v1/retrievers/{api.world.retriever}/execute", json=QUERY, headers={"Authorization": KEY})
    assert bare.status_code == 401


def test_namespace_and_retriever_go_by_id_or_name(api: Api) -> None:
    name = api.world.client.namespaces.get(api.world.namespace).namespace_name
    for retriever in (api.world.retriever, "search"):
        for namespace in (api.world.namespace, name):
            answer = api.execute(QUERY, retriever, namespace)
            assert answer.json()["retriever_id"] == api.world.retriever
    assert api.execute(QUERY, "nobody").status_code == 404
    assert api.execute(QUERY, namespace="nowhere").status_code == 404


# ---- body


def test_inputs_fill_the_first_stage(api: Api) -> None:
    assert api.names()[0] == "Mug"
    assert api.names(inputs={"query": "music"})[0] == "Headphones"
    missing = api.execute({})
    assert missing.status_code == 422
    assert "query" in missing.json()["error"]["message"]


def test_the_body_may_name_the_retriever_again(api: Api) -> None:
    for named in (api.world.retriever, "search", None):
        assert api.found(retriever_id=named)["retriever_id"] == api.world.retriever
    other = api.execute({**QUERY, "retriever_id": api.world.fresh_retriever()})
    assert other.status_code == 422
    assert "retriever_id" in other.json()["error"]["message"]


def test_filters_nest_and_or_and_not(api: Api) -> None:
    def cond(field: str, operator: str, value: Any) -> dict[str, Any]:
        return {"field": field, "operator": operator, "value": value}

    cheap, tea = cond("price", "lt", 15), cond("tags", "eq", "tea")
    for filters, expected in (
        ({"AND": [cheap]}, {"Mug", "Cup"}),
        ({"OR": [cond("price", "gt", 200), tea]}, {"Lawn mower", "Cup", "Pot"}),
        ({"NOT": [cheap, tea]}, {"Headphones", "Lawn mower"}),
        ({"AND": [{"OR": [cheap, cond("name", "eq", "Pot")]}, {"NOT": [cond("name", "eq", "Mug")]}]}, {"Cup", "Pot"}),
        ({"AND": [cheap, {"AND": [{"NOT": [{"OR": [tea, cond("price", "gt", 500)]}]}]}]}, {"Mug"}),
        ({"AND": [cheap], "NOT": [tea]}, {"Mug"}),
        ({"AND": []}, {"Mug", "Cup", "Pot", "Headphones", "Lawn mower"}),
    ):
        assert set(api.names(filters=filters)) == expected, filters


def test_filters_nest_to_a_defined_depth(api: Api) -> None:
    tree: dict[str, Any] = {"field": "price", "operator": "lt", "value": 15}
    for _ in range(9):
        tree = {"AND": [tree]}
    assert set(api.names(filters=tree)) == {"Mug", "Cup"}
    answer = api.execute({**QUERY, "filters": {"NOT": [{"AND": [tree]}]}})
    assert answer.status_code == 422
    assert "deep" in answer.json()["error"]["message"]


@pytest.mark.parametrize("key", ["sort", "sorts"])
def test_results_are_sorted_by_score_or_any_field(api: Api, key: str) -> None:
    by_price = ["Cup", "Mug", "Pot", "Headphones", "Lawn mower"]
    assert api.names(**{key: [{"field": "price", "direction": "asc"}]}) == by_price
    assert api.names(**{key: [{"field": "price", "direction": "desc"}]}) == by_price[::-1]
    assert api.names(**{key: {"field": "name", "direction": "asc"}})[0] == "Cup"
    assert api.names(**{key: [{"field": "score", "direction": "desc"}]}) == api.names()
    two = [{"field": "tags", "direction": "desc"}, {"field": "price", "direction": "desc"}]
    assert api.names(**{key: two})[:2] == ["Pot", "Cup"]


def test_limit_overrides_the_page_of_the_retriever(api: Api) -> None:
    assert len(api.names()) == 5
    for limit in (1, 2, 5, 100):
        assert len(api.names(limit=limit)) == min(limit, 5)
    for wrong in (0, -1, 501, "many", 1.5):
        assert api.execute({**QUERY, "limit": wrong}).status_code == 422, wrong


def test_offset_skips_results(api: Api) -> None:
    everything = api.names()
    for offset in range(7):
        assert api.names(offset=offset, limit=2) == everything[offset : offset + 2]
    assert api.execute({**QUERY, "offset": -1}).status_code == 422


def test_a_cursor_reaches_what_an_offset_reaches(api: Api) -> None:
    everything, seen, cursor = api.names(), [], None
    for _ in range(3):
        page = api.found(session_id="sess_1", pagination={"method": "cursor", "limit": 2, "cursor": cursor})
        seen += [document["name"] for document in page["final_results"]]
        cursor = page["pagination"]["next_cursor"]
    assert (seen, cursor) == (everything, None)


@pytest.mark.parametrize("key", ["select", "fields"])
def test_select_keeps_these_fields_and_the_identity(api: Api, key: str) -> None:
    identity = {"document_id", "collection_id", "score", "feature_id"}
    for document in api.found(**{key: ["name"]})["final_results"]:
        assert set(document) == {"name", *identity}
    assert {"name", "price", "metadata"} <= set(api.found()["final_results"][0])


def test_a_session_is_remembered_with_the_execution(api: Api) -> None:
    found = api.found(session_id="sess_of_ann")
    assert found["status"] == "completed"
    assert not [warning for warning in found["warnings"] if "session_id" in warning]


@pytest.mark.parametrize("key", ["return_urls", "return_presigned_urls"])
def test_urls_of_media_are_signed_when_asked(api: Api, key: str, world: World) -> None:
    bucket = world.client.buckets.create(
        bucket_name="letters", bucket_schema={"properties": {"letter": {"type": "text"}}}
    )
    upload = {"filename": "a.txt", "content_type": "text/plain", "blob_property": "letter"}
    ticket = world.request("POST", f"/buckets/{bucket['bucket_id']}/uploads", upload)
    sent = {"Content-Type": "text/plain"}
    assert httpx.put(ticket["presigned_url"], content=b"A saucer to drink from", headers=sent).status_code == 200
    world.request("POST", f"/buckets/{bucket['bucket_id']}/uploads/{ticket['upload_id']}/confirm", {})
    extractor = {"feature_extractor_name": "text_extractor", "version": "v1", "input_mappings": {"text": "letter"}}
    source = {"type": "bucket", "bucket_ids": [bucket["bucket_id"]]}
    made = world.client.collections.create(name="letters", source=source, feature_extractor=extractor)
    world.wait(world.client.collections.trigger(made["collection_id"])["batch_id"])
    stages = {"collection_identifiers": ["letters"], "stages": [search_stage()], **QUERY}
    plain = world.request("POST", "/retrievers/execute", stages)["final_results"][0]
    (signed,) = world.request("POST", "/retrievers/execute", {**stages, key: True})["final_results"][0]["source_blobs"]
    assert all("presigned_url" not in blob for blob in plain["source_blobs"])
    assert httpx.get(signed["presigned_url"]).content == b"A saucer to drink from"


def test_results_are_grouped_by_a_field(api: Api) -> None:
    found = api.found(group_by={"field": "tags", "max_features": 1, "sort": [{"field": "price", "direction": "desc"}]})
    groups = {repr(group["key"]): [d["name"] for d in group["group"]] for group in found["final_results"]}
    assert groups == {"None": ["Lawn mower"], "['kitchen', 'tea']": ["Pot"]}
    assert {group["field"] for group in found["final_results"]} == {"tags"}
    assert sorted(d["name"] for d in found["documents"]) == ["Lawn mower", "Pot"]
    two = api.found(group_by={"field": "tags", "max_features": 2})["final_results"]
    assert [len(group["group"]) for group in two] == [2, 2]
    for wrong in ({"max_features": 2}, {"field": ""}, {"field": "tags", "max_features": 0}):
        assert api.execute({**QUERY, "group_by": wrong}).status_code == 422


def test_collections_may_be_narrowed_by_id_or_name(api: Api) -> None:
    other = api.world.fresh_collection("others")
    for key, value in (("collection_ids", [api.world.collection]), ("collection_names", ["texts"])):
        assert api.names(**{key: value})[0] == "Mug"
    for key, value in (("collection_ids", [other]), ("collection_names", ["others"])):
        answer = api.execute({**QUERY, key: value})  # there is such a collection; the retriever does not search it
        assert answer.status_code in (404, 422), answer.text


# ---- answer


def test_the_answer_has_every_documented_field(api: Api) -> None:
    found = api.found(limit=2)
    assert found["execution_id"].startswith("exec_")
    assert 0 < found["execution_time"] < 60
    assert found["final_results"] == found["results"] == found["documents"]
    (stage,) = found["stage_results"]
    assert set(stage) >= {"stage_name", "version", "execution_time", "results", "metadata"}
    assert (stage["stage_name"], stage["version"]) == ("semantic", "v1")
    assert 0 <= stage["execution_time"] <= found["execution_time"]
    assert [entry["document_id"] for entry in stage["results"][:2]] == [d["document_id"] for d in found["documents"]]
    scores = [document["score"] for document in found["final_results"]]
    assert scores == sorted(scores, reverse=True)
    assert all(isinstance(score, float) for score in scores)


def test_an_execution_can_be_looked_up_at_once(api: Api) -> None:
    ran = api.found()["execution_id"]
    seen = api.world.request("GET", f"/retrievers/{api.world.retriever}/executions/{ran}")
    assert (seen["execution_id"], seen["total_returned"]) == (ran, 5)


def test_every_answer_of_several_stages_says_what_each_gave(api: Api) -> None:
    stages = [search_stage(), {"stage_name": "two", "config": {"stage_id": "limit", "parameters": {"limit": 2}}}]
    body = {"collection_identifiers": ["texts"], "stages": stages, **QUERY}
    found = api.world.request("POST", "/retrievers/execute", body)
    first, second = found["stage_results"]
    assert (first["stage_name"], second["stage_name"], len(second["results"])) == ("semantic", "two", 2)
    assert first["results"][:2] == second["results"]
    counts = {name: stage["output_count"] for name, stage in found["stage_statistics"]["stages"].items()}
    assert counts["two"] == 2 <= counts["semantic"]
