"""Who calls: bearer keys by their hash, namespaces by id or name. Both are kept in memory, dropped when they change."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from mediatheca.flows.tenancy import key_hash
from mediatheca.kernel import clock
from mediatheca.kernel.errors import NotFoundError, UnauthorizedError, ValidationError
from mediatheca.kernel.scope import Actor, Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.keys import find_key, touch_keys

TTL_S = 5.0
"""How long a key revoked by another process may still work."""
_MAX = 10_000
_NEVER = datetime.max.replace(tzinfo=UTC)


def digest_of(header: str | None) -> str:
    """The hash of the key in an `Authorization` header; empty when there is none."""
    scheme, _, key = (header or "").partition(" ")
    return key_hash(key.strip()) if scheme.lower() == "bearer" and key.strip() else ""


class Auth:
    """Looks up actors and namespaces. Used on the event loop: a hit costs a dict look-up."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._actors: dict[str, tuple[Actor, datetime, float]] = {}
        self._namespaces: dict[tuple[str, str], tuple[str, float]] = {}
        self._used: set[str] = set()
        database.listen(self._forget)

    def _forget(self, topics: set[str]) -> None:
        if topics & {"api_keys", "resource:user"}:
            self._actors = {}
        if "resource:namespace" in topics:
            self._namespaces = {}

    def remembers(self, header: str | None, namespace: str | None) -> bool:
        """Whether both look-ups would be answered from memory, so that they may run on the event loop."""
        known = self._actors.get(digest_of(header))
        if known is None or known[2] < time.monotonic():
            return False
        if namespace is None:
            return True
        found = self._namespaces.get((known[0].organization_id, namespace))
        return found is not None and found[1] >= time.monotonic()

    def actor(self, header: str | None) -> Actor:
        """The owner of a bearer key.

        Raises:
            UnauthorizedError: missing, malformed, unknown, revoked or expired; a stranger learns no more than that.
        """
        digest = digest_of(header)
        if not digest:
            raise UnauthorizedError("send 'Authorization: Bearer <api key>'")
        cached = self._actors.get(digest)
        if cached is None or cached[2] < time.monotonic():
            cached = self._load(digest)
        actor, expires, _ = cached
        if expires <= clock.now():
            raise UnauthorizedError("the API key is not valid")
        self._used.add(actor.key_id)
        return actor

    def _load(self, digest: str) -> tuple[Actor, datetime, float]:
        # Kept in the memory of before the look-up: a change that commits meanwhile replaces it, so nothing stale stays.
        actors = self._actors
        row = find_key(self._db, digest)
        if row is None or row["status"] != "active":
            raise UnauthorizedError("the API key is not valid")
        actor = Actor(
            row["organization_id"], row["key_id"], row["user_id"], frozenset(row["permissions"]), row["principal_id"]
        )
        if len(actors) >= _MAX:
            actors.clear()
        entry = (actor, row["expires_at"] or _NEVER, time.monotonic() + TTL_S)
        actors[digest] = entry
        return entry

    def namespace(self, actor: Actor, ident: str | None) -> Scope:
        """The scope an `X-Namespace` header names.

        Raises:
            ValidationError: the header is missing.
            NotFoundError: no such namespace in the caller's organization.
        """
        if not ident:
            raise ValidationError.at(("header", "X-Namespace"), "is required here: a namespace id or name", "missing")
        cached = self._namespaces.get((actor.organization_id, ident))
        if cached is None or cached[1] < time.monotonic():
            namespaces = self._namespaces
            with self._db.read(Scope(actor.organization_id)) as tx:
                found = tx.find("namespace", ident)
            if found is None:
                raise NotFoundError("namespace", ident)
            if len(namespaces) >= _MAX:
                namespaces.clear()
            cached = (found.id, time.monotonic() + TTL_S)
            namespaces[actor.organization_id, ident] = cached
        return Scope(actor.organization_id, cached[0])

    def flush_usage(self) -> None:
        """Store `last_used_at` of the keys seen since the last call; a second of it may be lost."""
        used, self._used = self._used, set()
        if used:
            touch_keys(self._db, used)
