"""Who may come in: rate limits, passwords and keys of published retrievers.

Requests are counted in memory where one process answers them all (SQLite), and in the database where several may
(PostgreSQL): a limit that every process had for itself would be as many times what its owner allowed.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mediatheca.flows.publishing.display import PER_IP_HOUR, limits_of
from mediatheca.flows.publishing.passwords import matches
from mediatheca.flows.tenancy import key_hash
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ForbiddenError, NotFoundError, TooManyRequestsError, UnauthorizedError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.publications import (
    Row,
    count_request,
    find_publication,
    find_retriever_key,
    forget_requests,
)

TTL_S = 5.0
_MAX = 50_000
_REMEMBERED_S = 300.0
_PURGE_EVERY = 1_000
GUESSES, GUESS_WINDOW_S = 10, 300
"""Wrong passwords of one address."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """What a request without an account brings along."""

    address: str = ""
    password: str = ""
    key: str = ""
    origin: str = ""


class Windows:
    """Counters over fixed windows of time. `now`: seconds since 1970."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._counts: dict[tuple[str, int], tuple[int, int]] = {}

    def take(self, name: str, seconds: int, most: int, what: str, *, count: int = 1) -> None:
        """Count, or refuse.

        Raises:
            TooManyRequestsError: with the seconds to wait.
        """
        now = self._now()
        window = int(now // seconds)
        begun, used = self._counts.get((name, seconds), (window, 0))
        used = used if begun == window else 0
        if used + count > most:
            raise TooManyRequestsError(f"more than {most} {what} in {_span(seconds)}", (window + 1) * seconds - now)
        if len(self._counts) >= _MAX:
            self._purge(now)
        self._counts[name, seconds] = (window, used + count)

    def _purge(self, now: float) -> None:
        current = {k: v for k, v in self._counts.items() if v[0] == int(now // k[1])}
        self._counts = current if len(current) < _MAX else {}


class SharedWindows:
    """Counters that all processes share, in the database."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._taken = itertools.count(1)

    def take(self, name: str, seconds: int, most: int, what: str, *, count: int = 1) -> None:
        """Count, or refuse.

        Raises:
            TooManyRequestsError: with the seconds to wait.
        """
        now = time.time()
        period = int(now // seconds)
        if next(self._taken) % _PURGE_EVERY == 0:
            forget_requests(self._db, now)
        hidden = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()
        if not count_request(self._db, hidden, seconds, period, most, count):
            wait = (period + 1) * seconds - now
            raise TooManyRequestsError(f"more than {most} {what} in {_span(seconds)}", wait)


def _span(seconds: int) -> str:
    return {60: "a minute", 300: "five minutes", 3_600: "an hour", 86_400: "a day"}[seconds]


class PublicDoor:
    """Finds publications by name, and lets visitors in. Its methods may wait for the database or for scrypt: call
    them in a thread."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._found: dict[str, tuple[Row | None, float]] = {}
        self._windows: Windows | SharedWindows = (
            SharedWindows(database) if database.dialect == "postgresql" else Windows()
        )
        self._pepper = secrets.token_bytes(32)
        self._verified: dict[bytes, float] = {}
        database.listen(self._forget)

    def _forget(self, topics: set[str]) -> None:
        if "publications" in topics:
            self._found = {}

    def find(self, public_name: str) -> Row:
        """The active publication of this name.

        Raises:
            NotFoundError: there is none, or it is switched off; a stranger learns no more than that.
        """
        held = self._found.get(public_name)
        if held is None or held[1] < time.monotonic():
            memory = self._found  # of before the look-up: a change that commits meanwhile replaces it
            held = (find_publication(self._db, public_name[:100]), time.monotonic() + TTL_S)
            if len(memory) >= _MAX:
                memory.clear()
            memory[public_name[:100]] = held
        row = held[0]
        if row is None or not row["is_active"]:
            raise NotFoundError("published retriever", public_name[:100])
        return row

    def count(self, row: Mapping[str, Any], visitor: Visitor) -> None:
        """Count a request against the limits.

        Raises:
            TooManyRequestsError: with the seconds to wait.
        """
        config = row["body"]["rate_limit_config"]
        for seconds, most in limits_of(config):
            self._windows.take(row["public_id"], seconds, most, "requests to this retriever")
        if config["enabled"] and config["enable_ip_limits"]:
            most = config["max_requests_per_ip_hour"] or PER_IP_HOUR
            self._windows.take(f"{row['public_id']}\x1f{visitor.address}", 3_600, most, "requests from this address")

    def admit(self, row: Mapping[str, Any], visitor: Visitor) -> None:
        """Let a visitor in.

        Raises:
            UnauthorizedError: a key is needed or not valid, or the password is missing or wrong.
            ForbiddenError: the key is not for this origin.
            TooManyRequestsError: too many wrong passwords.
        """
        if visitor.key:
            self._check_key(row, visitor)
            return
        if row["body"].get("require_key"):
            raise UnauthorizedError("this retriever needs a key: send X-Public-API-Key")
        if row["password_hash"] and not self.knows(row, visitor):
            raise UnauthorizedError("this retriever needs its password: send X-Retriever-Password")

    def knows(self, row: Mapping[str, Any], visitor: Visitor) -> bool:
        """Whether the visitor has the password. A right one is remembered for a few minutes; wrong ones are counted.

        Raises:
            TooManyRequestsError: too many wrong ones from this address.
        """
        if not visitor.password:
            return False
        guesses = f"guess\x1f{row['public_id']}\x1f{visitor.address}"
        data = f"{row['public_id']}\x1f{row['password_hash']}\x1f{visitor.password[:1000]}"
        ticket = hashlib.blake2b(data.encode("utf-8", "surrogatepass"), key=self._pepper, digest_size=32).digest()
        if self._verified.get(ticket, 0.0) > time.monotonic():
            return True
        self._windows.take(guesses, GUESS_WINDOW_S, GUESSES, "wrong passwords", count=1)
        if not matches(visitor.password[:1000], row["password_hash"]):
            return False
        self._windows.take(guesses, GUESS_WINDOW_S, GUESSES + 1, "wrong passwords", count=-1)
        if len(self._verified) >= _MAX:
            self._verified = {}
        self._verified[ticket] = time.monotonic() + _REMEMBERED_S
        return True

    def _check_key(self, row: Mapping[str, Any], visitor: Visitor) -> None:
        found = find_retriever_key(self._db, key_hash(visitor.key))
        expired = found is not None and found["expires_at"] is not None and found["expires_at"] <= clock.now()
        if found is None or found["status"] != "active" or expired or found["retriever_id"] != row["retriever_id"]:
            raise UnauthorizedError("the key is not valid for this retriever")
        origins = found["body"]["allowed_origins"]
        if origins and not any(_is_origin(visitor.origin, allowed) for allowed in origins):
            raise ForbiddenError("the key may not be used from this origin")


def _is_origin(origin: str, allowed: str) -> bool:
    """`https://shop.example.org` exactly, or `https://*.example.org` for its subdomains."""
    if "*." not in allowed:
        return origin.lower().rstrip("/") == allowed.lower().rstrip("/")
    try:
        given, wanted = urlsplit(origin.lower()), urlsplit(allowed.lower().replace("*.", "", 1))
        same = (given.scheme, given.port) == (wanted.scheme, wanted.port)
    except ValueError:  # a port or an address that there cannot be
        return False
    return same and bool(wanted.hostname) and (given.hostname or "").endswith(f".{wanted.hostname}")


def scope_of(row: Mapping[str, Any]) -> Scope:
    return Scope(row["organization_id"], row["namespace_id"])
