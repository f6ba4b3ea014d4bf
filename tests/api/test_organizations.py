"""Organizations and users: what an admin may change, and what keeps the last admin in."""

from __future__ import annotations

import httpx

from helpers import failed, ok, places
from server import Tenant


def test_me_says_who_calls_with_which_key(admin: httpx.Client, tenant: Tenant) -> None:
    me = ok(admin.get("/v1/me"))
    assert me["organization_id"] == tenant.organization_id
    assert me["user_email"] == tenant.email
    assert set(me["key"]["permissions"]) == {"read", "write", "delete", "admin"}


def test_an_organization_is_read_and_changed(admin: httpx.Client, tenant: Tenant) -> None:
    before = ok(admin.get("/v1/organizations"))
    assert before["organization_id"] == tenant.organization_id
    assert [user["email"] for user in before["users"]] == [tenant.email]
    after = ok(admin.patch("/v1/organizations", json={"organization_name": "Renamed", "metadata": {"a": 1}, "x": 1}))
    assert (after["organization_name"], after["metadata"]) == ("Renamed", {"a": 1})
    assert after["warnings"] == ["x: unknown key is ignored"]
    assert ok(admin.get("/v1/organizations"))["organization_name"] == "Renamed"


def test_users_are_created_listed_changed_and_removed(admin: httpx.Client) -> None:
    made = ok(admin.post("/v1/organizations/users", json={"email": "Ada@Example.org", "user_name": "Ada"}))
    assert (made["email"], made["role"], made["status"]) == ("ada@example.org", "member", "active")
    assert ok(admin.get("/v1/organizations/users/ada@example.org"))["user_id"] == made["user_id"]
    assert ok(admin.get("/v1/organizations/users"))["total"] == 2
    assert [u["email"] for u in ok(admin.get("/v1/organizations/users?role=member"))["results"]] == ["ada@example.org"]
    changed = ok(admin.patch("/v1/organizations/users/ada@example.org", json={"role": "viewer"}))
    assert changed["role"] == "viewer"
    ok(admin.delete("/v1/organizations/users/ada@example.org"))
    failed(admin.get("/v1/organizations/users/ada@example.org"), 404)


def test_an_email_is_taken_once_per_organization(admin: httpx.Client, stranger: Tenant) -> None:
    body = {"email": "bob@example.org", "user_name": "Bob"}
    ok(admin.post("/v1/organizations/users", json=body))
    assert failed(admin.post("/v1/organizations/users", json=body), 409)["details"]["existing_id"].startswith("usr_")
    with stranger.client() as other:
        ok(other.post("/v1/organizations/users", json=body))


def test_a_bad_user_names_every_offending_field(admin: httpx.Client) -> None:
    body = {"email": "nobody", "user_name": "x", "role": "king"}
    error = failed(admin.post("/v1/organizations/users", json=body), 422)
    assert places(error) == {"body.email", "body.user_name", "body.role"}


def test_the_last_admin_cannot_be_demoted_suspended_or_removed(admin: httpx.Client, tenant: Tenant) -> None:
    path = f"/v1/organizations/users/{tenant.email}"
    for body in ({"role": "member"}, {"status": "suspended"}):
        assert "last" in failed(admin.patch(path, json=body), 409)["message"]
    failed(admin.delete(path), 409)
    assert ok(admin.get(path))["role"] == "admin"


def test_suspending_a_user_revokes_all_keys_for_good(admin: httpx.Client, tenant: Tenant) -> None:
    ok(admin.post("/v1/organizations/users", json={"email": "eve@example.org", "user_name": "Eve"}))
    keys = "/v1/organizations/users/eve@example.org/api-keys"
    key = ok(admin.post(keys, json={"name": "laptop"}))["key"]
    with tenant.client(key=key) as eve:
        ok(eve.get("/v1/me"))
        ok(admin.patch("/v1/organizations/users/eve@example.org", json={"status": "suspended"}))
        failed(eve.get("/v1/me"), 401)
        failed(admin.post(keys, json={"name": "other"}), 409)
        ok(admin.patch("/v1/organizations/users/eve@example.org", json={"status": "active"}))
        failed(eve.get("/v1/me"), 401)


def test_a_lower_role_takes_permissions_from_the_keys(admin: httpx.Client, tenant: Tenant) -> None:
    ok(admin.post("/v1/organizations/users", json={"email": "joe@example.org", "user_name": "Joe"}))
    key = ok(admin.post("/v1/organizations/users/joe@example.org/api-keys", json={"name": "k"}))["key"]
    ok(admin.patch("/v1/organizations/users/joe@example.org", json={"role": "viewer"}))
    with tenant.client(key=key) as joe:
        assert ok(joe.get("/v1/me"))["key"]["permissions"] == ["read"]
        failed(joe.post("/v1/namespaces", json={"namespace_name": "nope"}), 403)


def test_only_admins_manage_the_organization(admin: httpx.Client, tenant: Tenant) -> None:
    path = f"/v1/organizations/users/{tenant.email}/api-keys"
    key = ok(admin.post(path, json={"name": "plain", "permissions": ["read", "write", "delete"]}))["key"]
    with tenant.client(key=key) as plain:
        failed(plain.patch("/v1/organizations", json={"organization_name": "x"}), 403)
        failed(plain.post("/v1/organizations/users", json={"email": "a@b.c", "user_name": "ab"}), 403)
        failed(plain.post(path, json={"name": "more"}), 403)
        failed(plain.get(path), 403)
