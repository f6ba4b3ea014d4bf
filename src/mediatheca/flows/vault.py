"""The vault: secrets of an organization by name, encrypted at rest, decrypted only when an execution needs them."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from mediatheca.kernel.errors import BadRequestError, ConflictError, NotFoundError, ValidationError
from mediatheca.kernel.redaction import SecretValues
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import ReadTx, Record, Tx, record
from mediatheca.stores.keyring import KeyRing

MAX_VALUE = 64 * 1024
MAX_SECRETS = 1_000
AUDIT_S = 60.0
"""Reading a secret is written to the events at most this often, for each secret: executions may be many a second."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_KIND = "secret"
CONNECTION = "storage_connection"
"""The other kind of resource that keeps something sealed: credentials."""

TARGETS = ("webhook", "channel", "alert")
"""Kinds of resources whose channels hold sealed settings, under `deliver_to`."""


def sealed_name(kind: str, ident: str, name: str) -> str:
    """What a sealed value is bound to besides its organization: a secret's name, or a connection's id."""
    return name if kind == _KIND else f"{kind}:{ident}"


class Vault:
    """Secrets of all organizations. `keys` is asked once, when the first secret is written or read.

    Raises:
        UnavailableError: from `keys`, and where a stored secret needs a master key that is not here.
    """

    def __init__(self, database: Database, keys: Callable[[], KeyRing]) -> None:
        self._db = database
        self._load = keys
        self._loaded: KeyRing | None = None
        self._lock = threading.Lock()
        self._audited: dict[tuple[str, str], float] = {}

    @property
    def keys(self) -> KeyRing:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def create(self, tx: Tx, name: str, value: Any) -> Record:
        """Store a new secret.

        Raises:
            ValidationError: name or value cannot be one; the value is not repeated.
            ConflictError: there is one of this name, or there are too many.
        """
        if not _NAME.fullmatch(name):
            message = "must have 1 to 100 letters, digits, '_', '-' or '.', and begin with a letter, digit or '_'"
            raise ValidationError.at(("body", "secret_name"), message, "secret_name")
        if tx.count("resources", {"kind": _KIND}) >= MAX_SECRETS:
            raise ConflictError(f"the organization has {MAX_SECRETS} secrets already; delete some")
        made = tx.put(_KIND, "sec", name, {"sealed": self._seal(tx, name, value)})
        tx.emit("secret.created", made.id, {"secret_name": name})
        return made

    def replace(self, tx: Tx, name: str, value: Any) -> Record:
        """Give a secret a new value; the old one is gone.

        Raises:
            NotFoundError: there is none of this name.
            ValidationError: the value cannot be one.
        """
        current = self._find(tx, name)
        changed = tx.change(current, {"sealed": self._seal(tx, current.name, value)})
        tx.emit("secret.updated", changed.id, {"secret_name": current.name})
        return changed

    def delete(self, tx: Tx, name: str) -> Record:
        """Remove a secret at once: what refers to it fails at its next use. Raises NotFoundError."""
        current = self._find(tx, name)
        tx.remove(current)
        tx.emit("secret.deleted", current.id, {"secret_name": current.name})
        return current

    def records(self, tx: ReadTx) -> list[Record]:
        """All secrets of the organization, by name. Their bodies are encrypted."""
        return sorted(tx.resources(_KIND), key=lambda each: each.name)

    def rewrap(self, tx: Tx) -> int:
        """Bring everything sealed of the organization under the current master key; how many were under another."""
        changed = 0
        for each in [*tx.resources(_KIND), *tx.resources(CONNECTION)]:
            name = sealed_name(each.kind, each.id, each.name)
            sealed = self.keys.rewrap(each.body["sealed"], tx.scope.organization_id, name)
            if sealed is not None:
                tx.change(each, {**each.body, "sealed": sealed})
                changed += 1
        for level in [tx, *(tx.within(namespace.id) for namespace in tx.resources("namespace"))]:
            changed += sum(self._rewrap_target(level, each) for kind in TARGETS for each in level.resources(kind))
        tx.emit("secret.rewrapped", tx.scope.organization_id, {"count": changed, "key": self.keys.current})
        return changed

    def _rewrap_target(self, tx: Tx, target: Record) -> int:
        """The channels of a target; how many were under another key."""
        held = target.body.get("deliver_to") or []
        made = [dict(each) for each in held]
        for each in made:
            if each.get("sealed"):
                name = sealed_name("channel", each["seal_id"], "")
                each["sealed"] = self.keys.rewrap(each["sealed"], tx.scope.organization_id, name) or each["sealed"]
        changed = sum(1 for new, old in zip(made, held, strict=True) if new != old)
        if changed:
            tx.change(target, {**target.body, "deliver_to": made})
        return changed

    async def secrets_for(self, scope: Scope, names: Collection[str]) -> SecretValues:
        """The values an execution needs, by name; nothing is read where none are named.

        Raises:
            BadRequestError: one does not exist.
            UnavailableError: one cannot be decrypted here.
        """
        return await asyncio.to_thread(self.read, scope, names) if names else SecretValues()

    def read(self, scope: Scope, names: Collection[str]) -> SecretValues:
        """`secrets_for`, waiting for the database."""
        if not names:
            return SecretValues()
        organization = Scope(scope.organization_id)
        with self._db.read(organization) as tx:
            rows = tx.rows("resources", {"kind": _KIND, "name": sorted(names)}, columns=("name", "body", "id"))
        found = {row["name"]: row for row in rows}
        missing = sorted(set(names) - set(found))
        if missing:
            raise BadRequestError(
                f"the secret '{missing[0]}' does not exist; an admin can store it with POST /v1/organizations/secrets",
                details={"resource": _KIND, "id": missing[0]},
            )
        owner = scope.organization_id
        values = {name: self.keys.open(row["body"]["sealed"], owner, name) for name, row in found.items()}
        self._audit(organization, [(row["id"], name) for name, row in found.items()])
        return SecretValues(values)

    def seal(self, scope: Scope, name: str, value: str) -> dict[str, Any]:
        """Encrypt a value that is kept elsewhere (credentials of a connection) under a name of its own."""
        return self.keys.seal(value, scope.organization_id, name)

    def open(self, scope: Scope, name: str, sealed: dict[str, Any]) -> str:
        """Decrypt what `seal` made. Raises UnavailableError."""
        return self.keys.open(sealed, scope.organization_id, name)

    def _find(self, tx: ReadTx, name: str) -> Record:
        row = tx.row("resources", {"kind": _KIND, "name": name})
        if row is None:
            raise NotFoundError(_KIND, name)
        return record(row)

    def _seal(self, tx: Tx, name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, str) or not value or len(value) > MAX_VALUE:
            message = f"must be a text of 1 to {MAX_VALUE:,} characters"
            raise ValidationError.at(("body", "secret_value"), message, "secret_value")
        return self.keys.seal(value, tx.scope.organization_id, name)

    def _audit(self, scope: Scope, read: Iterable[tuple[str, str]]) -> None:
        now, due = time.monotonic(), []
        with self._lock:
            for ident, name in read:
                if now - self._audited.get((scope.organization_id, ident), -AUDIT_S) >= AUDIT_S:
                    self._audited[scope.organization_id, ident] = now
                    due.append((ident, {"secret_name": name}))
            if len(self._audited) > 10 * MAX_SECRETS:
                self._audited = {key: at for key, at in self._audited.items() if now - at < AUDIT_S}
        if due:
            self._db.run(scope, lambda tx: tx.emit_many("secret.accessed", due))
