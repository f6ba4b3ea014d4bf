"""Keys of one retriever: they run it where it is published, and nothing else. Shown once; only a hash is kept."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from mediatheca.api.deps import Delete, Read, Write, Writer, answer
from mediatheca.flows.tenancy import check_expiry, key_hash
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError, NotFoundError
from mediatheca.kernel.ids import new_id
from mediatheca.stores.db.tx import Row

router = APIRouter(tags=["retriever keys"])
_PATH = "/retrievers/{identifier}/api-keys"
PREFIX, LENGTH = "ret_sk_", 60
MAX_KEYS = 100
_ORIGIN = re.compile(r"https?://(\*\.)?[A-Za-z0-9.\-]{1,253}(:[0-9]{1,5})?/?")


class KeySpec(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str = Field(min_length=1, max_length=100)
    description: str | None = Field(None, max_length=500)
    expires_at: datetime | None = None
    allowed_origins: list[str] | None = Field(None, max_length=50)

    @field_validator("expires_at")
    @classmethod
    def _zoned(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: list[str] | None) -> list[str] | None:
        for origin in value or ():
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"'{origin[:80]}' is no origin: https://shop.example.org or https://*.example.org")
        return value


def _view(row: Row, organization_id: str) -> dict[str, Any]:
    body = row["body"]
    expired = row["expires_at"] is not None and row["expires_at"] <= clock.now()
    status = "expired" if row["status"] == "active" and expired else row["status"]
    return {
        "key_id": row["key_id"],
        "key_hash": row["key_hash"],
        "key_prefix": body["key_prefix"],
        "key_type": "standard",
        "internal_id": organization_id,
        "organization_id": organization_id,
        "user_id": body["user_id"],
        "name": body["name"],
        "description": body["description"] or "",
        "permissions": ["read"],
        "scopes": [],
        "status": status,
        "allowed_origins": body["allowed_origins"],
        "retriever_id": row["retriever_id"],
        "expires_at": row["expires_at"],
        "created_at": row["created_at"],
        "created_by": body["user_id"],
        "revoked_at": row["revoked_at"],
    }


@router.post(_PATH, operation_id="create_retriever_key", response_model=None)
def create(identifier: str, spec: KeySpec, tx: Write, caller: Writer) -> Response:
    """A key for X-Public-API-Key; `key` is shown this once."""
    retriever = tx.get("retriever", identifier)
    check_expiry(spec.expires_at)
    if tx.count("retriever_keys", {"retriever_id": retriever.id, "status": "active"}) >= MAX_KEYS:
        raise ConflictError(f"retriever '{retriever.name}' has {MAX_KEYS} keys; revoke one first")
    plain = PREFIX + secrets.token_urlsafe(LENGTH)[: LENGTH - len(PREFIX)]
    row: Row = {
        "key_id": new_id("rkey"),
        "key_hash": key_hash(plain),
        "retriever_id": retriever.id,
        "status": "active",
        "body": {
            "name": spec.name,
            "description": spec.description,
            "allowed_origins": spec.allowed_origins,
            "key_prefix": plain[:10],
            "user_id": caller.actor.user_id,
        },
        "expires_at": spec.expires_at,
        "created_at": clock.now(),
        "revoked_at": None,
    }
    tx.insert("retriever_keys", [row])
    tx.emit("retriever_key.created", row["key_id"], {"retriever_id": retriever.id, "name": spec.name})
    return answer({**_view(row, tx.scope.organization_id), "key": plain})


@router.get(_PATH, operation_id="list_retriever_keys", response_model=None)
def list_(identifier: str, tx: Read, include_revoked: bool = False) -> Response:
    retriever = tx.get("retriever", identifier)
    where: dict[str, Any] = {"retriever_id": retriever.id} | ({} if include_revoked else {"status": "active"})
    rows = tx.rows("retriever_keys", where, order=("-key_id",), limit=1_000)
    return answer({"results": [_view(row, tx.scope.organization_id) for row in rows], "total": len(rows)})


@router.delete(f"{_PATH}/{{key_id}}", operation_id="revoke_retriever_key", response_model=None)
def delete(identifier: str, key_id: str, tx: Delete) -> Response:
    """Revoke a key; it stops working at once."""
    retriever = tx.get("retriever", identifier)
    where = {"retriever_id": retriever.id, "key_id": key_id, "status": "active"}
    if not tx.update("retriever_keys", where, {"status": "revoked", "revoked_at": clock.now()}):
        raise NotFoundError("retriever key", key_id)
    tx.emit("retriever_key.revoked", key_id, {"retriever_id": retriever.id})
    return answer({"success": True, "message": f"key '{key_id}' is revoked"})
