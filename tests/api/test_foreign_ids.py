"""Ids inside request bodies: naming what belongs to another organization is naming nothing, on every route with a body.

The bodies are valid ones with the caller's own ids. Every place of a body that holds one of them is attacked with the
id, and with the name, of another organization's counterpart; the answer must be that to an id nobody has.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx
import pytest
from test_tenancy import snapshot

from helpers import ok
from server import Server, Tenant, new_tenant

Body: TypeAlias = dict[str, Any]
_numbers = itertools.count(1)

PASS = {"feature_extractor_name": "passthrough_extractor", "field_passthrough": ["title"]}
SCHEMA = {"properties": {"title": {"type": "string"}, "file": {"type": "file"}}}
STAGES = [
    {
        "stage_name": "chosen",
        "config": {
            "stage_id": "attribute_filter",
            "parameters": {"field": "title", "operator": "eq", "value": "x"},
        },
    }
]


def fresh(prefix: str = "made") -> str:
    return f"{prefix}{next(_numbers)}"


@dataclass
class Possessions:
    """One of everything that a body can name: by id, and what has a name by name."""

    ids: dict[str, str]
    names: dict[str, str]

    def secrets(self) -> set[str]:
        return {*self.ids.values(), *self.names.values()}


def possess(tenant: Tenant, word: str) -> Possessions:
    """Resources of a tenant whose names and contents carry `word`."""
    with tenant.client() as client:
        namespace = ok(client.post("/v1/namespaces", json={"namespace_name": f"{word}-space"}))["namespace_id"]
    names = {"namespace": f"{word}-space", "bucket": f"{word}-bucket", "collection": f"{word}-docs"}
    names["retriever"] = f"{word}-retriever"
    with tenant.client(namespace) as client:
        body: Body = {"bucket_name": names["bucket"], "bucket_schema": SCHEMA}
        bucket = ok(client.post("/v1/buckets", json=body))["bucket_id"]
        item = ok(client.post(f"/v1/buckets/{bucket}/objects", json={"title": f"{word} title"}))["object_id"]
        body = {"filename": f"{word}.txt", "content_type": "text/plain", "blob_property": "file"}
        upload = ok(client.post(f"/v1/buckets/{bucket}/uploads", json=body))
        ok(httpx.put(upload["presigned_url"], content=f"{word} content".encode()))
        body = {"filename": f"{word}2.txt", "content_type": "text/plain", "create_object_on_confirm": False}
        confirmed = ok(client.post(f"/v1/buckets/{bucket}/uploads", json=body))
        ok(httpx.put(confirmed["presigned_url"], content=f"{word} other content".encode()))
        ok(client.post(f"/v1/buckets/{bucket}/uploads/{confirmed['upload_id']}/confirm"))
        body = {"collection_name": names["collection"], "source": {"bucket_ids": [bucket]}, "feature_extractor": PASS}
        collection = ok(client.post("/v1/collections", json=body))["collection_id"]
        document = ok(client.post(f"/v1/collections/{collection}/documents", json={"title": f"{word} document"}))
        batch = ok(client.post(f"/v1/buckets/{bucket}/batches", json={"object_ids": [item]}))["batch_id"]
        body = {"retriever_name": names["retriever"], "collection_identifiers": [collection], "stages": STAGES}
        retriever = ok(client.post("/v1/retrievers", json=body))
    ids = {
        "namespace": namespace, "bucket": bucket, "object": item, "upload": upload["upload_id"],
        "confirmed": confirmed["upload_id"],
        "collection": collection, "document": document["document_id"], "batch": batch,
        "retriever": retriever.get("retriever_id") or retriever["retriever"]["retriever_id"],
    }  # fmt: skip
    return Possessions({kind: str(ident) for kind, ident in ids.items()}, names)


# Valid bodies by operation, over the caller's own ids. Paths are filled with them as well.
BODIES: dict[str, list[Callable[[dict[str, str]], Body]]] = {
    "create_collection": [
        lambda i: {"collection_name": fresh(), "source": {"bucket_ids": [i["bucket"]]}, "feature_extractor": PASS},
        lambda i: {"collection_name": fresh(), "source": {"bucket_id": i["bucket"]}, "feature_extractor": PASS},
    ],
    "clone_collection": [lambda i: {"collection_name": fresh(), "source": {"bucket_ids": [i["bucket"]]}}],
    "trigger_collection": [lambda i: {"include_buckets": [i["bucket"]]}, lambda i: {"object_ids": [i["object"]]}],
    "create_batch": [lambda i: {"object_ids": [i["object"]], "collection_ids": [i["collection"]]}],
    "add_objects_to_batch": [lambda i: {"object_ids": [i["object"]]}],
    "submit_batch": [lambda i: {"collection_ids": [i["collection"]]}],
    "bulk_submit_batches": [lambda i: {"collection_ids": [i["collection"]]}],
    "create_object_buckets": [lambda i: {"blobs": [{"property": "file", "upload_id": i["confirmed"]}]}],
    "create_objects_batch_buckets": [
        lambda i: {"objects": [{"blobs": [{"property": "file", "upload_id": i["confirmed"]}]}]}
    ],
    "bulk_soft_delete_objects_buckets": [lambda i: {"object_ids": [i["object"]], "reason": "test"}],
    "confirm_uploads_batch_buckets": [lambda i: {"confirmations": [{"upload_id": i["upload"]}]}],
    "get_namespace_stats_batch": [lambda i: {"namespace_ids": [i["namespace"]]}],
    "batch_get": [lambda i: {"document_ids": [i["document"]]}],
    "batch_update": [lambda i: {"updates": [{"document_id": i["document"], "update_data": {"title": "new"}}]}],
    "batch_delete": [lambda i: {"document_ids": [i["document"]]}],
    "search_documents": [lambda i: {"query": "title", "collection_ids": [i["collection"]]}],
    "create_retriever": [
        lambda i: {"retriever_name": fresh(), "collection_identifiers": [i["collection"]], "stages": STAGES},
        lambda i: {"retriever_name": fresh(), "collection_ids": [i["collection"]], "stages": STAGES},
    ],
    "patch_retriever": [lambda i: {"collection_identifiers": [i["collection"]]}],
    "update_retriever": [lambda i: {"collection_identifiers": [i["collection"]]}],
    "clone_retriever": [lambda i: {"retriever_name": fresh(), "collection_identifiers": [i["collection"]]}],
    "execute_adhoc_retriever": [
        lambda i: {"collection_identifiers": [i["collection"]], "stages": STAGES},
        lambda i: {"collection_ids": [i["collection"]], "stages": STAGES},
    ],
    "execute_retriever": [lambda i: {"collection_identifiers": [i["collection"]], "inputs": {}}],
}


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    name: str
    schema: Body


def operations(server: Server) -> dict[str, Operation]:
    """Every operation that may have a body, with the schema of it where there is one."""
    document = server.app.asgi.openapi()
    found = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method in ("post", "put", "patch", "delete") and not path.startswith(("/v1/health", "/v1/blobs")):
                content = operation.get("requestBody", {}).get("content", {})
                schema = content.get("application/json", {}).get("schema", {})
                made = Operation(method.upper(), path, operation["operationId"], schema)
                found[made.name] = made
    return found


def kind_of(field: str, ids: dict[str, str]) -> str | None:
    """What a field refers to, by its name: `retriever_id`, `source_collection_ids`, `include_buckets`."""
    if not re.search(r"(_ids?|_identifiers?|_ref|s)$", field):
        return None
    return next((kind for kind in ids if re.search(rf"(^|_){kind}(s|_|$)", field)), None)


def sample(server: Server, schema: Body, field: str, ids: dict[str, str]) -> Any:
    """A value that a schema takes, with the caller's own ids wherever a field's name asks for one."""
    if "$ref" in schema:
        found = server.app.asgi.openapi()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return sample(server, found, field, ids)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return sample(server, next(e for e in schema[key] if e.get("type") != "null"), field, ids)
    kind = kind_of(field, ids)
    match schema.get("type"):
        case "object":
            wanted = schema.get("required", [])
            return {
                name: sample(server, entry, name, ids)
                for name, entry in (schema.get("properties") or {}).items()
                if name in wanted or references(server, entry, name, ids)
            }
        case "array":
            needed = schema.get("minItems") or references(server, schema.get("items", {}), field, ids)
            return [sample(server, schema.get("items", {}), field, ids)] if needed else []
        case "integer" | "number":
            return schema.get("default", max(1, schema.get("minimum", 1)))
        case "boolean":
            return False
        case "string" if "enum" in schema or "const" in schema:
            return schema.get("const") or schema["enum"][0]
    return ids[kind] if kind else fresh()


def references(server: Server, schema: Body, field: str, ids: dict[str, str], depth: int = 0) -> bool:
    """Whether a field, or one inside it, is named like a reference."""
    if depth > 8 or kind_of(field, ids):
        return depth <= 8
    if "$ref" in schema:
        found = server.app.asgi.openapi()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return references(server, found, "", ids, depth + 1)
    inner = [("", entry) for key in ("anyOf", "oneOf", "allOf") for entry in schema.get(key, ())]
    inner += list((schema.get("properties") or {}).items())
    inner += [("", schema["items"])] if isinstance(schema.get("items"), dict) else []
    return any(references(server, entry, name, ids, depth + 1) for name, entry in inner)


@pytest.fixture
def mine(tenant: Tenant) -> Possessions:
    return possess(tenant, "mine")


@pytest.fixture(scope="module")
def victim(server: Server) -> Tenant:
    return new_tenant(server)


@pytest.fixture(scope="module")
def theirs(victim: Tenant) -> Possessions:
    return possess(victim, "TOPSECRET")


def fill(path: str, ids: dict[str, str]) -> str:
    """The path with these ids, each by its parameter's name or by the part before it."""
    parts = path.split("/")
    for place, part in enumerate(parts):
        if part.startswith("{"):
            wanted = (kind for kind in ids if kind in part or parts[place - 1].startswith(kind))
            kind = next(wanted, None)
            parts[place] = ids[kind] if kind else "nothing_like_it"
    return "/".join(parts)


