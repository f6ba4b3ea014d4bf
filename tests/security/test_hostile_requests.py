"""What a hostile client sends: each gets an answer of its own fault, quickly, and nothing of anybody else's changes."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest
from security_helpers import BUCKET

from helpers import failed, ok

JSON = {"Content-Type": "application/json"}
LISTS = ("/v1/namespaces/list", "/v1/buckets/list", "/v1/batches/list", "/v1/tasks/list", "/v1/documents/list")


def cursor(state: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(state).encode()).decode().rstrip("=")


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    "body",
    [{"limit": "²"}, {"limit": "1" * 5000}, {"page": "٣"}, {"search": "x" * 100_000}, {"search": "a\0b"},
     {"sort": {"field": "a." * 3000}}, {"sort": {"field": "\0"}}, {"sort": [{"field": f"f{n}"} for n in range(3000)]}],
    ids=lambda body: str(body)[:30],
)  # fmt: skip
def test_paging_search_and_sort_beyond_reason_are_refused(client: httpx.Client, path: str, body: Any) -> None:
    error = failed(client.post(path, json=body), 422)
    assert len(error["message"]) < 1000


@pytest.mark.parametrize("path", LISTS[:4])
@pytest.mark.parametrize("offset", ["x", None, -5, 2**70, [1], True], ids=repr)
def test_a_forged_list_cursor_is_refused(client: httpx.Client, path: str, offset: Any) -> None:
    assert "cursor" in failed(client.post(path, json={"cursor": cursor({"o": offset})}), 422)["message"]


@pytest.mark.parametrize("given", [{"a": 1}, [{}], ["x"] * 1000, 5], ids=lambda given: str(given)[:20])
def test_tasks_are_listed_by_names_only(client: httpx.Client, given: Any) -> None:
    failed(client.post("/v1/tasks/list", json={"status": given}), 422)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/buckets/things/batches", '{"object_ids": ["\\ud800"]}'),
        ("/v1/documents/search", '{"query": "a", "collection_ids": ["\\ud800"]}'),
        ("/v1/collections", '{"collection_name": "abc", "source": {"type": "bucket", "bucket_ids": ["\\ud800"]},'
         ' "feature_extractor": {"feature_extractor_name": "passthrough_extractor", "version": "v1"}}'),
        ("/v1/buckets", '{"bucket_name": "\\ud800abc", "bucket_schema": {"properties": {"t": {"type": "text"}}}}'),
    ],
)  # fmt: skip
def test_a_lone_surrogate_is_the_callers_error(client: httpx.Client, path: str, body: str) -> None:
    client.post("/v1/buckets", json={"bucket_name": "things", "bucket_schema": BUCKET})
    answer = client.post(path, content=body, headers=JSON)
    assert answer.status_code in (404, 422), answer.text


def test_a_number_beyond_64_bits_is_the_callers_error(client: httpx.Client) -> None:
    client.post("/v1/buckets", json={"bucket_name": "things", "bucket_schema": BUCKET})
    failed(client.post("/v1/buckets/things/batches/bulk-submit", json={"max_objects": 2**70}), 422)


@pytest.mark.parametrize("version", [[], {}, "x", 1.5], ids=repr)
def test_a_retriever_version_must_be_a_number(client: httpx.Client, version: Any) -> None:
    failed(client.post("/v1/retrievers/any/execute", json={"version": version}), 422)


@pytest.mark.parametrize(
    "names", [[{}], [1], "col", {"a": 1}, [f"c{n}" for n in range(5000)]], ids=lambda n: str(n)[:9]
)
def test_collections_of_an_ad_hoc_search_are_a_short_list_of_names(client: httpx.Client, names: Any) -> None:
    stage = {"stage_name": "s", "config": {"stage_id": "limit", "parameters": {"limit": 1}}}
    failed(client.post("/v1/retrievers/execute", json={"collection_identifiers": names, "stages": [stage]}), 422)


def test_a_million_problems_are_not_all_spelled_out(client: httpx.Client) -> None:
    wrong = {"object_ids": [0] * 900}
    client.post("/v1/buckets", json={"bucket_name": "things", "bucket_schema": BUCKET})
    answer = client.post("/v1/buckets/things/batches", json=wrong)
    assert "and 850 more" in failed(answer, 422)["message"]
    unknown = {f"key{number}": 1 for number in range(20_000)}
    made = ok(client.post("/v1/buckets", json={"bucket_name": "wide", "bucket_schema": BUCKET, **unknown}))
    assert made["warnings"][-1] == "19950 more unknown keys are ignored"


def test_one_request_cannot_keep_the_models_busy_for_minutes(client: httpx.Client) -> None:
    name = "multilingual_e5_large_instruct_v1"
    for texts in ("x" * 1_000_000, ["x" * 1000] * 100):
        failed(client.post("/v1/inference", json={"inference_name": name, "inputs": {"text": texts}}), 422)
    extractor = {"feature_extractor_name": "text_extractor", "version": "v1", "input_mappings": {"text": "text"}}
    client.post("/v1/buckets", json={"bucket_name": "things", "bucket_schema": BUCKET})
    source = {"type": "bucket", "bucket_ids": ["things"]}
    body = {"collection_name": "texts", "source": source, "feature_extractor": extractor}
    ok(client.post("/v1/collections", json=body))
    found = ok(client.post("/v1/features/search", json={"query": "x" * 100_000, "collection_ids": ["texts"]}))
    assert [(limit["requested"], limit["applied"]) for limit in found["limits"]] == [(100_000, 2_000)]
