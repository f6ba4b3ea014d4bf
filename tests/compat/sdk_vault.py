"""Every generated method of an organization's secrets, and of its connections to databases."""

from __future__ import annotations

from typing import Any

from sdk_world import Call, World


def _secret(w: World) -> str:
    name = w.name(f"token-{w.namespace}")
    w.request("POST", "/organizations/secrets", {"secret_name": name, "secret_value": "swordfish"})
    return name


def _with_a_secret(w: World) -> dict[str, Any]:
    _secret(w)
    return {}


def _database(w: World) -> dict[str, Any]:
    """A database that is not there."""
    login = {"type": "username_password", "username": "reader", "password": "swordfish"}
    config = {"host": "127.0.0.1", "port": 1, "database": "shop", "credentials": login}
    made = {"name": w.name(f"shop-{w.namespace}"), "provider_type": "postgresql", "provider_config": config}
    return {**made, "test_before_save": False}


def _connection(w: World) -> dict[str, Any]:
    made = w.request("POST", "/organizations/connections", _database(w))
    return {"connection_identifier": made["connection_id"]}


VAULT: dict[str, Call] = {
    "OrganizationSecretsApi.create_secret_organizations": Call(
        lambda w: {"create_secret_request": {"secret_name": w.name(f"key-{w.namespace}"), "secret_value": "x" * 9}},
        lambda a, w: a.created is True,
    ),
    "OrganizationSecretsApi.list_secrets_organizations": Call(
        _with_a_secret, lambda a, w: a.count == len(a.secrets) >= 1
    ),
    "OrganizationSecretsApi.update_secret_organizations_name": Call(
        lambda w: {"secret_name": _secret(w), "update_secret_request": {"secret_value": "another"}},
        lambda a, w: a.updated is True,
    ),
    "OrganizationSecretsApi.delete_secret_organizations_name": Call(
        lambda w: {"secret_name": _secret(w)}, lambda a, w: a.deleted is True
    ),
    "OrganizationConnectionsApi.create_storage_connection_organizations": Call(
        lambda w: {"storage_connection_create_request": _database(w)},
        lambda a, w: a.provider_type.value == "postgresql" and "swordfish" not in str(a.to_dict()),
    ),
    "OrganizationConnectionsApi.list_storage_connections_organizations": Call(
        lambda w: {"limit": 5} if _connection(w) else {}, lambda a, w: a.total >= 1
    ),
    "OrganizationConnectionsApi.get_storage_connection_organizations": Call(
        _connection, lambda a, w: a.is_active is True and "swordfish" not in str(a.to_dict())
    ),
    "OrganizationConnectionsApi.update_storage_connection_organizations": Call(
        lambda w: {**_connection(w), "storage_connection_update_request": {"is_active": False}},
        lambda a, w: a.is_active is False,
    ),
    "OrganizationConnectionsApi.test_storage_connection_organizations": Call(
        _connection, lambda a, w: a.success is False and "swordfish" not in str(a.to_dict())
    ),
    "OrganizationConnectionsApi.delete_storage_connection_organizations": Call(_connection),
}
