"""Results that may be shown again: whole rankings, and the hits behind chosen stages.

A key holds everything that decides a result: the compiled stages, the inputs, the filters, the principal, and a version
of every collection that moves with every change of its index. Degraded results, and ones that something outside or
random had a part in, are never kept. What is kept are hits, not answers: URLs are signed after the cache.
"""

from __future__ import annotations

import difflib
import math
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Generic, Protocol, TypeVar

import orjson
import pydantic
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from mediatheca.kernel.errors import FieldError, ValidationError
from mediatheca.kernel.search import Hit
from mediatheca.stages import CacheBehavior, CacheParams

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
    exclude: tuple[str, ...] = ()
    """Fields of documents that are never kept; they are read again for every answer."""
    whole: bool = True
    """Whole rankings are kept."""

    def within(self, stages: Sequence[Cached]) -> CachePolicy:
        """The policy for a retriever of these stages, which may keep less, shorter, or more than was named."""
        eager = frozenset(stage.name for stage in stages if stage.caching.eager)
        return replace(
            self,
            ttl_s=min([self.ttl_s, *(stage.caching.ttl_s for stage in stages)]),
            stages=self.stages if self.exclude else self.stages | eager,
            whole=all(stage.caching.may_keep for stage in stages),
        )


class CacheConfig(BaseModel):
    """The `cache_config` of a retriever on the wire."""

    model_config = ConfigDict(extra="forbid")

    enabled: StrictBool = True
    ttl_seconds: float = Field(DEFAULT_TTL_S, gt=0, le=MAX_TTL_S, allow_inf_nan=False, strict=True)
    cache_stage_names: list[str] = Field([], max_length=100)
    exclude_fields: list[Annotated[str, Field(min_length=1, max_length=512)]] = Field([], max_length=100)
    stats: Any = Field(None, description="Shown by servers, and not read.")


def cache_policy(raw: Mapping[str, Any] | None, stages: Sequence[Cached] = ()) -> CachePolicy | None:
    """The `cache_config` of a retriever with these stages; None when it has none or switches it off.

    Raises:
        ValidationError: a key or a stage is not known, or a value has the wrong type or is out of range.
    """
    if raw is None:
        return None
    config = _config(raw)
    known = {stage.name for stage in stages}
    for name in config.cache_stage_names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            message = f"'{name[:100]}' is not a stage of this retriever; {hint}stages: {', '.join(sorted(known))}"
            raise ValidationError.at("cache_config.cache_stage_names", message, "unknown")
    if config.exclude_fields and config.cache_stage_names:
        message = "cannot be combined with cache_stage_names: what is kept behind a stage is kept whole"
        raise ValidationError.at("cache_config.exclude_fields", message, "conflict")
    if not config.enabled:
        return None
    return CachePolicy(
        config.ttl_seconds, frozenset(config.cache_stage_names), tuple(dict.fromkeys(config.exclude_fields))
    )


def _config(raw: Mapping[str, Any]) -> CacheConfig:
    given = {key: value for key, value in raw.items() if value is not None}
    try:
        return CacheConfig.model_validate(given)
    except pydantic.ValidationError as error:
        found = [_told(entry) for entry in error.errors(include_url=False, include_context=False)]
        raise ValidationError.of(found) from error


def _told(entry: Any) -> FieldError:
    place = ("cache_config", *entry["loc"])
    if entry["type"] != "extra_forbidden":
        return FieldError(place, f"{entry['msg']}, got {repr(entry['input'])[:100]}", entry["type"])
    close = difflib.get_close_matches(str(place[-1])[:100], CacheConfig.model_fields, 1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return FieldError(place, f"is not known; {hint}accepted: {', '.join(CacheConfig.model_fields)}", entry["type"])


@dataclass(frozen=True, slots=True)
class StageCaching:
    """How the result of one stage may be kept."""

    behavior: CacheBehavior = "auto"
    ttl_s: float = math.inf

    @property
    def may_keep(self) -> bool:
        return self.behavior != "disabled" and self.ttl_s > 0

    @property
    def eager(self) -> bool:
        """It is kept without being named, and whatever had a part in it."""
        return self.behavior == "aggressive" and self.ttl_s > 0


AUTO = StageCaching()
"""Of a stage that says nothing."""


class Cached(Protocol):
    """A stage, as far as keeping its result goes."""

    @property
    def name(self) -> str: ...

    @property
    def caching(self) -> StageCaching: ...


def take_caching(raw: dict[str, Any]) -> StageCaching:
    """Read, and take out, what the parameters of a stage say about keeping its result.

    Raises:
        ValidationError: a value is not accepted, or is a template: they are fixed when the retriever is made.
    """
    given = {name: value for name in CacheParams.model_fields if (value := raw.pop(name, None)) is not None}
    if not given:
        return AUTO
    try:
        made = CacheParams.model_validate(given)
    except pydantic.ValidationError as error:
        name, entry = str(error.errors()[0]["loc"][0]), error.errors()[0]
        raise ValidationError.at(name, f"{entry['msg']} (got {given[name]!r})", entry["type"]) from error
    ttl = math.inf if made.cache_ttl_seconds is None else float(made.cache_ttl_seconds)
    return StageCaching(made.cache_behavior, ttl)


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

    def forget(self, owner: str) -> None:
        """Drop what was kept for a namespace: keys begin with it."""
        for key in [key for key in list(self._held) if key.startswith(f"{owner} ")]:
            self._drop(key)

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
