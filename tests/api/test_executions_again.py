"""Records of executions over HTTP: what they show, how they are found, and doing one of them again."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime

import pytest
from documents_world import TEXT, URI, World
from shelf_world import Shelf, idents

from mediatheca.kernel import clock

SEARCH = {"feature_uri": URI, "query": {"input_mode": "text", "value": "{{INPUT.query}}"}, "top_k": 10}


@pytest.fixture
def shelf(world: World) -> Shelf:
    return Shelf(world.tenant())


def replay(shelf: Shelf, execution_id: str, status: int = 200) -> dict:
    path = f"/retrievers/{shelf.retriever}/executions/{execution_id}/replay"
    return shelf.tenant.call("POST", path, status=status)


def adhoc(shelf: Shelf, stages: list[dict], **more: object) -> dict:
    return shelf.tenant.call("POST", "/retrievers/execute", {"stages": stages, **more})


def recorded(shelf: Shelf, execution_id: str) -> dict:
    return shelf.tenant.call("GET", f"/retrievers/{shelf.retriever}/executions/{execution_id}")


def test_a_later_page_is_replayed_as_that_page(shelf):
    first = shelf.run(limit=1).json()
    second = shelf.run(limit=1, cursor=first["pagination"]["cursor"]).json()
    again = replay(shelf, second["execution_id"])
    assert again["identical"] is True
    assert idents(again) == idents(second) != idents(first)


def test_a_replay_is_narrowed_to_the_same_collections(shelf):
    other = shelf.tenant.collection("other", [TEXT])
    patched = shelf.client.patch(
        f"/v1/retrievers/{shelf.retriever}", json={"collection_identifiers": [shelf.collection, other]}
    )
    assert patched.status_code == 200, patched.text
    mine, shelf.collection = shelf.collection, other
    shelf.write([("foreign", "red rose", 1)])
    first = shelf.run(collection_identifiers=[mine]).json()
    again = replay(shelf, first["execution_id"])
    assert again["identical"] is True
    assert {d["collection_id"] for d in again["documents"]} == {mine}
    assert recorded(shelf, first["execution_id"])["collection_ids"] == [mine]


def test_a_replay_tells_which_collections_were_written_to(shelf):
    first = shelf.run().json()
    assert replay(shelf, first["execution_id"])["changed"] == []
    shelf.write([("d9", "red rose", 9)])
    changed = replay(shelf, first["execution_id"])["changed"]
    assert [(entry["what"], entry["collection_id"]) for entry in changed] == [("collection_version", shelf.collection)]
    assert changed[0]["now"] > changed[0]["then"]


def test_a_replay_tells_of_deleted_documents(shelf):
    first = shelf.run().json()
    shelf.client.delete(f"/v1/collections/{shelf.collection}/documents/{idents(first)[0]}")
    again = replay(shelf, first["execution_id"])
    assert again["identical"] is False
    assert again["changed"] == [{"what": "documents_deleted", "collection_id": shelf.collection}]


def test_templates_of_a_replay_read_the_time_of_the_record(shelf, monkeypatch):
    stages = [
        {"stage_name": "s", "stage_id": "feature_search", "parameters": {"searches": [SEARCH], "final_top_k": 10}},
        {"stage_name": "t", "stage_id": "json_transform", "parameters": {"template": '{"at": "{{utc_now()}}"}'}},
    ]
    first = adhoc(shelf, stages, inputs={"query": "red"}, collection_identifiers=[shelf.collection])
    own, now, asked = set(threading.enumerate()), clock.now, []

    def much_later():
        """For the request only: the server's own threads would take every lease for abandoned, and records for old."""
        if threading.current_thread() in own:
            return now()
        asked.append(threading.current_thread())
        return datetime(2099, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(clock, "now", much_later)
    again = shelf.tenant.call("POST", f"/retrievers/executions/{first['execution_id']}/replay")
    assert {d["at"] for d in again["documents"]} == {d["at"] for d in first["documents"]}
    assert len({d["at"] for d in first["documents"]}) == 1
    assert asked


def test_stages_that_are_not_stored_are_replayed(shelf):
    stages = [
        {"stage_id": "feature_search", "parameters": {"searches": [SEARCH]}},
        {"stage_id": "sample", "parameters": {"count": 3}},
    ]
    first = adhoc(shelf, stages, inputs={"query": "red"}, collection_identifiers=[shelf.collection])
    again = shelf.tenant.call("POST", f"/retrievers/executions/{first['execution_id']}/replay")
    assert again["identical"] is True
    assert again["seed"] == first["seed"]
    twice = shelf.tenant.call("POST", f"/retrievers/executions/{again['execution_id']}/replay")
    assert twice["identical"] is True


def test_literal_secrets_of_such_stages_are_not_kept_and_it_says_so(shelf):
    search = {"stage_id": "feature_search", "parameters": {"searches": [SEARCH]}}
    call = {
        "stage_id": "api_call",
        "on_error": "skip",
        "parameters": {
            "url": "https://api.example.org/x?api_key=verysecretone",
            "allowed_domains": ["api.example.org"],
            "headers": {"X-Auth": "verysecrettwo", "X-Own": "{{SECRET.own}}"},
            "when": {"field": "title", "value": "nothing"},
        },
    }
    shelf.tenant.call("POST", "/organizations/secrets", {"secret_name": "own", "secret_value": "fromthevault"})
    first = adhoc(shelf, [search, call], inputs={"query": "red"}, collection_identifiers=[shelf.collection])
    shown = json.dumps(shelf.tenant.call("GET", f"/retrievers/executions/{first['execution_id']}"))
    assert "verysecret" not in shown
    assert "fromthevault" not in shown
    assert "{{SECRET.own}}" in shown
    path = f"/retrievers/executions/{first['execution_id']}/replay"
    refused = shelf.tenant.call("POST", path, status=409)
    assert "headers.X-Auth" in refused["error"]["message"]


def test_a_stranger_replays_nothing(world, shelf):
    stages = [{"stage_id": "feature_search", "parameters": {"searches": [SEARCH]}}]
    first = adhoc(shelf, stages, inputs={"query": "red"}, collection_identifiers=[shelf.collection])
    other = world.tenant()
    other.call("POST", f"/retrievers/executions/{first['execution_id']}/replay", status=404)


def test_executions_are_found_by_their_session(shelf):
    first, _ = shelf.run(session_id="s-1").json(), shelf.run(session_id="s-2").json()
    path = f"/retrievers/{shelf.retriever}/executions/list"
    found = shelf.tenant.call("POST", path, {"session_id": "s-1"})["results"]
    assert [entry["execution_id"] for entry in found] == [first["execution_id"]]
    assert found[0]["session_id"] == "s-1"
    by_filter = shelf.tenant.call("POST", path, {"filters": {"field": "session_id", "value": "s-2"}})["results"]
    assert [entry["session_id"] for entry in by_filter] == ["s-2"]
    assert recorded(shelf, first["execution_id"])["session_id"] == "s-1"


def test_a_record_shows_what_came_from_the_cache(world):
    shelf = Shelf(world.tenant(), cache_config={"ttl_seconds": 60})
    shelf.run()
    shelf.run()
    found = shelf.tenant.call("POST", f"/retrievers/{shelf.retriever}/executions/list")["results"]
    assert [entry["cache_hit_rate"] for entry in found] == [1.0, 0.0]
    assert {entry["credits_used"] for entry in found} == {0.0}


def test_the_answer_says_how_long_the_server_took(shelf):
    told = shelf.run().json()["stage_statistics"]
    assert told["server_service_ms"] >= told["total_time_ms"] > 0


def test_legacy_results_are_left_out_on_request(shelf):
    assert shelf.run().json()["results"] == shelf.run().json()["documents"]
    body = shelf.run(include_legacy_results=False).json()
    assert body["documents"]
    assert "results" not in body
    path = f"/v1/retrievers/{shelf.retriever}/execute?include_legacy_results=false"
    assert "results" not in shelf.client.post(path, json={"inputs": {"query": "red"}}).json()


def test_pages_by_offset_continue_the_ranking_that_was_shown(shelf):
    first = shelf.run("rose", limit=1).json()
    shelf.write([("top", "rose", 9)])
    second = shelf.run("rose", limit=1, offset=1).json()
    third = shelf.run("rose", limit=1, offset=2).json()
    seen = [*idents(first), *idents(second), *idents(third)]
    assert len(set(seen)) == 3
    assert "top" not in seen
