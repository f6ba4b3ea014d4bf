"""Secrets of an organization: names are shown, values never. For admins only."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import Field

from mediatheca.api.deps import Admin, AdminWrite, OrgRead, answer
from mediatheca.resources.base import Spec, notes_on
from mediatheca.stores.db.tx import Record

router = APIRouter(tags=["secrets"])


class SecretSpec(Spec):
    """A secret. The value has no type here: a refusal by type would repeat it."""

    secret_name: str
    secret_value: Any = Field(json_schema_extra={"type": "string", "writeOnly": True})


class SecretValueSpec(Spec):
    secret_value: Any = Field(json_schema_extra={"type": "string", "writeOnly": True})


def _details(record: Record) -> dict[str, Any]:
    return {
        "secret_id": record.id,
        "secret_name": record.name,
        "version": record.version,
        "created_at": record.created_at,
        "rotated_at": record.updated_at,
        "key_id": record.body["sealed"]["key"],
    }


@router.get("/organizations/secrets", operation_id="list_secrets_organizations", response_model=None)
def list_(tx: OrgRead, caller: Admin) -> Response:
    """The names of all secrets, with version and date of the last rotation."""
    records = caller.services.vault.records(tx)
    names = [record.name for record in records]
    return answer({"secrets": names, "count": len(names), "details": [_details(record) for record in records]})


@router.post("/organizations/secrets", operation_id="create_secret_organizations", response_model=None)
def create(spec: SecretSpec, tx: AdminWrite, caller: Admin) -> Response:
    notes = notes_on(caller, spec)
    made = caller.services.vault.create(tx, spec.secret_name, spec.secret_value)
    body = {"secret_name": made.name, "created": True, "version": made.version, "created_at": made.created_at}
    return answer(body | notes)


@router.post("/organizations/secrets/rewrap", operation_id="rewrap_secrets_organizations", response_model=None)
def rewrap(tx: AdminWrite, caller: Admin) -> Response:
    """Bring all secrets under the current master key, so that an older key can be taken off the list."""
    changed = caller.services.vault.rewrap(tx)
    return answer({"rewrapped": changed, "key_id": caller.services.vault.keys.current})


@router.put(
    "/organizations/secrets/{secret_name}", operation_id="update_secret_organizations_name", response_model=None
)
def update(secret_name: str, spec: SecretValueSpec, tx: AdminWrite, caller: Admin) -> Response:
    """Give a secret a new value. The old one is gone."""
    notes = notes_on(caller, spec)
    record = caller.services.vault.replace(tx, secret_name, spec.secret_value)
    body = {"secret_name": record.name, "updated": True, "version": record.version, "rotated_at": record.updated_at}
    return answer(body | notes)


@router.delete(
    "/organizations/secrets/{secret_name}", operation_id="delete_secret_organizations_name", response_model=None
)
def delete(secret_name: str, tx: AdminWrite, caller: Admin) -> Response:
    """Remove a secret at once. What refers to it fails at its next use."""
    record = caller.services.vault.delete(tx, secret_name)
    return answer({"secret_name": record.name, "deleted": True})
