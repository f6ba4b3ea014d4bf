"""Secrets and connections: names go out, values never; keys rotate; one organization's are not another's."""

from __future__ import annotations

import base64
import json
import os
import secrets
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers import failed, ok
from mediatheca.backends import make_vault
from mediatheca.kernel.errors import BadRequestError, UnavailableError
from mediatheca.kernel.redaction import Redactor, SecretValues
from mediatheca.kernel.scope import Scope
from mediatheca.settings import Settings
from mediatheca.stores.db.engine import Database
from mediatheca.stores.keyring import KeyRing, load_keyring
from server import Server, Tenant, new_tenant

VALUE = "sk-live-§-never-shown-0123456789"
PATH = "/v1/organizations/secrets"
SQLITE = {"name": "a", "provider_type": "sqlite", "provider_config": {"database": "shop.db"}}
LOGIN = {"username": "u", "password": VALUE}


@pytest.fixture
def admin(tenant: Tenant) -> Iterator[httpx.Client]:
    with tenant.client() as made:
        yield made


@pytest.fixture
def limited(tenant: Tenant, admin: httpx.Client) -> Iterator[httpx.Client]:
    """A key that may read, write and delete, but not administrate."""
    body = {"name": "limited", "permissions": ["read", "write", "delete"]}
    key = ok(admin.post(f"/v1/organizations/users/{tenant.email}/api-keys", json=body))["key"]
    with tenant.client(key=key) as made:
        yield made


def store(client: httpx.Client, name: str = "shop", value: Any = VALUE) -> httpx.Response:
    return client.post(PATH, json={"secret_name": name, "secret_value": value})


def test_a_secret_is_made_listed_changed_and_deleted_without_its_value_coming_back(admin: httpx.Client) -> None:
    answers = [store(admin)]
    assert ok(answers[0]) | {"version": 1} == ok(answers[0])
    assert ok(answers[0])["secret_name"] == "shop"
    assert ok(answers[0])["created"] is True
    answers.append(admin.get(PATH))
    listed = ok(answers[-1])
    assert (listed["secrets"], listed["count"]) == (["shop"], 1)
    answers.append(admin.put(f"{PATH}/shop", json={"secret_value": VALUE + "2"}))
    assert (ok(answers[-1])["updated"], ok(answers[-1])["version"]) == (True, 2)
    answers.append(admin.get(PATH))
    assert ok(answers[-1])["details"][0]["version"] == 2
    answers.append(admin.delete(f"{PATH}/shop"))
    assert ok(answers[-1])["deleted"] is True
    assert ok(admin.get(PATH))["count"] == 0
    assert not any("never-shown" in answer.text for answer in answers)


def test_wrong_requests_are_refused_without_repeating_the_value(admin: httpx.Client) -> None:
    ok(store(admin))
    refusals = [
        (store(admin), 409),
        (store(admin, "bad name"), 422),
        (store(admin, "a" * 101), 422),
        (store(admin, "empty", ""), 422),
        (store(admin, "number", 7), 422),
        (store(admin, "list", [VALUE]), 422),
        (store(admin, "long", VALUE * 3000), 422),
        (admin.post(PATH, json={"secret_name": [VALUE], "secret_value": VALUE}), 422),
        (admin.put(f"{PATH}/none", json={"secret_value": VALUE}), 404),
        (admin.put(f"{PATH}/shop", json={}), 422),
        (admin.delete(f"{PATH}/none"), 404),
    ]
    for answer, status in refusals:
        failed(answer, status)
        assert "never-shown" not in answer.text


def test_only_admins_see_or_change_secrets_and_connections(admin: httpx.Client, limited: httpx.Client) -> None:
    ok(store(admin))
    for answer in (
        limited.get(PATH), store(limited, "mine"), limited.put(f"{PATH}/shop", json={"secret_value": "x"}),
        limited.delete(f"{PATH}/shop"), limited.post(f"{PATH}/rewrap"),
        limited.post("/v1/organizations/connections/list", json={}),
        limited.post("/v1/organizations/connections", json=SQLITE),
    ):  # fmt: skip
        failed(answer, 403)


def test_another_organization_has_secrets_of_its_own(served: Server, admin: httpx.Client) -> None:
    ok(store(admin))
    with new_tenant(served).client() as other:
        assert ok(other.get(PATH))["count"] == 0
        failed(other.put(f"{PATH}/shop", json={"secret_value": "x"}), 404)
        failed(other.delete(f"{PATH}/shop"), 404)
        ok(store(other))


