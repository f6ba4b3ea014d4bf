"""Organizations, their users and keys: what must be true of them together.

An organization always keeps an active admin with a working admin key: nobody can lock the last one out.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError, NotFoundError, ValidationError
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.keys import any_admin, find_key
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx

PERMISSIONS = ("read", "write", "delete", "admin")
ROLES: Mapping[str, tuple[str, ...]] = {
    "admin": PERMISSIONS,
    "member": ("read", "write", "delete"),
    "viewer": ("read",),
}
DEFAULT_PERMISSIONS = ("read", "write", "delete")
_PREFIX = "sk_"


def key_hash(key: str) -> str:
    """What is stored of a key. Keys are 256 random bits, so a plain hash is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class KeyWish:
    """What a new key shall be."""

    name: str
    description: str = ""
    permissions: Sequence[str] | None = None
    expires_at: datetime | None = None


def create_organization(db: Database, name: str, email: str, key: str | None = None) -> tuple[str, str]:
    """A new tenant with its first admin and an admin key. Returns (organization id, plaintext key)."""
    ident = new_id("org")
    with db.begin(Scope(ident)) as tx:
        tx.put("organization", "org", name, {}, ident=ident)
        user = tx.put("user", "usr", email, {"user_name": email.partition("@")[0], "role": "admin", "status": "active"})
        _, plain = issue_key(tx, user, KeyWish("admin-key", "made with the organization", PERMISSIONS), key)
        tx.emit("organization.created", ident, {"name": name})
    return ident, plain


def first_key(db: Database, given: str = "") -> str | None:
    """Make sure that somebody can log in: with `given`, else with a fresh key on an empty database.

    Returns a fresh key's plaintext, to be shown once; None when nothing has to be shown.
    """
    if given and find_key(db, key_hash(given)) is not None:
        return None
    holder = any_admin(db)
    if holder is None:
        _, plain = create_organization(db, "default", "admin@localhost", given or None)
        return None if given else plain
    if given:
        organization_id, user_id = holder
        with db.begin(Scope(organization_id)) as tx:
            user = tx.get("user", user_id)
            issue_key(
                tx,
                user,
                KeyWish(f"environment {given[:6]} {new_id('k')[-6:]}", "MEDIATHECA_API_KEY", PERMISSIONS),
                given,
            )
    return None


# ---- keys


def issue_key(tx: Tx, user: Record, wish: KeyWish, plain: str | None = None) -> tuple[Row, str]:
    """A new key of a user. Returns its row and the plaintext, which is stored nowhere.

    Raises:
        ConflictError: the user is not active, or has an active key of this name.
        ValidationError: permissions beyond the user's role, or an expiry in the past.
    """
    if user.body["status"] != "active":
        raise ConflictError(f"user '{user.name}' is {user.body['status']}; only active users can have keys")
    permissions = check_permissions(user, wish.permissions)
    check_expiry(wish.expires_at)
    _free_name(tx, user, wish.name)
    plain = plain or _PREFIX + secrets.token_urlsafe(32)
    row: Row = {
        "key_id": new_id("key"), "key_hash": key_hash(plain), "key_prefix": plain[:10], "user_id": user.id,
        "name": wish.name, "description": wish.description, "permissions": permissions, "scopes": [],
        "principal_id": None, "status": "active", "created_by": tx.actor, "expires_at": wish.expires_at,
        "last_used_at": None, "created_at": clock.now(), "revoked_at": None,
    }  # fmt: skip
    tx.insert("api_keys", [row])
    tx.emit("api_key.created", row["key_id"], {"user_id": user.id, "name": wish.name, "permissions": permissions})
    return {**row, "organization_id": tx.scope.organization_id}, plain


def check_permissions(user: Record, given: Sequence[str] | None) -> list[str]:
    """Permissions in their usual order; by default those of the role without `admin`."""
    role = ROLES[user.body["role"]]
    wanted = given if given is not None else [name for name in DEFAULT_PERMISSIONS if name in role]
    beyond = [name for name in wanted if name not in role]
    if beyond or not wanted:
        message = f"a {user.body['role']} can have {', '.join(role)}; got {', '.join(wanted) or 'none'}"
        raise ValidationError.at(("body", "permissions"), message, "permissions")
    return [name for name in PERMISSIONS if name in wanted]


