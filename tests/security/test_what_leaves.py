"""What answers must not hold: values of secrets, and the order of hidden fields; and who else waits for an answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fenced_world import Fenced, search

from helpers import failed, ok
from server import Server

TOKEN = "swordfish-9162-ghijkl"


@pytest.fixture(scope="module")
def world(served: Server) -> Iterator[Fenced]:
    made = Fenced(served, "leaves")
    ok(made.client.post("/v1/organizations/secrets", json={"secret_name": "token", "secret_value": TOKEN}))
    yield made
    made.close()


def tell(template: Any) -> dict[str, Any]:
    return {"stage_id": "json_transform", "stage_name": "tell", "parameters": {"template": template}}


ECHO = tell('{"said": {{ SECRET.token | tojson }}, "title": {{ DOC.title | tojson }}}')


def test_an_answer_shows_no_secret_that_a_stage_put_into_a_document(world: Fenced) -> None:
    answer = world.adhoc([search(), ECHO], limit=100)
    assert {document["said"] for document in ok(answer)["documents"]} == {"***"}
    assert TOKEN not in answer.text


def test_nor_on_a_later_page_or_from_a_cache(world: Fenced) -> None:
    body = {
        "retriever_name": "echo",
        "collection_identifiers": [world.collection],
        "stages": [search(), ECHO],
        "cache_config": {"enabled": True, "cache_stage_names": ["tell"]},
    }
    retriever = ok(world.client.post("/v1/retrievers", json=body))["retriever_id"]
    for _ in range(3):
        first = world.execute(retriever, {"pagination": {"method": "cursor", "limit": 2}})
        assert TOKEN not in first.text
        later = world.execute(
            retriever,
            {"pagination": {"method": "cursor", "limit": 2, "cursor": ok(first)["pagination"]["next_cursor"]}},
        )
        assert len(ok(later)["documents"]) == 2
        assert TOKEN not in later.text


def test_nor_in_an_explanation_an_error_or_a_stream(world: Fenced) -> None:
    leaf = {"field": "title", "operator": "eq", "value": "{{SECRET.token}}"}
    why = world.adhoc([{**search(), "pre_filters": leaf}], explain_document="bob-1")
    assert ok(why)["explained_document"]["reason"] == "filtered"
    assert TOKEN not in why.text
    assert TOKEN not in world.adhoc([search(), ECHO], stream=True).text
    broken = tell({"a": "{{ DOC.number + SECRET.token }}"})
    assert TOKEN not in world.adhoc([search(), broken]).text


# ---- published


def test_a_visitor_may_not_sort_groups_by_a_hidden_field(world: Fenced) -> None:
    """The order of documents inside a group told the order of what they hide."""
    retriever = world.retriever("open", [search()], {"query": {"type": "string"}})
    page = {"title": "Papers", "inputs": [], "exposed_fields": ["title", "owner"]}
    spec = {"public_name": f"papers-{retriever[-8:].lower()}".replace("_", "-"), "display_config": page}
    name = ok(world.client.post(f"/v1/retrievers/{retriever}/publish", json=spec))["public_name"]
    path = f"/v1/public/retrievers/{name}/execute"
    for sort in ("-number", [{"field": "number", "direction": "desc"}], ["note"]):
        body = {"inputs": {}, "group_by": {"field": "owner", "sort": sort}}
        assert "not open" in failed(world.client.post(path, json=body), 422)["message"]
    ok(world.client.post(path, json={"inputs": {}, "group_by": {"field": "owner", "sort": "-title"}}))


# ---- others wait


def test_one_callers_templates_do_not_stop_the_server(world: Fenced, served: Server) -> None:
    """Half a second for each of many documents, on the loop that serves everybody."""
    slow = "{% for a in range(9000) %}{% if a * a == DOC.number %}x{% endif %}{{ a|string|length }}{% endfor %}"
    rows = [(f"slow-{number}", "ann", number) for number in range(300)]
    world.write(rows)
    longest, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal longest
        with httpx.Client(base_url=served.url, timeout=120) as client:
            while not done.is_set():
                began = time.monotonic()
                client.get("/v1/health")
                longest = max(longest, time.monotonic() - began)

    watcher = threading.Thread(target=watch)
    watcher.start()
    stages = [search(search={"top_k": 400}, final_top_k=400), tell('{"a": "' + slow + '"}')]
    began = time.monotonic()
    found = world.adhoc(stages, limit=400)
    taken = time.monotonic() - began
    done.set()
    watcher.join()
    assert "no time left" in json.dumps(ok(found)["warnings"])
    assert taken < 60, "alone they would take minutes"
    assert longest < 30
    gone = {"document_ids": [ident for ident, _, _ in rows]}
    ok(world.client.request("DELETE", f"/v1/collections/{world.collection}/documents/batch", json=gone))


def test_a_retriever_has_so_many_stages_and_templates_and_no_more(world: Fenced) -> None:
    many = [{**search(), "stage_name": f"s{number}"} for number in range(101)]
    assert "at most 100" in failed(world.adhoc(many), 422)["message"]
    large = tell({str(number): "{{ DOC.title }}" * 1000 + str(number) for number in range(20)})
    assert "templates" in failed(world.adhoc([search(), large]), 422)["message"]


@pytest.mark.parametrize("depth", [200, 480, 900, 1020])
@pytest.mark.parametrize("bracket", ["[]", "{}"])
def test_deep_json_is_refused_or_kept_and_never_an_error_of_the_server(world: Fenced, depth: int, bracket: str) -> None:
    deep = "[" * depth + "]" * depth if bracket == "[]" else '{"a":' * depth + "1" + "}" * depth
    retriever = world.retriever(f"deep {depth} {bracket[0] == '['}", [search()], {"query": {"type": "string"}})
    hole = "deep json"
    stages = [{"stage_id": "json_transform", "parameters": {"template": {"x": hole}}}]
    click = {"feature_id": "a", "interaction_type": ["click"], "position": 1}
    shown = {"title": "a", "inputs": [], "exposed_fields": ["a"], "x": hole}
    asked = {"query_id": "a", "query_input": hole, "relevant_documents": ["a"]}
    owned = {"collection_identifiers": [world.collection]}
    note = {"document_id": "bob-1", "collection_id": world.collection, "label": "a"}
    bodies: dict[str, Any] = {
        "/v1/retrievers/execute": {**owned, "stages": stages},
        "/v1/retrievers": {**owned, "retriever_name": f"d{depth}{len(bracket)}", "stages": stages},
        f"/v1/retrievers/{retriever}/execute": {"inputs": {"query": hole}, "sort": hole},
        f"/v1/retrievers/{retriever}/publish": {"display_config": shown, "filters": hole},
        "/v1/retrievers/interactions": {**click, "metadata": {"a": hole}},
        "/v1/retrievers/interactions/batch": {"interactions": [{**click, "query_snapshot": {"a": hole}}]},
        "/v1/retrievers/evaluations/datasets": {"dataset_name": "d", "queries": [asked]},
        "/v1/annotations": {**note, "payload": {"a": hole}, "metadata": {"a": hole}},
    }
    for path, body in bodies.items():
        content = json.dumps(body).replace(json.dumps(hole), deep)
        answer = world.client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code < 500, (path, answer.text[:300])