def test_neither_database_nor_events_hold_a_value(served: Server, tenant: Tenant, admin: httpx.Client) -> None:
    ok(store(admin))
    vault, scope = served.app.services.vault, Scope(tenant.organization_id, "ns")
    assert vault.read(scope, ["shop"]) == {"shop": VALUE}
    file = served.app.services.settings.data_dir / "mediatheca.db"
    with closing(sqlite3.connect(file)) as connection:
        dump = "\n".join(connection.iterdump())
    assert "never-shown" not in dump
    assert base64.b64encode(VALUE.encode()).decode()[:20] not in dump
    own = [line for line in dump.splitlines() if tenant.organization_id in line]
    assert "\n".join(own).count("secret.accessed") == 1, "reading it is on record"


def test_the_key_file_is_private(served: Server, admin: httpx.Client) -> None:
    ok(store(admin))
    path = served.app.services.settings.data_dir / "secret.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# ---- connections


def shop(served: Server) -> None:
    folder = served.app.services.settings.data_dir / "sql"
    folder.mkdir(exist_ok=True)
    if not (folder / "shop.db").exists():
        with closing(sqlite3.connect(folder / "shop.db")) as connection:
            connection.execute("CREATE TABLE products (sku TEXT)")


def test_a_connection_is_tried_stored_shown_without_credentials_changed_and_deleted(
    served: Server, admin: httpx.Client
) -> None:
    shop(served)
    body = {
        "name": "shop",
        "provider_type": "sqlite",
        "provider_config": {"database": "shop.db", "credentials": {"password": VALUE}},
    }
    made = ok(admin.post("/v1/organizations/connections", json=body))
    path = f"/v1/organizations/connections/{made['connection_id']}"
    assert made["provider_config"]["credentials"] == {"password": "********"}
    assert ok(admin.post(f"{path}/test"))["success"] is True
    assert ok(admin.post("/v1/organizations/connections/list", json={"provider_type": "sqlite"}))["total"] == 1
    assert ok(admin.post("/v1/organizations/connections/list", json={"provider_type": "s3"}))["total"] == 0
    failed(admin.post("/v1/organizations/connections", json=body), 409)
    failed(admin.patch(path, json={"provider_config": {"database": "none.db"}}), 422)
    changed = ok(admin.patch(path, json={"is_active": False, "description": "closed"}))
    assert (changed["is_active"], changed["description"], changed["status"]) == (False, "closed", "SUSPENDED")
    assert VALUE not in admin.get(path).text
    ok(admin.delete(path))
    failed(admin.get(path), 404)


@pytest.mark.parametrize(
    ("provider", "config", "status"),
    [
        ("postgresql", {"host": "h", "database": "d"}, 422),
        ("postgresql", {"host": "h", "database": "d", "credentials": {**LOGIN, "password": "{{INPUT.p}}"}}, 422),
        ("postgresql", {"host": "/tmp", "database": "d", "credentials": LOGIN}, 422),
        ("postgresql", {"host": "h", "database": "d", "schema": "a; x", "credentials": LOGIN}, 422),
        ("postgresql", {"host": "127.0.0.1", "port": 5432, "database": "d", "credentials": LOGIN}, 422),
        ("sqlite", {"database": "../mediatheca.db"}, 422),
        ("sqlite", VALUE, 422),
        ("google_drive", {"bucket": "b", "credentials": {"secret_access_key": VALUE}}, 403),
    ],
    ids=range(8),
)  # fmt: skip
def test_a_connection_that_cannot_work_is_refused_without_repeating_credentials(
    admin: httpx.Client, provider: str, config: Any, status: int
) -> None:
    body = {"name": "bad", "provider_type": provider, "provider_config": config}
    answer = admin.post("/v1/organizations/connections", json=body)
    failed(answer, status)
    assert "never-shown" not in answer.text


# ---- keys


def key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def vault_of(folder: Path, keys: str = "") -> tuple[Any, Database]:
    settings = Settings(data_dir=folder, secret_key=keys)
    database = Database(settings.database)
    database.migrate()
    return make_vault(settings, database), database


def test_a_new_master_key_reads_what_older_ones_wrote_and_rewraps_it(tmp_path: Path) -> None:
    old, new, scope = key(), key(), Scope("org_a")
    vault, database = vault_of(tmp_path, old)
    with database.begin(scope) as tx:
        vault.create(tx, "one", "first value")
    database.close()
    vault, database = vault_of(tmp_path, f"{new},{old}")
    assert vault.read(scope, ["one"]) == {"one": "first value"}
    with database.begin(scope) as tx:
        vault.create(tx, "two", "second value")
        assert vault.rewrap(tx) == 1
        assert vault.rewrap(tx) == 0
    database.close()
    vault, database = vault_of(tmp_path, new)
    assert vault.read(scope, ["one", "two"]) == {"one": "first value", "two": "second value"}
    database.close()
    vault, database = vault_of(tmp_path, old)
    with pytest.raises(UnavailableError, match="MEDIATHECA_SECRET_KEY"):
        vault.read(scope, ["one"])
    database.close()


