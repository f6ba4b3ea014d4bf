"""The LangChain package of the hosted product, unmodified but for the address: retriever, tool, vector store and every
tool of its toolkit."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compat_served import KEY, Served
from mixpeek import Mixpeek
from sdk_media import packed
from sdk_world import World, search_stage

CHILD = Path(__file__).parent / "langchain_child.py"


class LangChain:
    """The package in its own process."""

    def __init__(self, **store: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([sys.executable, str(CHILD)], stdin=pipe, stdout=pipe, text=True)
        self.send(store)

    def send(self, line: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def raw(self, what: str, name: str = "", /, **arguments: Any) -> dict[str, Any]:
        self.send([what, name, arguments])
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def call(self, what: str, name: str = "", /, **arguments: Any) -> Any:
        answer = self.raw(what, name, **arguments)
        assert "gave" in answer, answer
        return answer["gave"]

    def tool(self, name: str, given: Any) -> Any:
        return self.call("tool", name, input={"input_str": json.dumps(given)} if isinstance(given, dict) else given)

    def store(self, name: str, /, **arguments: Any) -> Any:
        return self.call("store", name, **arguments)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(120)


@pytest.fixture
def world(served: Served, client: Mixpeek, namespace: str) -> World:
    return World(client, served.url, namespace).build()


@pytest.fixture
def langchain(world: World) -> Iterator[LangChain]:
    made = LangChain(
        url=f"{world.url}/v1",
        api_key=KEY,
        namespace=world.namespace,
        bucket_id=world.bucket,
        collection_id=world.collection,
        retriever_id=world.retriever,
        blob_property="description",
    )
    yield made
    made.close()


def eventually(langchain: LangChain, name: str, ready: str, /, **arguments: Any) -> Any:
    for _ in range(2_400):
        found = langchain.store(name, **arguments)
        if found.get(ready):
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def test_the_retriever_and_the_tool_give_documents_with_text_and_score(langchain: LangChain, world: World) -> None:
    found = langchain.call("retriever", query="something to drink from", top_k=2)
    assert found[0]["text"] == "A red mug for tea and coffee"
    assert len(found) == 2
    assert found[0]["collection_id"] == world.collection
    assert round(found[0]["score"], 4) > round(found[1]["score"], 4)
    assert {document["document_id"] for document in found} < set(world.documents)
    assert [row["document_id"] for row in langchain.call("single", input="something to drink from")] == [
        document["document_id"] for document in found
    ]


@pytest.mark.parametrize(
    "filters",
    [
        {"AND": [{"field": "price", "operator": "gt", "value": 50}]},
        {"field": "price", "operator": "gt", "value": 50},
        {"price": {"gt": 50}},
    ],
)
def test_the_retriever_filters(langchain: LangChain, filters: dict[str, Any]) -> None:
    found = langchain.call("retriever", query="something to drink from", filters=filters, content_field="name")
    assert sorted(document["text"] for document in found) == ["Headphones", "Lawn mower"]


def test_texts_are_ingested_processed_and_found(langchain: LangChain, world: World) -> None:
    said = langchain.tool("ingest", {"type": "text", "data": "A green teapot", "metadata": {"name": "Teapot"}})
    assert said["status"] == "uploaded"
    (other,) = langchain.store("add_texts", texts=["A sun hat of straw"], metadatas=[{"name": "Hat"}])
    assert other.startswith("obj_")
    batch = langchain.tool("process", "")
    assert world.wait(batch["batch_id"])["status"] == "COMPLETED"
    found = langchain.tool("search", "a hat against the sun")
    assert found[0]["content"] == "A sun hat of straw"
    assert found[0]["collection_id"] == world.collection
    ((document, score),) = langchain.store("similarity_search_with_score", query="a pot for tea", k=1)
    assert document["text"] == "A green teapot"
    assert score == document["score"]


def test_a_file_that_cannot_be_fetched_is_said_by_the_tool(langchain: LangChain, world: World) -> None:
    said = langchain.tool("ingest", {"type": "image", "url": "http://169.254.169.254/latest/meta-data"})
    assert "Ingest failed" in said or said["object_ids"]
    assert "latest/meta-data/" not in json.dumps(said)


def taxonomy(langchain: LangChain, world: World) -> str:
    """A class for each product, made as the package's documentation makes it: everything at the level of the config."""
    labels = world.client.collections.create(
        collection_name=world.name("labels"),
        source={"type": "bucket", "bucket_ids": [world.bucket]},
        feature_extractor={
            "feature_extractor_name": "text_extractor",
            "version": "v1",
            "input_mappings": {"text": "description"},
            "field_passthrough": ["name"],
        },
    )["collection_id"]
    world.wait(world.client.collections.trigger(labels)["batch_id"])
    matcher = world.client.retrievers.create(
        retriever_name=world.name("matcher"),
        collection_identifiers=[labels],
        stages=[search_stage()],
        input_schema={"query": {"type": "string"}},
    )["retriever_id"]
    made = langchain.store(
        "create_taxonomy",
        name=world.name("products"),
        description="which product it is",
        config={
            "taxonomy_type": "flat",
            "retriever_id": matcher,
            "collection_id": labels,
            "input_mappings": [{"input_key": "query", "source_type": "payload", "path": "text"}],
            "enrichment_fields": [{"field_path": "name", "merge_mode": "replace"}],
        },
    )
    assert made["taxonomy_id"]
    return str(made["taxonomy_id"])


