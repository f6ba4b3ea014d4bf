"""Collections of web sites: what must be said when they are made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from helpers import failed, ok
from server import Server, new_tenant


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with new_tenant(server).client() as made:
        made.headers["X-Namespace"] = ok(made.post("/v1/namespaces", json={"namespace_name": "web"}))["namespace_id"]
        yield made


def create(client: httpx.Client, **parameters: Any) -> httpx.Response:
    schema = {"properties": {"website": {"type": "string"}}}
    bucket = ok(client.post("/v1/buckets", json={"bucket_name": "sites", "bucket_schema": schema}))["bucket_id"]
    extractor = {"feature_extractor_name": "web_scraper", "version": "v1", "input_mappings": {"url": "website"}}
    body = {"collection_name": "pages", "source": {"bucket_ids": [bucket]}}
    return client.post("/v1/collections", json=body | {"feature_extractor": {**extractor, "parameters": parameters}})


def test_a_header_with_a_secret_needs_the_hosts_that_may_get_it(client: httpx.Client) -> None:
    error = failed(create(client, custom_headers={"Authorization": "{{SECRET.token}}"}), 422)
    assert "header_hosts is needed" in error["message"]
    assert "shop.example" in error["message"]


def test_hosts_are_kept_as_they_are_compared(client: httpx.Client) -> None:
    headers = {"Authorization": "{{SECRET.token}}"}
    made = ok(create(client, custom_headers=headers, header_hosts=["Shop.Example:8443"]))
    parameters = made["feature_extractor"]["parameters"]
    assert (parameters["header_hosts"], parameters["custom_headers"]) == (["shop.example:8443"], headers)
