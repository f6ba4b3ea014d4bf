"""Results that may be shown again: whole rankings, and the hits behind chosen stages.

A key holds everything that decides a result: the compiled stages, the inputs, the filters, the principal, and a version
of every collection that moves with every change of its index. Degraded results, and ones that something outside or
random had a part in, are never kept. What is kept are hits, not answers: URLs are signed after the cache.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.search import Hit

DEFAULT_TTL_S = 3600.0
MAX_TTL_S = 7 * 24 * 3600.0
MAX_ENTRY_BYTES = 1 << 20
MAX_BYTES = 64 << 20

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """What a retriever lets be kept."""

    ttl_s: float = DEFAULT_TTL_S
    stages: frozenset[str] = frozenset()
    """Names of stages whose result is kept as well, for requests that differ only in what comes after."""


def cache_policy(raw: Mapping[str, Any] | None) -> CachePolicy | None:
    """The `cache_config` of a retriever; None when it has none or switches it off.

    Raises:
        ValidationError: a value has the wrong type or is out of range.
    """
    if raw is None or raw.get("enabled") is False:
        return None
    ttl = raw.get("ttl_seconds")
    ttl = DEFAULT_TTL_S if ttl is None else ttl
    if not isinstance(ttl, int | float) or isinstance(ttl, bool) or not 0 < ttl <= MAX_TTL_S:
        message = f"must be a number of seconds up to {MAX_TTL_S:g}, got {ttl!r}"
        raise ValidationError.at("cache_config.ttl_seconds", message, "range")
    names = raw.get("cache_stage_names") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValidationError.at("cache_config.cache_stage_names", "must be a list of stage names", "list_type")
    return CachePolicy(float(ttl), frozenset(names))


@dataclass(frozen=True, slots=True)
class Kept(Generic[V]):
    """A cached value. `made`: Unix time."""

    value: V
    made: float
    expires: float
    size: int


class ResultCache(Generic[V]):
    """Least recently used first out, bounded by bytes of payload. One per process; used on the event loop only."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._held: OrderedDict[str, Kept[V]] = OrderedDict()

    def find(self, key: str) -> Kept[V] | None:
        kept = self._held.get(key)
        if kept is None:
            return None
        if kept.expires < time.time():
            self._drop(key)
            return None
        self._held.move_to_end(key)
        return kept

    def keep(self, key: str, value: V, size: int, ttl_s: float) -> None:
        if size > MAX_ENTRY_BYTES:
            return
        self._drop(key)
        now = time.time()
        self._held[key] = Kept(value, now, now + ttl_s, size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._held)))

    def clear(self) -> None:
        self._held.clear()
        self._bytes = 0

    def _drop(self, key: str) -> None:
        kept = self._held.pop(key, None)
        if kept is not None:
            self._bytes -= kept.size


def size_of(hits: list[Hit]) -> int:
    """Bytes that hits take, about: their payloads as JSON."""
    option = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    return len(orjson.dumps([(hit.payload, hit.scores) for hit in hits], default=repr, option=option)) + 200 * len(hits)