def test_the_classify_tool_answers_with_the_labels_of_documents(langchain: LangChain, world: World) -> None:
    ident = taxonomy(langchain, world)
    attach = {"taxonomy_applications": [{"taxonomy_id": ident}]}
    world.request("PATCH", f"/collections/{world.collection}", attach)
    said = langchain.tool("classify", {"taxonomy_id": ident})
    names = {
        document["document_id"]: document["name"]
        for document in world.client.documents.list(world.collection)["results"]
    }
    assert {names[match["document_id"]]: match["label"] for match in said["matches"]} == {n: n for n in names.values()}
    assert langchain.store("get_taxonomy", taxonomy_id=ident)["taxonomy_id"] == ident
    assert ident in [one["taxonomy_id"] for one in langchain.store("list_taxonomies")["results"]]
    assert langchain.tool("classify", {"taxonomy_id": "tax_unknown"}).startswith(
        "Classification failed: HTTP Error 404"
    )


def test_the_cluster_tool_makes_runs_and_shows_groups(langchain: LangChain, world: World) -> None:
    said = langchain.tool("cluster", {"cluster_type": "vector", "algorithm": "kmeans", "n_clusters": 2})
    assert said["status"] == "executing"
    ident = said["cluster_id"]
    before = langchain.tool("cluster", {"cluster_id": ident})
    assert before["groups"] == [] or len(before["groups"]) == 2
    groups = eventually(langchain, "get_cluster_groups", "total_groups", cluster_id=ident)
    assert (groups["total_groups"], groups["total_documents"]) == (2, 3)
    assert sorted(group["member_count"] for group in groups["groups"]) == [1, 2]
    assert ident in [one["cluster_id"] for one in langchain.store("list_clusters")["results"]]
    made = langchain.store("create_cluster", cluster_type="attribute", attribute_config={"attributes": ["name"]})
    langchain.store("execute_cluster", cluster_id=made["cluster_id"])
    groups = eventually(langchain, "get_cluster_groups", "total_groups", cluster_id=made["cluster_id"])
    assert groups["total_groups"] == 3
    assert langchain.store("delete_cluster", cluster_id=ident)


@pytest.mark.parametrize(
    "notify", [{}, {"slack_channel": "#alerts"}, {"email": "a@example.com"}, {"webhook_url": "{site}/hook"}]
)
def test_the_alert_tool_makes_one_with_every_channel(
    langchain: LangChain, world: World, served: Served, notify: dict[str, str]
) -> None:
    given = {name: value.replace("{site}", served.site.url) for name, value in notify.items()}
    made = langchain.tool("alert", {"name": world.name("brand-watch"), **given})
    ident = made["alert_id"]
    first = langchain.tool("alert", {"alert_id": ident})
    assert first.startswith("Alert creation failed: HTTP Error 404")
    world.request("POST", f"/alerts/{ident}/execute", {"inputs": {"query": "music"}})
    for _ in range(2_400):
        result = langchain.tool("alert", {"alert_id": ident})
        if isinstance(result, dict):
            break
        time.sleep(0.05)
    assert set(world.documents) >= {match["document_id"] for match in result["matches"]}
    assert result["matches"]
    assert langchain.store("get_alert", alert_id=ident)["name"] == made["name"]
    assert ident in [one["alert_id"] for one in langchain.store("list_alerts")["results"]]
    assert langchain.store("delete_alert", alert_id=ident)


def test_plug_ins_are_listed_shown_and_asked(langchain: LangChain, world: World) -> None:
    assert langchain.store("list_plugins")["plugins"] == []
    files = {
        "manifest.py": b'metadata = {"name": "counter", "version": "v1"}',
        "pipeline.py": b"def extract(inputs, parameters):\n    return {'size': 1}",
    }
    data = base64.b64encode(packed(files)).decode()
    path = f"/namespaces/{world.namespace}/plugins"
    plugin = world.request("POST", path, {"name": "counter", "version": "v1", "file": data})["plugin_id"]
    assert [entry["plugin_id"] for entry in langchain.store("list_plugins")["results"]] == [plugin]
    assert langchain.store("get_plugin", plugin_id=plugin)["plugin"]["name"] == "counter"
    assert langchain.store("get_plugin_status", plugin_id=plugin)["status"] == "NOT_DEPLOYED"
    asked = langchain.raw("store", "test_plugin", plugin_id=plugin, inputs={"text": "x"})
    assert "409" in asked["raised"]  # this server runs nobody's code


def test_what_the_package_cannot_do_here_is_an_error_of_http(langchain: LangChain, world: World) -> None:
    assert langchain.raw("store", "delete", ids=world.documents[:1])["raised"].startswith("TypeError")
    assert len(world.client.documents.list(world.collection)["results"]) == 3
