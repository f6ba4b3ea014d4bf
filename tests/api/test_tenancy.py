"""Nobody sees or touches what belongs to another organization or namespace: on every route of the application."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from helpers import ok
from server import Server, Tenant

OPEN = {"health", "blobs", "metrics", "public"}
"""First parts of paths that need no key, or carry their own permission."""
KEYLESS = {
    "/v1/collections/features",
    "/v1/collections/features/extractors",
    "/v1/collections/features/extractors/{extractor_id}",
    "/v1/retrievers/stages",
}
"""Those that generated clients ask for without a key."""


@dataclass
class World:
    """One tenant's resources: values for path parameters, and words that must not leak."""

    ids: dict[str, str]
    secrets: list[str]


def routes(server: Server) -> list[tuple[str, str]]:
    """Every (method, path) that needs a key."""
    found = [
        (method.upper(), path)
        for path, methods in server.app.asgi.openapi()["paths"].items()
        for method in methods
        if path.removeprefix("/v1/").split("/")[0].strip("/") not in OPEN
    ]
    assert len(found) > 60
    return sorted(found)


@pytest.fixture
def world(tenant: Tenant, namespace: str, client: httpx.Client, bucket: str) -> World:
    made = ok(client.post(f"/v1/buckets/{bucket}/objects", json={"title": "TOPSECRET title"}))
    upload = ok(
        client.post(f"/v1/buckets/{bucket}/uploads", json={"filename": "TOPSECRET.jpg", "content_type": "image/jpeg"})
    )
    config = {"feature_extractor_name": "passthrough_extractor", "field_passthrough": ["title"]}
    body = {"collection_name": "TOPSECRET docs", "source": {"bucket_ids": [bucket]}, "feature_extractor": config}
    collection = ok(client.post("/v1/collections", json=body))["collection_id"]
    document = ok(client.post(f"/v1/collections/{collection}/documents", json={"title": "TOPSECRET document"}))
    batch = ok(client.post(f"/v1/buckets/{bucket}/batches", json={"object_ids": [made["object_id"]]}))
    ids = {
        "namespace": namespace, "bucket": bucket, "object": made["object_id"], "upload": upload["upload_id"],
        "collection": collection, "document": str(document["document_id"]), "batch": str(batch["batch_id"]),
        "email": tenant.email, "key_name": "admin-key",
    }  # fmt: skip
    return World(ids, ["TOPSECRET", *ids.values()])


def fill(path: str, ids: dict[str, str]) -> str:
    """The path with the victim's ids: by the parameter's name, else by the part of the path before it."""
    parts = path.split("/")
    for place, part in enumerate(parts):
        if part.startswith("{"):
            before = parts[place - 1].rstrip("s")
            name = part.strip("{}").partition(":")[0]
            kind = next((kind for kind in ids if kind in name), None) or next((k for k in ids if k in before), None)
            parts[place] = ids[kind] if kind else f"{before}_unknown"
    return "/".join(parts)


def snapshot(tenant: Tenant) -> dict[str, list[Any]]:
    """Every row of an organization, without what merely using a key changes."""
    from mediatheca.stores.db.tables import metadata

    rows = {}
    with tenant.server.app.services.db.engine.connect() as connection:
        for name, table in metadata.tables.items():
            if "organization_id" not in table.c or name in ("document_tables", "jobs"):
                continue
            kept = [column for column in table.c if column.name != "last_used_at"]
            statement = table.select().with_only_columns(*kept).where(table.c.organization_id == tenant.organization_id)
            rows[name] = sorted(map(str, connection.execute(statement)))
    return rows


def call(client: httpx.Client, method: str, path: str) -> httpx.Response:
    body = {} if method in ("GET", "DELETE") else {"json": {}}
    with client.stream(method, path, **body) as answer:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            answer.read()
            return answer
        return httpx.Response(answer.status_code, text=next(answer.iter_text(), ""))  # it never ends