def check_expiry(moment: datetime | None) -> None:
    """Raises ValidationError for the past."""
    if moment is not None and moment <= clock.now():
        raise ValidationError.at(
            ("body", "expires_at"), f"must be in the future, got {moment.isoformat()}", "expires_at"
        )


def _free_name(tx: Tx, user: Record, name: str) -> None:
    taken = tx.row("api_keys", {"user_id": user.id, "name": name})
    if taken is None:
        return
    if usable(taken):
        raise ConflictError(f"API key '{name}' exists already", details={"existing_id": taken["key_id"]})
    tx.update("api_keys", {"key_id": taken["key_id"]}, {"name": f"{name[:60]} (was {taken['key_id'][-8:]})"})


def usable(row: Row) -> bool:
    return row["status"] == "active" and (row["expires_at"] is None or row["expires_at"] > clock.now())


def get_key(tx: ReadTx, user: Record, ident: str) -> Row:
    """A key of a user by name or id. Raises NotFoundError."""
    found = tx.row("api_keys", {"user_id": user.id, "name": ident}) or tx.row(
        "api_keys", {"user_id": user.id, "key_id": ident}
    )
    if found is None:
        raise NotFoundError("API key", ident)
    return found


def change_key(tx: Tx, row: Row, values: Row) -> Row:
    """Change a key; the organization must still have a working admin key afterwards.

    Raises:
        ConflictError: it would have none, or the key is revoked, or the name is taken.
    """
    if row["status"] == "revoked":
        raise ConflictError(f"API key '{row['name']}' is revoked; create a new one")
    name = values.get("name", row["name"])
    if name != row["name"] and tx.row("api_keys", {"user_id": row["user_id"], "name": name}):
        raise ConflictError(f"API key '{name}' exists already")
    if values.get("status") == "revoked":
        values = {**values, "revoked_at": clock.now()}
    tx.update("api_keys", {"key_id": row["key_id"]}, values)
    keep_an_admin(tx)
    event = "api_key.revoked" if values.get("status") == "revoked" else "api_key.updated"
    tx.emit(event, row["key_id"], {"user_id": row["user_id"], "fields": sorted(values)})
    return {**row, **values}


def rotate_key(tx: Tx, row: Row) -> tuple[Row, str]:
    """A new secret for the same key; the old one stops working at once."""
    if row["status"] == "revoked":
        raise ConflictError(f"API key '{row['name']}' is revoked; create a new one")
    plain = _PREFIX + secrets.token_urlsafe(32)
    values = {"key_hash": key_hash(plain), "key_prefix": plain[:10], "last_used_at": None}
    tx.update("api_keys", {"key_id": row["key_id"]}, values)
    tx.emit("api_key.rotated", row["key_id"], {"user_id": row["user_id"]})
    return {**row, **values}, plain


# ---- users


def change_user(tx: Tx, user: Record, body: dict[str, Any], name: str | None = None) -> Record:
    """Replace a user's body. Leaving `active` revokes every key; a lower role takes its permissions from the keys."""
    changed = tx.change(user, body, name)
    if body["status"] != "active":
        revoke_all(tx, user)
    elif body["role"] != user.body["role"]:
        for row in tx.rows("api_keys", {"user_id": user.id, "status": "active"}):
            left = [permission for permission in row["permissions"] if permission in ROLES[body["role"]]]
            tx.update("api_keys", {"key_id": row["key_id"]}, {"permissions": left})
    keep_an_admin(tx)
    return changed


def remove_user(tx: Tx, user: Record) -> None:
    revoke_all(tx, user)
    tx.remove(user)
    keep_an_admin(tx)


def revoke_all(tx: Tx, user: Record) -> int:
    """Revoke the user's keys for good; returns how many."""
    moment = clock.now()
    return tx.update("api_keys", {"user_id": user.id, "status": "active"}, {"status": "revoked", "revoked_at": moment})


def keep_an_admin(tx: Tx) -> None:
    """Raises ConflictError when no active admin with a working admin key would be left; nothing is changed then."""
    admins = {
        user.id for user in tx.resources("user") if user.body["role"] == "admin" and user.body["status"] == "active"
    }
    if not admins:
        raise ConflictError("the last active admin of an organization cannot be removed, suspended or demoted")
    keys = tx.rows("api_keys", {"user_id": admins, "status": "active"})
    if not any("admin" in row["permissions"] and usable(row) for row in keys):
        raise ConflictError(
            "the last working admin key of an organization cannot be revoked, restricted or left to expire"
        )
