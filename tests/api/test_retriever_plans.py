"""Plans before they run, versions of retrievers, several queries at once, and suggestions while typing."""

from __future__ import annotations

import json

import pytest
from documents_world import TEXT, URI, World
from shelf_world import Shelf, idents


@pytest.fixture
def shelf(world: World) -> Shelf:
    return Shelf(world.tenant())


def patched(shelf: Shelf, limit: int) -> None:
    current = shelf.tenant.call("GET", f"/retrievers/{shelf.retriever}")
    cut = {"stage_name": "cut", "stage_id": "limit", "parameters": {"limit": limit}}
    shelf.tenant.call("PATCH", f"/retrievers/{shelf.retriever}", {"stages": [current["stages"][0], cut]})


# ---- plans


def test_a_plan_is_explained_at_both_addresses(shelf):
    shelf.run()
    first = shelf.tenant.call(
        "POST", f"/retrievers/{shelf.retriever}/execute/explain", {"inputs": {"query": "red rose"}}
    )
    second = shelf.tenant.call("POST", f"/retrievers/{shelf.retriever}/explain", {"inputs": {"query": "red rose"}})
    for found in (first, second):
        del found["optimization_details"]["optimization_time_ms"]
    assert first == second
    assert first["estimated_from"] == {"executions": 1, "same_inputs": True}
    assert [stage["estimated_output"] for stage in first["execution_plan"]] == [3, 3]  # the search has the limit
    assert first["bottleneck_stages"][0] == "search"


def test_a_plan_names_the_bad_inputs_and_keys(shelf):
    found = shelf.tenant.call("POST", f"/retrievers/{shelf.retriever}/explain", {"colour": "red"})
    assert "colour" in " ".join(found["warnings"])
    assert "never executed" in found["warnings"][-1]
    shelf.tenant.call("POST", f"/retrievers/{shelf.retriever}/explain", {"inputs": {}}, status=422)


def test_a_plan_of_an_old_version_is_that_one(shelf):
    patched(shelf, 1)
    old = shelf.tenant.call("POST", f"/retrievers/{shelf.retriever}/explain", {"version": 1})
    new = shelf.tenant.call("POST", f"/retrievers/{shelf.retriever}/explain")
    assert (old["version"], new["version"]) == (1, 2)
    assert [p["execution_plan"][-1]["estimated_output"] for p in (old, new)] == [3, 1]


def test_repeated_questions_suggest_a_cache_and_a_cache_is_likely_once_it_hits(shelf, world):
    for _ in range(4):
        shelf.run()
    found = shelf.tenant.call("POST", f"/retrievers/{shelf.retriever}/explain")
    assert "enable_cache" in {entry["type"] for entry in found["optimization_suggestions"]}
    assert not any(stage["cache_likely"] for stage in found["execution_plan"])
    cached = Shelf(world.tenant(), cache_config={"ttl_seconds": 60})
    for _ in range(4):
        cached.run()
    found = cached.tenant.call("POST", f"/retrievers/{cached.retriever}/explain")
    assert all(stage["cache_likely"] for stage in found["execution_plan"])
    assert "enable_cache" not in {entry["type"] for entry in found["optimization_suggestions"]}


def test_a_search_that_gives_far_more_than_is_left_is_told(shelf):
    patched(shelf, 1)
    shelf.run(optimize="off")
    found = shelf.tenant.call("POST", f"/retrievers/{shelf.retriever}/explain")
    told = [entry for entry in found["optimization_suggestions"] if entry["type"] == "reduce_limit"]
    assert told[0]["stage"] == "search"
    assert "5 documents" in told[0]["message"]


# ---- versions


