"""Annotations: verdicts, their history, judgments as they stood, and many at once."""

from __future__ import annotations

import httpx
import pytest

from helpers import failed, ok
from server import Tenant

PATH = "/v1/annotations"


@pytest.fixture
def annotation(client: httpx.Client) -> str:
    body = {"document_id": "doc_1", "label": "approved", "confidence": 0.9, "reasoning": "looks right"}
    return str(ok(client.post(PATH, json={**body, "payload": {"codes": ["E11"]}}))["annotation_id"])


def test_a_verdict_is_created_and_read(client: httpx.Client, annotation: str) -> None:
    found = ok(client.get(f"{PATH}/{annotation}"))
    assert (found["label"], found["confidence"], found["version"]) == ("approved", 0.9, 1)
    assert found["payload"] == {"codes": ["E11"]}
    assert found["actor_type"] == "api_key"
    assert found["revisions"] == []


def test_every_edit_keeps_what_was_before_it(client: httpx.Client, annotation: str) -> None:
    changed = ok(client.patch(f"{PATH}/{annotation}", json={"label": "rejected", "reasoning": "second look"}))
    assert (changed["version"], changed["label"], changed["confidence"]) == (2, "rejected", 0.9)
    assert changed["revisions"][0]["prior"] == {"label": "approved", "reasoning": "looks right"}
    ok(client.patch(f"{PATH}/{annotation}", json={"confidence": None}))
    versions = ok(client.get(f"{PATH}/{annotation}/versions"))
    assert versions["current_version"] == 3
    assert [entry["changed_fields"] for entry in versions["versions"]] == [[], ["label", "reasoning"], ["confidence"]]
    assert [entry["current"] for entry in versions["versions"]] == [False, False, True]
    first = ok(client.get(f"{PATH}/{annotation}/versions/1"))
    assert (first["label"], first["reasoning"], first["confidence"]) == ("approved", "looks right", 0.9)
    second = ok(client.get(f"{PATH}/{annotation}/versions/2"))
    assert (second["label"], second["confidence"]) == ("rejected", 0.9)
    assert ok(client.get(f"{PATH}/{annotation}/versions/3"))["confidence"] is None
    failed(client.get(f"{PATH}/{annotation}/versions/4"), 404)


def test_an_edit_that_changes_nothing_makes_no_version(client: httpx.Client, annotation: str) -> None:
    assert ok(client.patch(f"{PATH}/{annotation}", json={"label": "approved"}))["version"] == 1
    failed(client.patch(f"{PATH}/{annotation}", json={}), 422)
    failed(client.patch(f"{PATH}/{annotation}", json={"label": None}), 422)


def test_lists_filter_and_show_judgments_as_they_stood(client: httpx.Client, annotation: str) -> None:
    ok(client.post(PATH, json={"document_id": "doc_2", "label": "approved"}))
    moment = ok(client.get(f"{PATH}/{annotation}"))["created_at"]
    ok(client.patch(f"{PATH}/{annotation}", json={"label": "rejected"}))
    assert ok(client.post(f"{PATH}/list", json={}))["total_count"] == 2
    assert ok(client.post(f"{PATH}/list?skip=1&limit=1"))["results"][0]["annotation_id"] == annotation
    assert ok(client.post(f"{PATH}/list", json={"label": "rejected"}))["total_count"] == 1
    assert ok(client.post(f"{PATH}/list", json={"document_id": "doc_2"}))["total_count"] == 1
    then = ok(client.post(f"{PATH}/list", json={"as_of": moment}))
    assert [(entry["annotation_id"], entry["label"]) for entry in then["results"]] == [(annotation, "approved")]
    assert ok(client.post(f"{PATH}/list", json={"as_of": moment, "label": "rejected"}))["total_count"] == 0
    failed(client.post(f"{PATH}/list", json={"as_of": "yesterday"}), 422)


def test_labels_are_counted(client: httpx.Client, annotation: str) -> None:
    ok(client.post(PATH, json={"document_id": "doc_2", "label": "approved"}))
    ok(client.post(PATH, json={"document_id": "doc_2", "label": "unsure"}))
    assert ok(client.get(f"{PATH}/stats")) == {"total": 3, "by_label": {"approved": 2, "unsure": 1}}
    assert ok(client.get(f"{PATH}/stats", params={"document_id": "doc_2"}))["total"] == 2


def test_many_at_once_with_some_wrong(client: httpx.Client, annotation: str) -> None:
    body = {
        "create": [{"document_id": "a", "label": "x"}, {"document_id": "b"}, "nothing"],
        "update": [{"annotation_id": annotation, "label": "y"}, {"annotation_id": "ann_unknown", "label": "y"}],
        "delete": ["ann_unknown"],
    }
    done = ok(client.post(f"{PATH}/bulk", json=body))
    counts = {name: done[f"{name}_count"] for name in ("created", "updated", "deleted", "failed")}
    assert counts == {"created": 1, "updated": 1, "deleted": 0, "failed": 4}
    assert all(entry["error"] for entry in done["results"] if not entry["success"])
    assert ok(client.get(f"{PATH}/{annotation}"))["label"] == "y"
    failed(client.post(f"{PATH}/bulk", json={"delete": ["x"] * 1001}), 422)


def test_deleted_is_gone(client: httpx.Client, annotation: str) -> None:
    assert ok(client.delete(f"{PATH}/{annotation}"))["success"] is True
    failed(client.get(f"{PATH}/{annotation}"), 404)
    failed(client.delete(f"{PATH}/{annotation}"), 404)


def test_bad_verdicts_are_refused(client: httpx.Client) -> None:
    for body in (
        {"document_id": "d"}, {"document_id": "d", "label": ""}, {"document_id": "d", "label": "x" * 101},
        {"document_id": "d", "label": "x", "confidence": 1.1}, {"document_id": "d", "label": "x", "payload": []},
        {"document_id": "d", "label": "x", "payload": {"x": "y" * 60_000}},
    ):  # fmt: skip
        failed(client.post(PATH, json=body), 422)
    failed(client.post(PATH, json={"document_id": "d", "label": "x", "collection_id": "col_unknown"}), 404)
    failed(client.post(PATH, json={"document_id": "d", "label": "x", "retriever_id": "ret_unknown"}), 404)


def test_verdicts_of_others_do_not_exist(client: httpx.Client, annotation: str, stranger: Tenant) -> None:
    with stranger.client() as setup:
        ok(setup.post("/v1/namespaces", json={"namespace_name": "own"}))
    with stranger.client("own") as other:
        failed(other.get(f"{PATH}/{annotation}"), 404)
        failed(other.patch(f"{PATH}/{annotation}", json={"label": "x"}), 404)
        failed(other.delete(f"{PATH}/{annotation}"), 404)
        failed(other.get(f"{PATH}/{annotation}/versions"), 404)
        assert ok(other.post(f"{PATH}/list"))["total_count"] == 0
        bulk = ok(other.post(f"{PATH}/bulk", json={"delete": [annotation]}))
        assert bulk["failed_count"] == 1
    assert ok(client.get(f"{PATH}/{annotation}"))["label"] == "approved"
