"""The caller's organization, and who the caller is."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from pydantic import Field

from mediatheca.api.deps import AdminWrite, OrgRead, OrgReader, answer
from mediatheca.kernel.errors import ConflictError
from mediatheca.resources.base import Spec, notes_on
from mediatheca.stores.db.tx import ReadTx, Record

router = APIRouter(tags=["organizations"])

_CATEGORIES = ("metadata", "data", "search", "upload", "compute")
_UNLIMITED = 1_000_000_000


class OrganizationPatch(Spec):
    """What an admin may change."""

    organization_name: str | None = Field(None, min_length=1, max_length=100)
    logo_url: str | None = None
    billing_email: str | None = None
    notifications_email: str | None = None
    metadata: dict[str, Any] | None = None
    default_llm_credentials: dict[str, str] | None = None
    spend_limits: dict[str, Any] | None = None


def _rate_limits(rpm: int) -> dict[str, int]:
    """One bucket serves every category here. The wire has no word for unlimited: a very large number stands for it."""
    return dict.fromkeys(_CATEGORIES, rpm or _UNLIMITED)


def _masked(credentials: dict[str, str] | None) -> dict[str, str] | None:
    """Which secrets there are, never what they are: every key with `read` sees the organization."""
    return None if credentials is None else dict.fromkeys(credentials, "********")


def present(tx: ReadTx, record: Record, rpm: int) -> dict[str, Any]:
    users = [{"user_id": user.id, "email": user.name, **user.body} for user in tx.resources("user")]
    body = record.body
    return {
        "organization_id": record.id,
        "organization_name": record.name,
        "logo_url": body.get("logo_url"),
        "account_type": "enterprise",
        "credit_count": 0,
        "metadata": body.get("metadata", {}),
        "billing_email": body.get("billing_email"),
        "notifications_email": body.get("notifications_email"),
        "default_llm_credentials": _masked(body.get("default_llm_credentials")),
        "spend_limits": body.get("spend_limits"),
        "rate_limits": _rate_limits(rpm),
        "users": users,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }


@router.get("/organizations", operation_id="get_organization", response_model=None)
def get(tx: OrgRead, caller: OrgReader) -> Response:
    record = tx.get("organization", caller.actor.organization_id)
    return answer(present(tx, record, caller.services.settings.rate_limit_rpm))


@router.patch("/organizations", operation_id="update_organization", response_model=None)
def patch(spec: OrganizationPatch, tx: AdminWrite, caller: OrgReader) -> Response:
    notes = notes_on(caller, spec)
    current = tx.get("organization", caller.actor.organization_id)
    sent = spec.model_dump(mode="json", exclude_unset=True, include=set(type(spec).model_fields))
    name = sent.pop("organization_name", None) or current.name
    if name.startswith("org_"):
        raise ConflictError("organization_name: must not begin with 'org_', which marks an id")
    record = tx.change(current, {**current.body, **sent}, name)
    tx.emit("organization.updated", record.id, {"fields": sorted(sent)})
    body = present(tx, record, caller.services.settings.rate_limit_rpm)
    return answer(body | notes)


@router.get("/me", operation_id="whoami_me", response_model=None)
def me(tx: OrgRead, caller: OrgReader) -> Response:
    """Who is calling, with which key, and what it may do."""
    actor = caller.actor
    organization = tx.get("organization", actor.organization_id)
    key = tx.row("api_keys", {"key_id": actor.key_id}) or {}
    user = tx.find("user", actor.user_id)
    return answer(
        {
            "organization_id": organization.id,
            "organization_name": organization.name,
            "account_type": "enterprise",
            "user_id": actor.user_id,
            "user_email": user.name if user else None,
            "key": {
                "key_id": actor.key_id,
                "name": key.get("name"),
                "key_type": "standard",
                "permissions": sorted(actor.permissions),
                "expires_at": key.get("expires_at"),
            },
            "rate_limits": _rate_limits(caller.services.settings.rate_limit_rpm),
            "principal_scoped": actor.principal_id is not None,
        }
    )
