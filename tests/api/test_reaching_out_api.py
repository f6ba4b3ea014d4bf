"""Retrievers that reach outside, over HTTP: who may run them, what they tell, and what stays secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from helpers import ok
from language_server import KEY, LanguageServer, Say
from mediatheca.settings import Settings
from outside_site import Reply, Site, a_site
from server import Server, new_tenant

SECRET = "swordfish-of-the-shop"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with a_site() as made:
        made.routes["/price"] = lambda asked: Reply({"price": 7, "seen": asked.headers.get("authorization")})
        yield made


@pytest.fixture(scope="module")
def model() -> Iterator[LanguageServer]:
    with LanguageServer([Say("Foxes [1] are red.", delay_s=0.3)]) as made:
        yield made


@pytest.fixture(scope="module")
def reaching(
    tmp_path_factory: pytest.TempPathFactory, site: Site, model: LanguageServer
) -> Iterator[Server]:  # fmt: skip
    own: dict[str, Any] = {"language_url": f"{model.url}/v1", "language_key": KEY, "language_model": "llama3.1:8b"}
    folder = tmp_path_factory.mktemp("reaching")
    made = Server(Settings(data_dir=folder, workers=0, log_level="error", fetch_allow=site.host, **own))
    yield made
    made.close()


class Shop:
    """An organization with two documents, a secret, and keys that write, and that only read."""

    def __init__(self, server: Server, site: Site) -> None:
        self.tenant = new_tenant(server)
        self.writer = self.tenant.client()
        self.site = site
        body = {"namespace_name": "shop", "vector_configs": [{"name": "colour", "dimension": 2, "metric": "cosine"}]}
        self.namespace = ok(self.writer.post("/v1/namespaces/standalone", json=body))["namespace_id"]
        self.writer.headers["X-Namespace"] = self.namespace
        documents = [
            {"document_id": f"d{n}", "vectors": {"colour": [1.0, n / 10]}, "payload": {"text": text, "n": n}}
            for n, text in enumerate(["red fox", "blue whale"])
        ]
        ok(self.writer.post(f"/v1/namespaces/{self.namespace}/documents/upsert", json={"documents": documents}))
        self.collection = ok(self.writer.post("/v1/collections/list"))["results"][0]["collection_id"]
        secret = {"secret_name": "shop", "secret_value": SECRET}
        ok(self.writer.post("/v1/organizations/secrets", json=secret))
        keys = f"/v1/organizations/users/{self.tenant.email}/api-keys"
        key = ok(self.writer.post(keys, json={"name": "reader", "permissions": ["read"]}))["key"]
        self.reader = self.tenant.client(self.namespace, key)

    def calling(self) -> list[dict[str, Any]]:
        """Stages that show a secret to another server."""
        query = {"input_mode": "vector", "value": [1.0, 0.0]}
        call = {
            "url": f"{self.site.url}/price",
            "allowed_domains": ["127.0.0.1"],
            "headers": {"Authorization": "Bearer {{SECRET.shop}}"},
            "on_error": "raise",
        }
        search = {"searches": [{"feature_uri": "colour", "query": query}]}
        return [
            {"stage_id": "feature_search", "parameters": search},
            {"stage_id": "api_call", "parameters": call},
        ]

    def retriever(self, stages: list[dict[str, Any]], name: str = "stored") -> dict[str, Any]:
        body = {"retriever_name": name, "collection_identifiers": [self.collection], "stages": stages}
        return dict(ok(self.writer.post("/v1/retrievers", json=body)))

    def adhoc(self, client: httpx.Client, stages: list[dict[str, Any]]) -> httpx.Response:
        body = {"stages": stages, "collection_identifiers": [self.collection]}
        return client.post("/v1/retrievers/execute", json=body)

    def close(self) -> None:
        self.writer.close()
        self.reader.close()


@pytest.fixture
def shop(reaching: Server, site: Site) -> Iterator[Shop]:
    site.asked.clear()
    made = Shop(reaching, site)
    yield made
    made.close()


def seen(site: Site) -> list[str | None]:
    return [asked.headers.get("authorization") for asked in site.asked]


def test_a_stored_retriever_calls_with_its_secret_for_a_key_that_reads(shop: Shop, site: Site) -> None:
    retriever = shop.retriever(shop.calling())["retriever_id"]
    answer = shop.reader.post(f"/v1/retrievers/{retriever}/execute", json={})
    assert [d["api_response"]["price"] for d in ok(answer)["documents"]] == [7, 7]
    assert seen(site) == [f"Bearer {SECRET}"]
    assert SECRET not in answer.text
    records = shop.reader.get(f"/v1/retrievers/{retriever}/executions/{answer.json()['execution_id']}")
    assert SECRET not in records.text
    assert SECRET not in shop.reader.get(f"/v1/retrievers/{retriever}").text


def test_the_same_stages_not_stored_are_refused_to_a_key_that_reads(shop: Shop, site: Site) -> None:
    answer = shop.adhoc(shop.reader, shop.calling())
    assert answer.status_code == 403
    assert "permission 'write'" in answer.json()["error"]["message"]
    assert SECRET not in answer.text
    assert seen(site) == []
    without = shop.calling()
    without[1]["parameters"]["headers"] = {}
    assert shop.adhoc(shop.reader, without).status_code == 403
    body = {"stages": shop.calling(), "collection_identifiers": [shop.collection], "stream": True}
    streamed = shop.reader.post("/v1/retrievers/execute", json=body)
    assert '"status":403' in streamed.text
    assert SECRET not in streamed.text
    assert seen(site) == []


def test_a_secret_cannot_be_read_out_by_stages_that_are_not_stored(shop: Shop) -> None:
    shown = [shop.calling()[0], {"stage_id": "json_transform", "parameters": {"template": '{"x": "{{SECRET.shop}}"}'}}]
    answer = shop.adhoc(shop.reader, shown)
    assert answer.status_code == 403
    assert SECRET not in answer.text


def test_with_a_key_that_writes_they_run(shop: Shop, site: Site) -> None:
    answer = shop.adhoc(shop.writer, shop.calling())
    assert [d["api_response"]["price"] for d in ok(answer)["documents"]] == [7, 7]
    assert seen(site) == [f"Bearer {SECRET}"]
    assert SECRET not in answer.text


def test_a_stranger_reaches_neither_retriever_nor_secret(shop: Shop, reaching: Server, site: Site) -> None:
    retriever = shop.retriever(shop.calling())["retriever_id"]
    foreign = Shop(reaching, site)
    assert foreign.writer.post(f"/v1/retrievers/{retriever}/execute", json={}).status_code == 404
    assert seen(site) == []
    foreign.close()


# streams

SUMMARY = {"stage_id": "summarize", "parameters": {"prompt": "Write about {{DOCUMENTS}}"}}


def blocks(text: str) -> list[dict[str, str]]:
    parts = [part for part in text.strip().split("\n\n") if not part.startswith(":")]
    return [dict(line.split(": ", 1) for line in part.split("\n")) for part in parts]


def test_tokens_come_while_the_model_writes(shop: Shop) -> None:
    path = f"/v1/retrievers/{shop.retriever([shop.calling()[0], SUMMARY])['retriever_id']}/execute"
    found = blocks(shop.reader.post(path, json={"stream": True}).text)
    told = [json.loads(block["data"]) for block in found]
    text = "".join(event["text"] for event in told if event["event_type"] == "token").strip()
    assert text == "Foxes [1] are red."
    assert told[-1]["documents"][0]["summary"].strip() == text


def test_a_broken_stream_goes_on_where_it_broke_and_only_for_its_key(shop: Shop, model: LanguageServer) -> None:
    path = f"/v1/retrievers/{shop.retriever([shop.calling()[0], SUMMARY])['retriever_id']}/execute"
    before = len(model.requests)
    with shop.reader.stream("POST", path, json={"stream": True}) as broken:
        first = next(broken.iter_text())
    last = blocks(first)[0]["id"]
    assert shop.writer.post(path, json={"stream": True}, headers={"Last-Event-ID": last}).status_code == 404
    rest = blocks(shop.reader.post(path, json={"stream": True}, headers={"Last-Event-ID": last}).text)
    assert [int(block["id"].rpartition(":")[2]) for block in rest] == list(range(2, 2 + len(rest)))
    assert rest[-1]["event"] == "execution_complete"
    assert len(model.requests) == before + 1
    gone = shop.reader.post(path, json={"stream": True}, headers={"Last-Event-ID": "exec_unknown:1"})
    assert gone.status_code == 404


@pytest.mark.parametrize(("mode", "keys"), [("none", None), ("ids", {"document_id", "collection_id", "score"})])
def test_a_stream_tells_as_much_of_documents_as_is_asked(shop: Shop, mode: str, keys: set[str] | None) -> None:
    retriever = shop.retriever([shop.calling()[0]])["retriever_id"]
    answer = shop.reader.post(f"/v1/retrievers/{retriever}/execute", json={"stream": True, "stream_documents": mode})
    told = json.loads(blocks(answer.text)[1]["data"])["documents"]
    assert [set(document) for document in told] == ([] if keys is None else [keys, keys])


def test_a_stream_can_tell_whole_documents(shop: Shop) -> None:
    retriever = shop.retriever([shop.calling()[0]])["retriever_id"]
    path = f"/v1/retrievers/{retriever}/execute"
    answer = shop.reader.post(path, json={"stream": True, "stream_documents": "full", "select": ["text"]})
    stage, done = (json.loads(blocks(answer.text)[n]["data"]) for n in (1, 2))
    assert stage["documents"] == done["documents"]
    assert {d["text"] for d in stage["documents"]} == {"red fox", "blue whale"}
    assert "n" not in stage["documents"][0]
    assert shop.reader.post(path, json={"stream": True, "stream_documents": "all"}).status_code == 422


# what is not configured


def test_a_retriever_is_warned_about_what_is_not_configured_here(shop: Shop) -> None:
    needs = [
        {"stage_id": "external_web_search", "parameters": {"query": "x"}},
        {"stage_id": "code_execution", "parameters": {"code": "result = 1"}},
    ]
    made = shop.retriever([shop.calling()[0], *needs, SUMMARY], "needy")
    warnings = [text for text in made["warnings"] if "cannot run here" in text]
    assert len(warnings) == 2
    assert "MEDIATHECA_WEB_SEARCH" in warnings[0]
    assert "MEDIATHECA_ALLOW_CODE" in warnings[1]


def test_the_catalogue_says_what_is_available(shop: Shop) -> None:
    shown = {entry["stage_id"]: entry for entry in ok(shop.reader.get("/v1/retrievers/stages"))}
    assert shown["summarize"]["available"] is True
    assert shown["attribute_filter"]["available"] is True
    for stage_id, setting in (("external_web_search", "WEB_SEARCH"), ("code_execution", "ALLOW_CODE")):
        assert shown[stage_id]["available"] is False
        assert f"MEDIATHECA_{setting}" in shown[stage_id]["unavailable_reason"]