def test_every_version_of_a_retriever_can_be_listed_and_read(shelf):
    patched(shelf, 2)
    patched(shelf, 1)
    path = f"/retrievers/{shelf.retriever}/versions"
    listed = shelf.tenant.call("GET", path)
    assert [entry["version"] for entry in listed["results"]] == [3, 2, 1]
    assert (listed["total_count"], listed["current_version"]) == (3, 3)
    assert [entry["is_current"] for entry in listed["results"]] == [True, False, False]
    limits = [entry["stages"][1]["config"]["parameters"]["limit"] for entry in listed["results"]]
    assert limits == [1, 2, 3]
    times = [entry["updated_at"] for entry in listed["results"]]
    assert times == sorted(times, reverse=True)
    for entry in listed["results"]:
        assert shelf.tenant.call("GET", f"{path}/{entry['version']}") == entry
    assert len(shelf.tenant.call("GET", path, limit=1, offset=1)["results"]) == 1
    shelf.tenant.call("GET", f"{path}/4", status=404)
    shelf.tenant.call("GET", f"{path}/0", status=422)


def test_versions_of_a_stranger_are_not_there(world, shelf):
    world.tenant().call("GET", f"/retrievers/{shelf.retriever}/versions", status=404)


def test_a_retriever_stage_runs_the_version_it_names(shelf):
    patched(shelf, 1)

    def outer(**more: object) -> list[str]:
        stages = [{"stage_id": "retriever", "parameters": {"retriever_id": shelf.retriever, **more}}]
        body = {"stages": stages, "inputs": {"query": "red rose"}}
        return idents(shelf.tenant.call("POST", "/retrievers/execute", body))

    assert (len(outer()), len(outer(version=1))) == (1, 3)
    stages = [{"stage_id": "retriever", "parameters": {"retriever_id": shelf.retriever, "version": 9}}]
    shelf.tenant.call("POST", "/retrievers/execute", {"stages": stages, "inputs": {"query": "x"}}, status=404)


def test_a_retriever_tells_who_made_it_and_what_it_depends_on(shelf):
    found = shelf.tenant.call("GET", f"/retrievers/{shelf.retriever}")
    assert found["created_by"] == found["updated_by"] != ""
    assert found["created_by"]
    assert found["feature_dependencies"] == [
        {"scheme": "mixpeek", "extractor": "text_extractor", "version": "v1", "output": "letters"}
    ]


# ---- several at once

BATCH = {"queries": [{"inputs": {"query": "red rose"}}, {"inputs": {}}, {"inputs": {"query": "blue sea"}}]}


def test_a_batch_runs_a_version_and_tells_unknown_keys(shelf):
    patched(shelf, 1)
    more = {"version": 1, "colour": "red", "settings": {"limit": 2, "colour": 1}}
    found = shelf.tenant.call("POST", f"/retrievers/{shelf.retriever}/execute/batch", {**BATCH, **more})
    assert [len(result["documents"]) for result in found["results"]] == [2, 0, 2]
    assert (found["version"], found["succeeded"], found["failed"]) == (1, 2, 1)
    assert len(found["warnings"]) == 2
    assert "settings.colour" in " ".join(found["warnings"])