def test_a_secret_that_does_not_exist_is_named(tmp_path: Path) -> None:
    vault, database = vault_of(tmp_path)
    with pytest.raises(BadRequestError, match="'gone' does not exist"):
        vault.read(Scope("org_a"), ["gone"])
    assert vault.read(Scope("org_a"), []) == {}
    assert not (tmp_path / "secret.key").exists(), "no key is made for nothing"
    database.close()


def test_a_sealed_value_opens_for_its_owner_and_name_only_and_unchanged() -> None:
    ring = KeyRing([secrets.token_bytes(32)])
    sealed = ring.seal("value", "org_a", "name")
    assert ring.open(sealed, "org_a", "name") == "value"
    assert ring.seal("value", "org_a", "name") != sealed
    other = ring.seal("other", "org_a", "name")
    tampered = sealed["data"][:-4] + ("AAAA" if sealed["data"][-4:] != "AAAA" else "BBBB")
    for wrong, owner, name in (
        (sealed, "org_b", "name"), (sealed, "org_a", "other"), ({**sealed, "data": other["data"]}, "org_a", "name"),
        ({**sealed, "wrapped": other["wrapped"]}, "org_a", "name"), ({**sealed, "data": tampered}, "org_a", "name"),
        ({**sealed, "data": ""}, "org_a", "name"), ({**sealed, "key": "none"}, "org_a", "name"),
    ):  # fmt: skip
        with pytest.raises(UnavailableError):
            ring.open(wrong, owner, name)
    assert "value" not in repr(ring) + json.dumps(sealed)


@pytest.mark.parametrize(
    "text",
    ["short", "=" * 44, key()[:-4], f"{key()},x", "z" * 64],
    ids=["short", "padding", "cut", "second", "letters"],
)
def test_a_key_that_is_none_is_refused_without_being_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(UnavailableError, match="32 bytes") as caught:
        load_keyring(text, tmp_path / "secret.key")
    assert text not in caught.value.message


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    first = load_keyring("", path).current
    assert load_keyring("", path).current == first
    os.chmod(path, 0o644)
    with pytest.raises(UnavailableError, match="chmod 600"):
        load_keyring("", path)


def test_hexadecimal_and_url_safe_keys_are_the_same_key(tmp_path: Path) -> None:
    raw = bytes(range(224, 256))
    spellings = [raw.hex(), base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode().rstrip("=")]
    assert len({load_keyring(text, tmp_path / "none").current for text in spellings}) == 1


# ---- redaction


@pytest.mark.parametrize(
    "shown",
    ["{v}", "https://x/?k={q}", "Basic {b}", "got '{v}", "{v}{v}", "[1, {j}]", "prefix-{v}-suffix"],
)
def test_a_value_is_masked_in_every_spelling(shown: str) -> None:
    value = 'p@ss "w\\ord/+ü-0123'
    from urllib.parse import quote

    text = shown.format(
        v=value, q=quote(value, safe=""), b=base64.b64encode(value.encode()).decode(), j=json.dumps(value)
    )
    hidden = Redactor([value]).text(text)
    assert "***" in hidden
    for spelling in (
        value,
        quote(value, safe=""),
        base64.b64encode(value.encode()).decode()[:12],
        json.dumps(value)[1:-1],
    ):
        assert spelling not in hidden


def test_a_message_that_was_cut_in_the_middle_of_a_value_shows_nothing_of_it() -> None:
    value = "abcdefgh-ijklmnop-qrstuvwx"
    assert (
        Redactor([value]).message(f"got '{value[:20]}…' and {value}, and no more") == "got '***…' and ***, and no more"
    )


def test_trees_errors_and_prints_are_masked() -> None:
    hide = Redactor(["hush-hush"])
    assert hide.tree({"a hush-hush": ["hush-hush", 1, None, {"b": ("hush-hush",)}]}) == {
        "a ***": ["***", 1, None, {"b": ["***"]}]
    }
    error = hide.error(BadRequestError("with hush-hush", details={"x": "hush-hush"}))
    assert (error.message, str(error), error.details) == ("with ***", "with ***", {"x": "***"})
    assert "hush" not in repr(SecretValues({"name": "hush-hush"})) + str(SecretValues({"name": "hush-hush"}))
    assert Redactor([]).tree({"a": 1}) == {"a": 1}
    assert Redactor(["abc"]).text("abc") == "abc", "too short to be looked for"
