"""`response_shape` and `web_scraper` over HTTP: schemas derived once, needs said at once, sites as documents."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from helpers import ok
from language_server import KEY, Asked, LanguageServer
from mediatheca.settings import Settings
from outside_site import Site, a_site
from server import Server, new_tenant

FIELDS = [
    {"name": "brand", "type": "string", "description": "Who makes it."},
    {"name": "title", "type": "string"},
    {"name": "colour", "type": "string", "values": ["red", "blue"]},
    {"name": "sizes", "type": "list_of_numbers"},
    {"name": "seller", "type": "object", "fields": [{"name": "city", "type": "string"}]},
]
PAGE = (
    "<html><head><title>{name}</title></head><body><article><p>"
    + "The {name} is a fine shoe by {name} and company. " * 6
)


def _says(asked: Asked) -> str:
    """A model that designs fields, or finds the brand in what it is shown."""
    if "design the fields" in asked.text:
        return "no idea" if "gibberish" in asked.text else json.dumps({"fields": FIELDS})
    brand = "Fox" if "Fox" in asked.text else "Owl"
    return json.dumps({"brand": brand, "colour": "red", "sizes": [42], "found_title": f"A {brand}"})


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with a_site() as made:
        made.html("/", PAGE.format(name="Fox") + '<a href="/owl">next</a>')
        made.html("/owl", PAGE.format(name="Owl"))
        yield made


@pytest.fixture(scope="module")
def model() -> Iterator[LanguageServer]:
    with LanguageServer([_says]) as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, site: Site, model: LanguageServer) -> Iterator[Server]:
    own: dict[str, Any] = {"language_url": f"{model.url}/v1", "language_key": KEY, "language_model": "tiny"}
    folder = tmp_path_factory.mktemp("shapes")
    made = Server(Settings(data_dir=folder, workers=1, log_level="error", fetch_allow=site.host, **own))
    yield made
    made.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a language model."""
    made = Server(Settings(data_dir=tmp_path_factory.mktemp("plain"), workers=0, log_level="error"))
    yield made
    made.close()


_clients: list[httpx.Client] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while _clients:
        _clients.pop().close()


def shop(server: Server) -> tuple[httpx.Client, str]:
    client = new_tenant(server).client()
    _clients.append(client)
    body = {"namespace_name": "shop", "feature_extractors": []}
    client.headers["X-Namespace"] = ok(client.post("/v1/namespaces", json=body))["namespace_id"]
    schema = {"properties": {"site": {"type": "string"}}}
    bucket = ok(client.post("/v1/buckets", json={"bucket_name": "sites", "bucket_schema": schema}))["bucket_id"]
    return client, bucket


def body_of(bucket: str, **parameters: Any) -> dict[str, Any]:
    light = dict.fromkeys(
        ("generate_code_embeddings", "generate_image_embeddings", "generate_structure_embeddings"), False
    )
    extractor = {
        "feature_extractor_name": "web_scraper",
        "input_mappings": {"url": "site"},
        "parameters": {**light, "render_strategy": "static", **parameters},
    }
    return {
        "collection_name": f"pages{time.monotonic_ns()}",
        "source": {"type": "bucket", "bucket_ids": [bucket]},
        "feature_extractor": extractor,
    }


def test_a_shape_in_words_becomes_a_schema_that_is_kept(server: Server, model: LanguageServer) -> None:
    client, bucket = shop(server)
    before = len(model.requests)
    made = ok(
        client.post("/v1/collections", json=body_of(bucket, response_shape="brand, colour and sizes of the shoe"))
    )
    assert len(model.requests) == before + 1
    parameters = made["feature_extractor"]["parameters"]
    assert parameters["response_shape"] == "brand, colour and sizes of the shoe"
    properties = parameters["response_schema"]["properties"]
    assert properties["colour"] == {"type": ["string", "null"], "enum": ["red", "blue", None]}
    assert properties["seller"]["properties"] == {"city": {"type": ["string", "null"]}}
    found = made["output_schema"]["properties"]
    assert found["brand"] == {"type": "string", "description": "Who makes it."}
    assert found["sizes"]["type"] == "array"
    assert "found_title" in found
    clone = {"collection_name": f"copy{time.monotonic_ns()}"}
    copy = ok(client.post(f"/v1/collections/{made['collection_id']}/clone", json=clone))["collection"]
    assert copy["feature_extractor"]["parameters"]["response_schema"] == parameters["response_schema"]
    assert len(model.requests) == before + 1