def places(body: Any, values: set[str], at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a body one of the values stands."""
    if isinstance(body, str) and body in values:
        yield at
    entries = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, entry in entries:
        yield from places(entry, values, (*at, key))


def exchanged(body: Body, at: tuple[Any, ...], value: str) -> Body:
    changed = copy.deepcopy(body)
    inner: Any = changed
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return changed


def read(body: Any, at: tuple[Any, ...]) -> str:
    for key in at:
        body = body[key]
    return str(body)


def plain(answer: httpx.Response, sent: str) -> tuple[int, str]:
    """An answer without what differs from call to call: the id that was sent, ids and times of the answer."""
    text = answer.text.replace(sent, "<sent>")
    text = re.sub(r"\b[a-z]{2,8}_[A-Za-z0-9]{8,}\b|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", text)
    return answer.status_code, re.sub(r"\bmade\d+\b|\d+\.\d+(e-?\d+)?", "<x>", text)


def attack(
    client: httpx.Client, operation: Operation, make: Callable[[], Body], mine: Possessions, theirs: Possessions
) -> int:
    """Exchange every own id of a body for a foreign one: it must be answered like an id nobody has. Gives how many."""
    path = fill(operation.path, mine.ids)
    kinds = {ident: kind for kind, ident in mine.ids.items()}
    attacked = list(places(make(), set(kinds)))
    for at in attacked:
        kind = kinds[read(make(), at)]
        nobodys = f"{mine.ids[kind].partition('_')[0]}_nobodyhasit1"
        unknown = plain(client.request(operation.method, path, json=exchanged(make(), at, nobodys)), nobodys)
        assert unknown[0] < 500, (operation.name, at, unknown)
        for foreign in filter(None, (theirs.ids[kind], theirs.names.get(kind))):
            answer = client.request(operation.method, path, json=exchanged(make(), at, foreign))
            text = answer.text.replace(foreign, "")
            assert not [secret for secret in theirs.secrets() if secret in text], (operation.name, at, answer.text)
            assert "TOPSECRET" not in text, (operation.name, at, answer.text)
            assert plain(answer, foreign) == unknown, (operation.name, at, answer.text)
    return len(attacked)


@pytest.mark.parametrize("name", sorted(BODIES))
def test_a_foreign_id_in_a_body_is_an_id_nobody_has(
    name: str, server: Server, tenant: Tenant, victim: Tenant, mine: Possessions, theirs: Possessions
) -> None:
    operation, before = operations(server)[name], snapshot(victim)
    with tenant.client(mine.ids["namespace"]) as client:
        for make in BODIES[name]:
            assert attack(client, operation, lambda make=make: make(mine.ids), mine, theirs)  # type: ignore[misc]
        for make in BODIES[name]:  # last, because it may change what the ids stand for
            answer = client.request(operation.method, fill(operation.path, mine.ids), json=make(mine.ids))
            assert answer.status_code in (200, 202), f"a body of {name} is not valid: {answer.text}"
    assert snapshot(victim) == before


def test_so_is_one_in_any_other_body(
    server: Server, tenant: Tenant, victim: Tenant, mine: Possessions, theirs: Possessions
) -> None:
    """Routes that nobody has written a body for: one is made up from the schema."""
    before, attacked = snapshot(victim), 0
    with tenant.client(mine.ids["namespace"]) as client:
        for name, operation in sorted(operations(server).items()):
            if name not in BODIES and references(server, operation.schema, "", mine.ids):
                attacked += attack(
                    client,
                    operation,
                    lambda operation=operation: sample(server, operation.schema, "", mine.ids),  # type: ignore[misc]
                    mine,
                    theirs,
                )
    assert attacked
    assert snapshot(victim) == before
