"""Requests a minute: by key once a key has proved valid, by address before. Token buckets in memory, all bounded.

A stranger can make up any number of keys: what is remembered of a request that did not prove a key is its address, and
a key that has proved itself pays from a bucket of its own, whatever strangers at the same address do.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from mediatheca.kernel.errors import TooManyRequestsError

MAX_REMEMBERED = 10_000
"""Addresses, and keys: the one that was idle longest is forgotten first, and its bucket has refilled meanwhile."""
_HOME_BITS = 64
"""One subscriber has that many bits of an IPv6 address at will."""


class _Buckets:
    """`rpm` tokens each, refilled evenly; the burst is a whole minute's worth."""

    def __init__(self, rpm: int, clock: Callable[[], float]) -> None:
        self._rpm, self._clock = float(rpm), clock
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Take one token. Gives what is left; negative, without taking, when there was no whole one."""
        now = self._clock()
        tokens, before = self._held.get(name, (self._rpm, now))
        tokens = min(self._rpm, tokens + (now - before) * self._rpm / 60) - 1
        if tokens >= 0:
            self._put(name, tokens, now)
        return tokens

    def give_back(self, name: str) -> None:
        tokens, before = self._held.get(name, (self._rpm, self._clock()))
        self._put(name, min(self._rpm, tokens + 1), before)

    def _put(self, name: str, tokens: float, moment: float) -> None:
        self._held[name] = (tokens, moment)
        self._held.move_to_end(name)
        if len(self._held) > MAX_REMEMBERED:
            self._held.popitem(last=False)


class Ticket:
    """What one request has paid so far."""

    def __init__(self, limiter: RateLimiter, left: float, address: str = "", digest: str = "") -> None:
        self._limiter, self._left = limiter, left
        self._address, self._digest = address, digest

    def admit(self, key_id: str) -> None:
        """The key has proved valid: it pays instead of the address, now and with its next requests.

        Raises:
            TooManyRequestsError: the key has nothing left.
        """
        if self._address:
            self._limiter.refund(self._address)
            self._left = self._limiter.prove(self._digest, key_id)
            self._address = ""

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The X-RateLimit headers."""
        rpm = self._limiter.rpm
        return [
            (b"x-ratelimit-limit", str(rpm).encode()),
            (b"x-ratelimit-remaining", str(int(self._left)).encode()),
            (b"x-ratelimit-reset", str(math.ceil((rpm - self._left) * 60 / rpm)).encode()),
            (b"x-ratelimit-window", b"60"),
        ]


class RateLimiter:
    """Hands out tickets. Used on the event loop only."""

    def __init__(self, rpm: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rpm = rpm
        self._keys, self._addresses = _Buckets(rpm, clock), _Buckets(rpm, clock)
        self._proved: OrderedDict[str, str] = OrderedDict()
        """Key ids by the digest of keys that have been valid. One that is revoked goes on paying for its requests."""

    def take(self, digest: str, address: str) -> Ticket:
        """Pay for a request: `digest` is that of the key it carries ("" for none), `address` is where it comes from.

        Raises:
            TooManyRequestsError: with the seconds to wait.
        """
        key_id = self._proved.get(digest)
        if key_id is not None:
            self._proved.move_to_end(digest)
            return Ticket(self, self._pay(self._keys, key_id, "with this key"))
        home = _home(address)
        left = self._pay(self._addresses, home, "without a valid key from this address")
        return Ticket(self, left, home, digest)

    def knows(self, digest: str) -> bool:
        """Whether this key has been valid: then it paid for itself, not its address."""
        return digest in self._proved

    def vouched(self, digest: str, key_id: str) -> Ticket:
        """The ticket of a valid key at an address that has nothing left.

        Raises:
            TooManyRequestsError: the key has nothing left either.
        """
        return Ticket(self, self.prove(digest, key_id))

    def refund(self, home: str) -> None:
        """The address paid for what is a key's to pay."""
        self._addresses.give_back(home)

    def prove(self, digest: str, key_id: str) -> float:
        """Remember a valid key, and let it pay. Gives what it has left."""
        self._proved[digest] = key_id
        if len(self._proved) > MAX_REMEMBERED:
            self._proved.popitem(last=False)
        return self._pay(self._keys, key_id, "with this key")

    def _pay(self, buckets: _Buckets, name: str, whose: str) -> float:
        left = buckets.take(name)
        if left < 0:
            raise TooManyRequestsError(f"more than {self.rpm} requests a minute {whose}", -left * 60 / self.rpm)
        return left


def _home(address: str) -> str:
    """What one subscriber cannot change of an address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a socket that is no network's
        return address or "local"
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((parsed, _HOME_BITS), strict=False))