def test_a_clone_with_other_words_asks_again_and_a_schema_asks_nobody(server: Server, model: LanguageServer) -> None:
    client, bucket = shop(server)
    schema = {"type": "object", "properties": {"brand": {"type": "string"}}}
    before = len(model.requests)
    made = ok(client.post("/v1/collections", json=body_of(bucket, response_shape=schema)))
    assert len(model.requests) == before
    other = {"collection_name": f"copy{time.monotonic_ns()}", **body_of(bucket, response_shape="the sizes")}
    ok(client.post(f"/v1/collections/{made['collection_id']}/clone", json=other))
    assert len(model.requests) == before + 1


def test_words_that_give_no_schema_make_no_collection(server: Server) -> None:
    client, bucket = shop(server)
    answer = client.post("/v1/collections", json=body_of(bucket, response_shape="gibberish"))
    assert answer.status_code == 422
    assert "give a JSON Schema" in answer.json()["error"]["message"]
    assert ok(client.post("/v1/collections/list"))["results"] == []


@pytest.mark.parametrize("shape", ["the brand", {"properties": {"brand": {"type": "string"}}}])
def test_without_a_language_model_the_collection_is_refused_at_once(plain: Server, shape: Any) -> None:
    client, bucket = shop(plain)
    answer = client.post("/v1/collections", json=body_of(bucket, response_shape=shape))
    assert answer.status_code == 422
    assert "MEDIATHECA_LANGUAGE_URL" in answer.json()["error"]["message"]


def test_without_a_browser_javascript_is_refused_at_once(plain: Server, tmp_path: Any, monkeypatch: Any) -> None:
    client, bucket = shop(plain)
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = client.post("/v1/collections", json=body_of(bucket, render_strategy="javascript"))
    assert answer.status_code == 422
    assert "install Chromium" in answer.json()["error"]["message"]


def test_a_key_itself_is_no_parameter(server: Server) -> None:
    client, bucket = shop(server)
    answer = client.post("/v1/collections", json=body_of(bucket, response_shape="x y z", llm_api_key="sk-plain-key"))
    assert answer.status_code == 422
    assert "SECRET" in answer.json()["error"]["message"]


def test_a_site_becomes_documents_with_the_fields_of_the_shape(server: Server, site: Site) -> None:
    client, bucket = shop(server)
    made = ok(client.post("/v1/collections", json=body_of(bucket, response_shape="brand and colour", max_depth=1)))
    ok(client.post(f"/v1/buckets/{bucket}/objects", json={"site": f"{site.url}/"}))
    batch = client.post(f"/v1/collections/{made['collection_id']}/trigger", json={}).json()["batch_id"]
    ends = time.monotonic() + 240
    while (state := ok(client.get(f"/v1/buckets/{bucket}/batches/{batch}")))["status"] not in (
        "COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED",
    ):  # fmt: skip
        assert time.monotonic() < ends, state
        time.sleep(0.2)
    assert state["status"] == "COMPLETED", state
    rows = ok(client.post(f"/v1/collections/{made['collection_id']}/documents/list", json={}))["results"]
    assert sorted((row["title"], row["brand"], row["found_title"], row["crawl_depth"]) for row in rows) == [
        ("Fox", "Fox", "A Fox", 0), ("Owl", "Owl", "A Owl", 1),
    ]  # fmt: skip