def test_a_batch_is_streamed_query_by_query(shelf):
    path = f"/v1/retrievers/{shelf.retriever}/execute/batch"
    answer = shelf.client.post(path, json={**BATCH, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [dict(line.split(": ", 1) for line in b.split("\n")) for b in answer.text.strip().split("\n\n")]
    assert sorted(block["event"] for block in blocks[:-1]) == ["query_complete", "query_complete", "query_error"]
    last = json.loads(blocks[-1]["data"])
    assert (blocks[-1]["event"], last["succeeded"], last["failed"]) == ("batch_complete", 2, 1)
    told = {json.loads(block["data"])["query_index"] for block in blocks[:-1]}
    assert told == {0, 1, 2}
    rest = shelf.client.post(path, json={**BATCH, "stream": True}, headers={"Last-Event-ID": blocks[1]["id"]})
    assert rest.text.count("event: ") == 2


def test_a_batch_cuts_long_queries_into_fewer_pieces(shelf):
    search = {"feature_uri": URI, "query": {"input_mode": "text", "value": "{{INPUT.query}}"}}
    how = {"split_method": "sentences", "chunk_size": 100}
    stage = {"stage_name": "s", "stage_id": "feature_search"}
    stage["parameters"] = {"searches": [search], "query_preprocessing": how}
    body = {"retriever_name": "long", "collection_identifiers": [shelf.collection], "stages": [stage]}
    made = shelf.tenant.call("POST", "/retrievers", body)["retriever_id"]
    text = "A red rose stands here. A blue sea lies there. An old tree grows. A green one too. "
    batch = {"queries": [{"inputs": {"query": text}}], "settings": {"max_chunks": 2}}
    found = shelf.tenant.call("POST", f"/retrievers/{made}/execute/batch", batch)["results"][0]
    assert [(entry["name"], entry["applied"]) for entry in found["limits"]] == [("query_chunks", 2)]
    batch["settings"] = {"max_chunks": 0}
    refused = shelf.tenant.call("POST", f"/retrievers/{made}/execute/batch", batch)["results"][0]
    assert refused["status"] == "failed"
    assert "max_chunks" in refused["error"]["message"]


# ---- while typing


def test_suggestions_count_the_documents_of_declared_fields(shelf):
    shelf.write([(f"r{n}", f"Red dress {n % 2}", n) for n in range(4)])
    found = shelf.tenant.call("GET", "/retrievers/typeahead", q="RED d", fields="title")
    assert [(v["value"], v["count"]) for v in found["values"]] == [("Red dress 0", 2), ("Red dress 1", 2)]
    assert found["suggestions"] == ["Red dress 0", "Red dress 1"]
    assert found["warnings"] == []


def test_an_undeclared_field_is_a_warning(shelf):
    found = shelf.tenant.call("GET", "/retrievers/typeahead", q="red", fields="title,colour")
    assert {v["field"] for v in found["values"]} == {"title"}
    assert "'colour' is not a declared field" in found["warnings"][0]


def test_more_than_five_fields_are_refused(shelf):
    shelf.tenant.call("GET", "/retrievers/typeahead", q="red", fields="a,b,c,d,e,f", status=422)
    shelf.tenant.call("GET", "/retrievers/typeahead", q="red", limit=51, status=422)


def test_a_source_that_fails_is_left_out_and_told(shelf, world):
    broken = shelf.tenant.collection("broken", [TEXT])
    with world.db.begin(shelf.tenant.scope) as tx:  # it was written to, and what was written is not there
        tx.update("document_tables", {"collection_id": broken}, {"committed_seq": 99})
    found = shelf.tenant.call("GET", "/retrievers/typeahead", q="red", fields="title")
    assert {v["value"] for v in found["values"]} == {"red rose", "red tulip"}
    assert "collection 'broken' was left out" in found["warnings"][0]


def test_collections_are_suggested_by_the_beginning_of_their_names(shelf):
    shelf.tenant.collection("Shelter", [TEXT])
    found = shelf.tenant.call("GET", "/retrievers/typeahead", q="SHEL")
    assert [entry["collection_name"] for entry in found["collections"]] == ["shelf", "Shelter"]


def test_queries_are_suggested_to_the_key_that_asked_them_only(shelf):
    shelf.run("red roses in spring")
    found = shelf.tenant.call("GET", "/retrievers/typeahead", q="red r")
    assert found["recent_searches"] == ["red roses in spring"]
    users = shelf.client.get("/v1/organizations/users").json()["results"]
    keys = f"/v1/organizations/users/{users[0]['email']}/api-keys"
    key = shelf.client.post(keys, json={"name": "r", "permissions": ["read"]}).json()["key"]
    headers = {"Authorization": f"Bearer {key}"}
    other = shelf.client.get("/v1/retrievers/typeahead", params={"q": "red r"}, headers=headers).json()
    assert other["recent_searches"] == []