def test_a_stranger_gets_nothing_by_foreign_ids_and_leaves_no_trace(
    server: Server, tenant: Tenant, stranger: Tenant, world: World
) -> None:
    with stranger.client() as setup:
        own = ok(setup.post("/v1/namespaces", json={"namespace_name": "own"}))["namespace_id"]
    before = snapshot(tenant)
    _attack(server, stranger, own, world, allowed={200, 202, 204, 400, 403, 404, 405, 409, 422})
    assert snapshot(tenant) == before


def test_a_stranger_gets_nothing_by_a_foreign_namespace(
    server: Server, tenant: Tenant, stranger: Tenant, world: World
) -> None:
    before = snapshot(tenant)
    namespaced = _needs_namespace(server, stranger)
    with stranger.client(world.ids["namespace"]) as client:
        for method, path in namespaced:
            answer = call(client, method, fill(path, world.ids))
            assert answer.status_code == 404, (method, path, answer.text)
            _leaks_nothing(answer, method, path, world)
    assert snapshot(tenant) == before


def test_another_namespace_of_the_same_organization_is_as_foreign(
    server: Server, tenant: Tenant, admin: httpx.Client, world: World
) -> None:
    ok(admin.post("/v1/namespaces", json={"namespace_name": "second"}))
    namespaced = _needs_namespace(server, tenant)
    before = snapshot(tenant)
    ids = {kind: ident for kind, ident in world.ids.items() if kind not in ("namespace", "email", "key_name")}
    with tenant.client("second") as client:
        for method, path in namespaced:
            if "{" in path and fill(path, ids) != path and not _unknown_only(path, ids):
                answer = call(client, method, fill(path, ids))
                assert answer.status_code in (400, 404, 422), (method, path, answer.text)
                _leaks_nothing(answer, method, path, world)
    assert snapshot(tenant) == before


def test_without_a_key_every_route_is_closed(server: Server, world: World) -> None:
    with httpx.Client(base_url=server.url, headers={"X-Namespace": world.ids["namespace"]}) as client:
        for method, path in routes(server):
            answer = call(client, method, fill(path, world.ids))
            expected = {200, 404} if path in KEYLESS else {401}
            assert answer.status_code in expected, (method, path, answer.text)
            _leaks_nothing(answer, method, path, world)


def _attack(server: Server, attacker: Tenant, namespace: str, world: World, allowed: set[int]) -> None:
    with attacker.client(namespace) as client:
        for method, path in routes(server):
            target = fill(path, world.ids)
            answer = call(client, method, target)
            assert answer.status_code in allowed, (method, path, answer.text)
            if not _unknown_only(path, world.ids):
                assert answer.status_code in (400, 403, 404, 405, 409, 422), (method, path, answer.text)
            _leaks_nothing(answer, method, path, world, target)


def _unknown_only(path: str, ids: dict[str, str]) -> bool:
    """Whether none of the victim's ids stands in the filled path."""
    return not any(ident in fill(path, ids) for ident in ids.values())


def _leaks_nothing(answer: httpx.Response, method: str, path: str, world: World, target: str = "") -> None:
    text = answer.text
    for echoed in re.findall(r"[^/]+", target or fill(path, world.ids)):
        text = text.replace(echoed, "")  # an error may repeat what the caller sent
    text = text.replace(world.ids["namespace"], "")
    found = [secret for secret in world.secrets if secret in text and secret != "admin-key"]
    assert not found, (method, path, found, answer.text)


def _needs_namespace(server: Server, tenant: Tenant) -> list[tuple[str, str]]:
    """Routes that ask for X-Namespace when it is missing."""
    with tenant.client() as client:
        found = []
        for method, path in routes(server):
            answer = call(client, method, fill(path, {}))
            if answer.status_code == 422 and "X-Namespace" in answer.text:
                found.append((method, path))
    assert len(found) > 30
    return found
