"""API keys: shown once, stored hashed, and dead the moment they are revoked."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from helpers import failed, ok, wait_for
from server import Tenant


@pytest.fixture
def path(tenant: Tenant) -> str:
    return f"/v1/organizations/users/{tenant.email}/api-keys"


def test_the_plaintext_is_shown_once_and_only_a_hash_is_kept(admin: httpx.Client, path: str, tenant: Tenant) -> None:
    made = ok(admin.post(path, json={"name": "ci"}))
    key = made["key"]
    assert made["key_hash"] == hashlib.sha256(key.encode()).hexdigest()
    assert made["key_prefix"] == key[:10]
    assert made["permissions"] == ["read", "write", "delete"]
    listed = ok(admin.get(path))["results"]
    assert [entry["name"] for entry in listed] == ["ci", "admin-key"], "newest first"
    assert key not in str(listed)
    assert key.encode() not in (tenant.server.app.services.settings.data_dir / "mediatheca.db").read_bytes()


def test_a_revoked_key_is_refused_at_once_and_its_name_is_free(admin: httpx.Client, path: str, tenant: Tenant) -> None:
    key = ok(admin.post(path, json={"name": "temp"}))["key"]
    with tenant.client(key=key) as holder:
        ok(holder.get("/v1/me"))
        ok(admin.delete(f"{path}/temp"))
        failed(holder.get("/v1/me"), 401)
    assert "temp" not in [entry["name"] for entry in ok(admin.get(path))["results"]]
    ok(admin.post(path, json={"name": "temp"}))
    assert len(ok(admin.get(f"{path}?include_revoked=true"))["results"]) == 3


def test_a_rotated_key_works_and_the_old_secret_does_not(admin: httpx.Client, path: str, tenant: Tenant) -> None:
    before = ok(admin.post(path, json={"name": "app"}))
    after = ok(admin.post(f"{path}/app/rotate"))
    assert after["key_id"] == before["key_id"]
    with tenant.client(key=before["key"]) as old, tenant.client(key=after["key"]) as new:
        failed(old.get("/v1/me"), 401)
        ok(new.get("/v1/me"))


def test_an_expired_key_is_refused(admin: httpx.Client, path: str, tenant: Tenant) -> None:
    for seconds in (0.5, 5, 50):  # on a busy machine it may be over before it is used
        soon = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        name = f"short{int(seconds * 10)}"
        made = admin.post(path, json={"name": name, "expires_at": soon})
        if made.status_code == 422:
            continue
        with tenant.client(key=ok(made)["key"]) as holder:
            good = holder.get("/v1/me").status_code == 200
            wait_for(lambda holder=holder: holder.get("/v1/me").status_code == 401)
        assert {e["name"]: e["status"] for e in ok(admin.get(path))["results"]}[name] == "expired"
        if good:
            return
    pytest.fail("none of them was ever good")


def test_an_expiry_in_the_past_is_refused(admin: httpx.Client, path: str) -> None:
    past = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    assert "future" in failed(admin.post(path, json={"name": "late", "expires_at": past}), 422)["message"]


@pytest.mark.parametrize(
    ("permissions", "method", "status"),
    [
        (["read"], "GET", 200),
        (["read"], "POST", 403),
        (["read", "write"], "POST", 200),
        (["read", "write"], "DELETE", 403),
    ],
)
def test_permissions_decide(
    admin: httpx.Client, path: str, tenant: Tenant, permissions: list[str], method: str, status: int
) -> None:
    ok(admin.post("/v1/namespaces", json={"namespace_name": "space"}))
    key = ok(admin.post(path, json={"name": "limited", "permissions": permissions}))["key"]
    with tenant.client(key=key) as limited:
        target = "/v1/namespaces/space" if method == "DELETE" else "/v1/namespaces"
        body = {"json": {"namespace_name": "another"}} if method == "POST" else {}
        assert limited.request(method, target, **body).status_code == status


def test_a_key_is_renamed_and_described(admin: httpx.Client, path: str) -> None:
    ok(admin.post(path, json={"name": "old"}))
    changed = ok(admin.patch(f"{path}/old", json={"name": "new", "description": "laptop", "permissions": ["read"]}))
    assert (changed["name"], changed["description"], changed["permissions"]) == ("new", "laptop", ["read"])
    failed(admin.get(f"{path}/old"), 404)
    failed(admin.patch(f"{path}/new", json={"name": "admin-key"}), 409)


def test_the_last_admin_key_cannot_be_revoked_or_weakened(admin: httpx.Client, path: str) -> None:
    failed(admin.delete(f"{path}/admin-key"), 409)
    failed(admin.patch(f"{path}/admin-key", json={"permissions": ["read"]}), 409)
    ok(admin.get("/v1/me"))
    ok(admin.post(path, json={"name": "second", "permissions": ["read", "admin"]}))
    ok(admin.delete(f"{path}/admin-key"))


def test_a_viewer_cannot_be_given_write(admin: httpx.Client) -> None:
    ok(admin.post("/v1/organizations/users", json={"email": "v@example.org", "user_name": "V V", "role": "viewer"}))
    keys = "/v1/organizations/users/v@example.org/api-keys"
    assert ok(admin.post(keys, json={"name": "default"}))["permissions"] == ["read"]
    assert "viewer" in failed(admin.post(keys, json={"name": "w", "permissions": ["write"]}), 422)["message"]


def test_restrictions_that_are_not_enforced_are_refused(admin: httpx.Client, path: str) -> None:
    scopes = [{"resource_type": "namespace", "resource_id": "ns_1"}]
    error = failed(admin.post(path, json={"name": "scoped", "scopes": scopes}), 403)
    assert (error["type"], "scopes" in error["message"]) == ("NotEnabledError", True)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic abc", "Bearer sk_unknown"])
def test_without_a_valid_key_nothing_is_answered(tenant: Tenant, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    error = failed(httpx.get(f"{tenant.server.url}/v1/me", headers=headers), 401)
    assert error["type"] == "UnauthorizedError"
    assert error["details"]["retryable"] is False


def test_keys_and_users_are_listed_in_pages(admin: httpx.Client, path: str) -> None:
    for number in range(4):
        ok(admin.post(path, json={"name": f"key{number}"}))
        ok(admin.post("/v1/organizations/users", json={"email": f"u{number}@example.org", "user_name": f"u{number}"}))
    for where, total, name in ((path, 5, "api_keys"), ("/v1/organizations/users", 5, "users")):
        seen: list[str] = []
        cursor = ""
        while True:
            page = ok(admin.get(where, params={"limit": 2, **({"cursor": cursor} if cursor else {})}))
            assert page["total"] == total
            assert page[name] == page["results"]
            seen += [entry.get("key_id") or entry["user_id"] for entry in page["results"]]
            cursor = page["pagination"]["next_cursor"]
            if cursor is None:
                break
        assert len(seen) == len(set(seen)) == total
    failed(admin.get(path, params={"limit": 100_000}), 422)


def test_users_are_listed_by_role_and_status(admin: httpx.Client) -> None:
    for number, role in enumerate(["viewer", "member", "viewer"]):
        body = {"email": f"u{number}@example.org", "user_name": f"u{number}", "role": role}
        ok(admin.post("/v1/organizations/users", json=body))
    ok(admin.patch("/v1/organizations/users/u2@example.org", json={"status": "suspended"}))
    listed = ok(admin.get("/v1/organizations/users", params={"role": "viewer", "limit": 1}))
    assert (listed["total"], len(listed["results"])) == (2, 1)
    found = ok(admin.get("/v1/organizations/users", params={"role": "viewer", "status": "active"}))["users"]
    assert [user["email"] for user in found] == ["u0@example.org"]
