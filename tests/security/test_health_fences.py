"""What strangers, tenants and the operator are told of the state of the installation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers import ok
from mediatheca.flows.tenancy import KeyWish, issue_key
from mediatheca.kernel.scope import Scope
from mediatheca.settings import Settings
from server import Server, Tenant, new_tenant

WORDS = {"status", "version", "database", "documents", "index", "blobs", "data"}
DETAILS = {"backends", "index_lag", "jobs"}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("health")
    made = Server(Settings(data_dir=folder, workers=0, log_level="error"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def operator(fresh: Server) -> Tenant:
    """The organization that was there first."""
    return new_tenant(fresh)


def health(server: Server, key: str = "") -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return dict(ok(httpx.get(f"{server.url}/v1/health", headers=headers)))


def test_strangers_and_tenants_get_a_word_for_each_backend(fresh: Server, operator: Tenant) -> None:
    tenant = new_tenant(fresh)
    with tenant.client() as admin:
        body = {"name": "reader", "permissions": ["read"]}
        reader = ok(admin.post(f"/v1/organizations/users/{tenant.email}/api-keys", json=body))["key"]
    for key in ("", "sk_wrong", tenant.key, reader):
        told = health(fresh, key)
        assert set(told) == WORDS
        assert {told[name] for name in ("status", "database", "documents", "index", "blobs")} == {"OK"}


def test_the_operator_gets_the_details(fresh: Server, operator: Tenant) -> None:
    new_tenant(fresh)
    told = health(fresh, operator.key)
    assert set(told) >= WORDS | DETAILS
    assert set(told["backends"]["database"]) == {"status", "latency_ms"}


def test_a_key_of_the_operators_organization_without_admin_is_no_operator(fresh: Server, operator: Tenant) -> None:
    with fresh.app.services.db.begin(Scope(operator.organization_id)) as tx:
        user = tx.get("user", operator.email)
        _, key = issue_key(tx, user, KeyWish("plain", permissions=("read", "write", "delete")))
    assert set(health(fresh, key)) == WORDS


def test_metrics_tell_strangers_and_tenants_nothing_of_anybodys_work(fresh: Server, operator: Tenant) -> None:
    tenant = new_tenant(fresh)
    work = ("mediatheca_jobs", "mediatheca_index_lag", "mediatheca_documents", "mediatheca_object_failures")
    for key in ("sk_wrong", tenant.key):
        page = httpx.get(f"{fresh.url}/metrics", headers={"Authorization": f"Bearer {key}"}).text
        assert "mediatheca_request_seconds_bucket" in page
        assert not [name for name in work if name in page]
    page = httpx.get(f"{fresh.url}/metrics", headers={"Authorization": f"Bearer {operator.key}"}).text
    assert "mediatheca_index_lag" in page
