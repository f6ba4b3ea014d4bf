"""API keys of users: opaque bearer tokens, of which only a hash is kept; the plaintext is shown once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import Field, field_validator

from mediatheca.api.deps import Admin, AdminWrite, OrgRead, answer
from mediatheca.api.lists import Listed, listed
from mediatheca.flows.tenancy import (
    KeyWish,
    change_key,
    check_expiry,
    check_permissions,
    get_key,
    issue_key,
    rotate_key,
    usable,
)
from mediatheca.kernel.errors import NotEnabledError
from mediatheca.resources.base import Spec, notes_on
from mediatheca.resources.users import find_user
from mediatheca.stores.db.tx import Cmp, Row

router = APIRouter(tags=["api keys"])

_USER = "/organizations/users/{user_email}/api-keys"
Permission = Literal["read", "write", "delete", "admin"]
_RESTRICTIONS = ("scopes", "principal_id", "allowed_origins", "rate_limit_override")


class _Restricted(Spec):
    """Ways to restrict a key that this server does not enforce: refused, so that nobody trusts them."""

    scopes: list[dict[str, Any]] | None = None
    rate_limit_override: int | None = None
    principal_id: str | None = None
    allowed_origins: list[str] | None = None

    def refuse_restrictions(self) -> None:
        given = [name for name in _RESTRICTIONS if getattr(self, name)]
        if given:
            raise NotEnabledError(f"{', '.join(given)}: this server does not enforce that yet; leave it out")


def _aware(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


class KeySpec(_Restricted):
    name: str = Field(min_length=1, max_length=100)
    description: str | None = Field(None, max_length=500)
    permissions: list[Permission] | None = None
    expires_at: datetime | None = None

    _zone = field_validator("expires_at")(_aware)


class KeyPatch(_Restricted):
    name: str | None = Field(None, min_length=1, max_length=100)
    description: str | None = Field(None, max_length=500)
    permissions: list[Permission] | None = None
    expires_at: datetime | None = None
    status: Literal["active", "revoked"] | None = None

    _zone = field_validator("expires_at")(_aware)


def present(row: Row, plain: str | None = None) -> dict[str, Any]:
    status = row["status"] if row["status"] == "revoked" or usable(row) else "expired"
    body = {
        "key_id": row["key_id"],
        "key_hash": row["key_hash"],
        "key_prefix": row["key_prefix"],
        "key_type": "standard",
        "internal_id": row["organization_id"],
        "organization_id": row["organization_id"],
        "user_id": row["user_id"],
        "name": row["name"],
        "description": row["description"] or "",
        "permissions": row["permissions"],
        "scopes": row["scopes"],
        "status": status,
        "expires_at": row["expires_at"],
        "last_used_at": row["last_used_at"],
        "created_at": row["created_at"],
        "created_by": row["created_by"],
        "revoked_at": row["revoked_at"],
        "principal_id": row["principal_id"],
    }
    return body | ({"key": plain} if plain is not None else {})


@router.post(_USER, operation_id="create_key_organizations_users_email", response_model=None)
def create(user_email: str, spec: KeySpec, tx: AdminWrite, caller: Admin) -> Response:
    """Create a key. `key` in the answer is the only time that it is shown."""
    notes = notes_on(caller, spec)
    spec.refuse_restrictions()
    wish = KeyWish(spec.name, spec.description or "", spec.permissions, spec.expires_at)
    row, plain = issue_key(tx, find_user(tx, user_email), wish)
    return answer(present(row, plain) | notes)


@router.get(_USER, operation_id="list_keys_organizations_users_email", response_model=None)
def list_(
    user_email: str, query: Listed, tx: OrgRead, caller: Admin, include_revoked: Annotated[bool, Query()] = False
) -> Response:
    """Keys of a user, newest first."""
    where: dict[str, Any] = {"user_id": find_user(tx, user_email).id}
    if not include_revoked:
        where["status"] = Cmp("!=", "revoked")
    page = tx.page("api_keys", where, query)
    results = [present(row) for row in page.rows]
    return answer(listed(page, results, api_keys=results))


@router.get(f"{_USER}/{{key_name}}", operation_id="get_key_organizations_users_email_name", response_model=None)
def get(user_email: str, key_name: str, tx: OrgRead, caller: Admin) -> Response:
    return answer(present(get_key(tx, find_user(tx, user_email), key_name)))


@router.patch(f"{_USER}/{{key_name}}", operation_id="update_key_organizations_users_email_name", response_model=None)
def patch(user_email: str, key_name: str, spec: KeyPatch, tx: AdminWrite, caller: Admin) -> Response:
    notes = notes_on(caller, spec)
    spec.refuse_restrictions()
    user = find_user(tx, user_email)
    names = {"name", "description", "permissions", "expires_at", "status"} & spec.model_fields_set
    values = {name: getattr(spec, name) for name in names if name == "expires_at" or getattr(spec, name) is not None}
    if "permissions" in values:
        values["permissions"] = check_permissions(user, values["permissions"])
    check_expiry(values.get("expires_at"))
    row = change_key(tx, get_key(tx, user, key_name), values)
    return answer(present(row) | notes)


@router.post(
    f"{_USER}/{{key_name}}/rotate", operation_id="rotate_key_organizations_users_email_name", response_model=None
)
def rotate(user_email: str, key_name: str, tx: AdminWrite, caller: Admin) -> Response:
    """A new secret; the old one stops working at once."""
    row, plain = rotate_key(tx, get_key(tx, find_user(tx, user_email), key_name))
    return answer(present(row, plain))


@router.delete(f"{_USER}/{{key_name}}", operation_id="delete_key_organizations_users_email_name", response_model=None)
def delete(user_email: str, key_name: str, tx: AdminWrite, caller: Admin) -> Response:
    """Revoke a key for good."""
    row = get_key(tx, find_user(tx, user_email), key_name)
    if row["status"] != "revoked":
        change_key(tx, row, {"status": "revoked"})
    return answer({"success": True, "message": f"API key '{row['name']}' revoked"})
