"""Executions over HTTP: cached, streamed, explained, replayed, written into a collection."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from documents_world import TEXT, URI, World, vector_of
from shelf_world import TEXTS, Shelf, idents

from mediatheca.kernel.documents import Document


@pytest.fixture
def shelf(world: World) -> Shelf:
    return Shelf(world.tenant())


@pytest.fixture
def caching(world: World) -> Shelf:
    return Shelf(world.tenant(), cache_config={"ttl_seconds": 60})


def test_a_cached_answer_says_so_in_body_and_header(caching):
    first, second = caching.run(), caching.run()
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("MISS", "HIT")
    assert idents(first.json()) == idents(second.json())
    assert second.json()["cached_at"] is not None


class Door:
    """The lock of an index, which tells when `visitor` has come to it."""

    def __init__(self, lock: threading.RLock) -> None:
        self.lock, self.visitor, self.knocked = lock, None, threading.Event()

    def __enter__(self) -> None:
        if threading.current_thread() is self.visitor:
            self.knocked.set()
        self.lock.acquire()

    def __exit__(self, *error: object) -> None:
        self.lock.release()


def test_who_waited_while_another_caught_up_takes_nothing_out_of_the_cache(caching, monkeypatch):
    """Every write wakes the indexer, while the request itself catches up: one of them comes second."""
    services, scope, ident = caching.tenant.world.services, caching.tenant.scope, caching.collection
    table = services.indexer._tables[ident]
    door = Door(table.lock)
    door.visitor = threading.Thread(target=services.indexer.catch_up, args=(scope, ident))
    monkeypatch.setattr(table, "lock", door)
    with door:
        with services.leases.acquire(scope, ident) as lease:
            vectors = {TEXT.name: np.array(vector_of("red rose"), np.float32)}
            services.documents.upsert(ident, [Document("new", ident, {"title": "red rose"}, vectors)], lease.seq)
            services.leases.commit(lease)
        door.visitor.start()
        assert door.knocked.wait(240)
        services.indexer.catch_up(scope, ident)
        version = services.indexer.version(ident)
        first = caching.run()
    door.visitor.join(240)
    assert services.indexer.applied(ident) >= lease.seq
    assert services.indexer.version(ident) == version
    assert "new" in idents(first.json())
    assert caching.run().headers["x-cache"] == "HIT"


def test_an_unchanged_result_is_not_sent_again(caching):
    first = caching.run()
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"
    again = caching.ask(headers={"If-None-Match": f'"other", {tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    afresh = caching.ask(headers={"If-None-Match": tag}, skip_cache=True)
    assert afresh.status_code == 304
    caching.write([("new", "red rose", 9)])
    after = caching.ask(headers={"If-None-Match": tag})
    assert (after.status_code, after.headers["etag"] != tag) == (200, True)


def test_a_write_is_seen_through_the_cache(caching):
    caching.run()
    caching.write([("new", "red rose", 9)])
    after = caching.run()
    assert after.headers["x-cache"] == "MISS"
    assert "new" in idents(after.json())


def test_a_deleted_document_is_gone_from_the_cache(caching):
    assert "d0" in idents(caching.run().json())
    gone = caching.client.delete(f"/v1/collections/{caching.collection}/documents/d0")
    assert gone.status_code == 200, gone.text
    assert "d0" not in idents(caching.run().json())


def test_without_cache_config_there_is_no_cache_header(shelf):
    assert "x-cache" not in shelf.run().headers


def test_a_wrong_cache_config_is_refused_at_creation(shelf):
    body = {"retriever_name": "x", "stages": [{"stage_id": "feature_search", "parameters": {}}]}
    body["cache_config"] = {"ttl_seconds": -1}
    answer = shelf.client.post("/v1/retrievers", json=body)
    assert answer.status_code == 422
    assert "cache_config.ttl_seconds" in answer.text


def test_a_stream_is_server_sent_events_that_end_with_the_answer(shelf):
    answer = shelf.run(stream=True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [dict(line.split(": ", 1) for line in b.split("\n")) for b in answer.text.strip().split("\n\n")]
    assert [block["event"] for block in blocks] == [
        *("stage_start", "stage_complete", "stage_start", "stage_complete", "execution_complete")
    ]
    ident = answer.headers["x-execution-id"]
    assert [block["id"] for block in blocks] == [f"{ident}:{number}" for number in range(1, 6)]
    assert {json.loads(block["data"])["execution_id"] for block in blocks} == {ident}
    assert idents(json.loads(blocks[-1]["data"])) == idents(shelf.run().json())


def test_a_streamed_fault_is_an_event(shelf):
    path = f"/v1/retrievers/{shelf.retriever}/execute"
    answer = shelf.client.post(path, json={"inputs": {"query": ""}, "stream": True})
    assert "execution_error" in answer.text
    assert "execution_complete" not in answer.text


def test_a_named_document_is_explained_over_http(shelf):
    last = min(TEXTS, key=lambda text: np.dot(vector_of(text), vector_of("red rose")))
    found = shelf.run(explain_document=f"d{TEXTS.index(last)}", explain=True).json()
    assert found["explained_document"]["reason"] == "dropped"
    assert found["explained_document"]["dropped_by"] == "cut"
    assert found["documents"][0]["explanation"]["final"]["rank"] == 1


def test_a_foreign_document_is_not_explained(world, shelf):
    other = Shelf(world.tenant())
    other.write([("secret-document", "red rose", 1)])
    found = shelf.run(explain_document="secret-document").json()["explained_document"]
    assert found["reason"] == "not_indexed"


def test_a_replay_gives_the_same_answer_and_says_what_changed_after_a_write(shelf):
    first = shelf.run().json()
    path = f"/v1/retrievers/{shelf.retriever}/executions/{first['execution_id']}/replay"
    again = shelf.client.post(path).json()
    assert again["identical"] is True
    assert again["comparison"]["rank_biased_overlap"] == pytest.approx(1.0)
    shelf.write([("d9", "red rose", 9)])
    changed = shelf.client.post(path).json()
    assert changed["identical"] is False
    assert changed["replayed_execution_id"] == first["execution_id"]


def test_a_replay_runs_the_version_that_ran(shelf):
    first = shelf.run().json()
    stages = [{"stage_name": "cut", "stage_id": "limit", "parameters": {"limit": 1}}]
    current = shelf.client.get(f"/v1/retrievers/{shelf.retriever}").json()
    patched = shelf.client.patch(f"/v1/retrievers/{shelf.retriever}", json={"stages": [current["stages"][0], *stages]})
    assert patched.status_code == 200, patched.text
    assert len(shelf.run().json()["documents"]) == 1
    path = f"/v1/retrievers/{shelf.retriever}/executions/{first['execution_id']}/replay"
    assert shelf.client.post(path).json()["identical"] is True


def test_a_strangers_execution_cannot_be_replayed(world, shelf):
    other = Shelf(world.tenant())
    ran = other.run().json()["execution_id"]
    path = f"/v1/retrievers/{shelf.retriever}/executions/{ran}/replay"
    assert shelf.client.post(path).status_code == 404


def test_results_become_documents_of_another_collection(shelf):
    target = shelf.tenant.collection("winners", [TEXT])
    body = shelf.run(target_collection_id="winners").json()
    assert body["written_to"]["collection_id"] == target
    assert body["written_to"]["documents_written"] == 3
    again = shelf.run(target_collection_id=target).json()
    assert again["written_to"]["documents_written"] == 3
    listed = shelf.client.post(f"/v1/collections/{target}/documents/list", json={}).json()["results"]
    assert {d["title"] for d in listed} == {d["title"] for d in body["documents"]}
    assert {d["source_document_id"] for d in listed} == set(idents(body))
    search = {"feature_uri": URI, "query": {"input_mode": "text", "value": "red rose"}}
    stages = [{"stage_id": "feature_search", "parameters": {"searches": [search]}}]
    found = shelf.client.post("/v1/retrievers/execute", json={"stages": stages, "collection_identifiers": [target]})
    assert len(found.json()["documents"]) == 3


def test_a_reading_key_cannot_write_results(shelf):
    users = shelf.client.get("/v1/organizations/users").json()["results"]
    keys = f"/v1/organizations/users/{users[0]['email']}/api-keys"
    key = shelf.client.post(keys, json={"name": "r", "permissions": ["read"]}).json()["key"]
    path = f"/v1/retrievers/{shelf.retriever}/execute"
    headers = {"Authorization": f"Bearer {key}"}
    body = {"inputs": {"query": "red"}, "target_collection_id": shelf.collection}
    assert shelf.client.post(path, json=body, headers=headers).status_code == 403


def test_an_unknown_target_is_not_found(shelf):
    path = f"/v1/retrievers/{shelf.retriever}/execute"
    answer = shelf.client.post(path, json={"inputs": {"query": "red"}, "target_collection_id": "nowhere"})
    assert answer.status_code == 404


def test_a_stream_cannot_write(shelf):
    path = f"/v1/retrievers/{shelf.retriever}/execute"
    body = {"inputs": {"query": "red"}, "target_collection_id": shelf.collection, "stream": True}
    answer = shelf.client.post(path, json=body)
    assert answer.status_code == 422
    assert "target_collection_id" in answer.text
