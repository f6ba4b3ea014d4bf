"""Requests a minute and key: a token bucket in memory, so that the hot path pays a dict look-up."""

from __future__ import annotations

import hashlib
import time

from mediatheca.kernel.errors import TooManyRequestsError

_MAX_KEYS = 10_000


class RateLimiter:
    """`rpm` tokens, refilled evenly; the burst is a whole minute's worth."""

    def __init__(self, rpm: int) -> None:
        self._rpm = rpm
        self._buckets: dict[bytes, tuple[float, float]] = {}

    def take(self, key: bytes) -> list[tuple[bytes, bytes]]:
        """Take one token; gives the X-RateLimit headers.

        Raises:
            TooManyRequestsError: with the seconds to wait.
        """
        now = time.monotonic()
        name = hashlib.blake2b(key, digest_size=16).digest()
        tokens, before = self._buckets.get(name, (float(self._rpm), now))
        tokens = min(float(self._rpm), tokens + (now - before) * self._rpm / 60)
        if tokens < 1:
            raise TooManyRequestsError(
                f"more than {self._rpm} requests a minute with this key", (1 - tokens) * 60 / self._rpm
            )
        if len(self._buckets) >= _MAX_KEYS:
            self._buckets = {}
        self._buckets[name] = (tokens - 1, now)
        reset = (self._rpm - tokens + 1) * 60 / self._rpm
        return [
            (b"x-ratelimit-limit", str(self._rpm).encode()),
            (b"x-ratelimit-remaining", str(int(tokens - 1)).encode()),
            (b"x-ratelimit-reset", str(int(reset) + 1).encode()),
            (b"x-ratelimit-window", b"60"),
        ]
