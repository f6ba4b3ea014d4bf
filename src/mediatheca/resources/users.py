"""Users of an organization. The path names them by email."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import Field, field_validator

from mediatheca.api.deps import Admin, AdminWrite, OrgRead, OrgReader, answer
from mediatheca.api.lists import Listed, listed
from mediatheca.flows.tenancy import change_user, remove_user
from mediatheca.kernel.errors import ConflictError
from mediatheca.kernel.filters import all_of, parse_filter
from mediatheca.resources.base import Spec, notes_on
from mediatheca.stores.db.tx import Record, record

router = APIRouter(tags=["users"])

Role = Literal["admin", "member", "viewer"]
Status = Literal["active", "suspended", "pending"]
_EMAIL = re.compile(r"[^@\s/?#]{1,64}@[^@\s/?#]{1,190}")


class UserSpec(Spec):
    """A user. Being in the list gives no access: keys do."""

    email: str
    user_name: str = Field(min_length=2, max_length=100)
    avatar_url: str | None = None
    role: Role = "member"
    status: Status = "active"
    metadata: dict[str, Any] | None = None

    @field_validator("email")
    @classmethod
    def _address(cls, value: str) -> str:
        if not _EMAIL.fullmatch(value):
            raise ValueError("must be an email address")
        return value.lower()


class UserPatch(Spec):
    """What may change. Leaving `active` revokes all keys of the user."""

    user_name: str | None = Field(None, min_length=2, max_length=100)
    avatar_url: str | None = None
    role: Role | None = None
    status: Status | None = None
    metadata: dict[str, Any] | None = None


def present(user: Record) -> dict[str, Any]:
    return {
        "user_id": user.id,
        "email": user.name,
        "metadata": {},
        "avatar_url": None,
        **{name: value for name, value in user.body.items() if value is not None},
        "created_at": user.created_at,
        "updated_at": user.updated_at,
    }


@router.post("/organizations/users", operation_id="create_user_organizations", response_model=None)
def create(spec: UserSpec, tx: AdminWrite, caller: Admin) -> Response:
    notes = notes_on(caller, spec)
    body = spec.model_dump(mode="json", include=set(type(spec).model_fields) - {"email"})
    made = tx.put("user", "usr", spec.email, body)
    tx.emit("user.created", made.id, {"email": spec.email, "role": spec.role})
    return answer(present(made) | notes)


@router.get("/organizations/users", operation_id="list_users_organizations", response_model=None)
def list_(query: Listed, tx: OrgRead, role: Role | None = None, status: Status | None = None) -> Response:
    """Users of the caller's organization, newest first."""
    for name, value in (("role", role), ("status", status)):
        if value is not None:
            wanted = parse_filter({"field": name, "operator": "eq", "value": value})
            query = replace(query, filter=all_of(query.filter, wanted))
    page = tx.page("resources", {"kind": "user"}, query, {"email": "name", "user_id": "id"})
    results = [present(record(row)) for row in page.rows]
    return answer(listed(page, results, users=results))


@router.get("/organizations/users/{user_email}", operation_id="get_user_organizations_email", response_model=None)
def get(user_email: str, tx: OrgRead, caller: OrgReader) -> Response:
    return answer(present(find_user(tx, user_email)))


@router.patch("/organizations/users/{user_email}", operation_id="update_user_organizations_email", response_model=None)
def patch(user_email: str, spec: UserPatch, tx: AdminWrite, caller: Admin) -> Response:
    notes = notes_on(caller, spec)
    user = find_user(tx, user_email)
    sent = spec.model_dump(mode="json", exclude_unset=True, include=set(type(spec).model_fields))
    nothing = sorted(name for name in ("role", "status", "user_name") if name in sent and sent[name] is None)
    for name in nothing:
        del sent[name]
    changed = change_user(tx, user, {**user.body, **sent})
    tx.emit("user.updated", user.id, {"fields": sorted(sent)})
    return answer(present(changed) | notes)


@router.delete("/organizations/users/{user_email}", operation_id="delete_user_organizations_email", response_model=None)
def delete(user_email: str, tx: AdminWrite, caller: Admin) -> Response:
    user = find_user(tx, user_email)
    if user.id == caller.actor.user_id:
        raise ConflictError("you cannot remove yourself; ask another admin")
    remove_user(tx, user)
    tx.emit("user.deleted", user.id, {"email": user.name})
    return answer({"success": True, "message": f"user '{user.name}' deleted; all keys of this user are revoked"})


def find_user(tx: OrgRead, ident: str) -> Record:
    """A user by email (in any case) or id. Raises NotFoundError."""
    return tx.find("user", ident.lower()) or tx.get("user", ident)
