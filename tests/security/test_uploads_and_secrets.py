"""Signed URLs cannot change what was confirmed, no caller writes our headers, and no secret comes back."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from security_helpers import BUCKET

from helpers import failed, ok
from mediatheca.api.auth import Auth
from mediatheca.app import App
from mediatheca.flows.executions import ExecutionLog
from mediatheca.kernel.errors import UnauthorizedError
from mediatheca.kernel.scope import Scope


def announced(client: httpx.Client, **more: Any) -> httpx.Response:
    client.post("/v1/buckets", json={"bucket_name": "things", "bucket_schema": BUCKET})
    body = {"filename": "a.txt", "content_type": "text/plain", "file_size_bytes": 5, **more}
    return client.post("/v1/buckets/things/uploads", json=body)


def test_a_confirmed_file_cannot_be_exchanged_by_its_old_upload_url(client: httpx.Client) -> None:
    upload = ok(announced(client))
    ok(httpx.put(upload["presigned_url"], content=b"hello"))
    done = ok(client.post(f"/v1/buckets/things/uploads/{upload['upload_id']}/confirm"))
    failed(httpx.put(upload["presigned_url"], content=b"other"), 409)
    path = f"/v1/buckets/things/objects/{done['object_id']}?return_presigned_urls=true"
    blob = ok(client.get(path))["blobs"][0]
    assert httpx.get(blob["properties"]["presigned_url"]).content == b"hello"


def test_a_cancelled_upload_takes_no_file(client: httpx.Client) -> None:
    upload = ok(announced(client))
    assert client.delete(f"/v1/buckets/things/uploads/{upload['upload_id']}").status_code == 204
    failed(httpx.put(upload["presigned_url"], content=b"hello"), 409)


@pytest.mark.parametrize("kind", ["text/plain\r\nSet-Cookie: x=1", "text/plain\0", "téxt/plain", "text/plain; a=\n"])
def test_a_media_type_is_no_way_into_our_headers(client: httpx.Client, kind: str) -> None:
    assert "content_type" in failed(announced(client, content_type=kind), 422)["message"]


def test_credentials_of_the_organization_are_never_shown(client: httpx.Client) -> None:
    secret = "sk-never-shown-1234567890"
    for answer in (
        client.patch("/v1/organizations", json={"default_llm_credentials": {"openai": secret}}),
        client.get("/v1/organizations"),
    ):
        assert ok(answer)["default_llm_credentials"] == {"openai": "********"}
        assert secret not in answer.text


def test_a_key_revoked_while_it_is_looked_up_is_not_remembered(app: App, key: str, monkeypatch: Any) -> None:
    """The look-up read the key before the revocation was committed, and ends after it."""
    import mediatheca.api.auth as module

    auth, real = Auth(app.services.db), module.find_key

    def slow(database: Any, digest: str) -> Any:
        row = real(database, digest)
        with database.begin(Scope(row["organization_id"])) as tx:
            tx.update("api_keys", {"key_id": row["key_id"]}, {"status": "revoked"})
        return row

    monkeypatch.setattr(module, "find_key", slow)
    auth.actor(f"Bearer {key}")  # began before the revocation: may pass
    monkeypatch.setattr(module, "find_key", real)
    with pytest.raises(UnauthorizedError):
        auth.actor(f"Bearer {key}")


def test_a_record_that_cannot_be_stored_costs_no_other_tenants_records(app: App) -> None:
    log = ExecutionLog(app.services.db)
    answer = {"execution_id": "exec_bad", "status": "completed", "documents": []}
    log.add(Scope("org_a", "ns_a"), "", {"q": "\ud800"}, answer)
    log.add(Scope("org_b", "ns_b"), "", {"q": "fine"}, {**answer, "execution_id": "exec_good"})
    log.flush()
    with app.services.db.read(Scope("org_b", "ns_b")) as tx:
        assert tx.row("executions", {"execution_id": "exec_good"}) is not None
