"""Pages of a result: by offset, by signed cursor over a remembered ranking, by keyset."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import orjson

from mediatheca.flows.retrieve.request import MAX_PAGE, ExecuteRequest
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.search import Hit

Method: TypeAlias = Literal["cursor", "offset", "scroll", "keyset"]
DEFAULT_PAGE = 10
MAX_OFFSET = 10_000
TTL_S = 15 * 60
MAX_ENTRIES = 200_000
"""Results remembered over all rankings; the oldest rankings go first."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The page asked for. `limit` None: the default of the retriever."""

    method: Method = "cursor"
    limit: int | None = None
    offset: int = 0
    cursor: str | None = None
    after: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()


def page_request(request: ExecuteRequest) -> PageRequest:
    """One page out of the five ways to say it: pagination > limit > page_size > settings.limit.

    Raises:
        ValidationError: a number is out of range, or the method is unknown.
    """
    settings = request.settings or {}
    said = [request.limit, request.page_size, _number(settings, "limit", "settings", 1, MAX_PAGE)]
    limit = next((value for value in said if value is not None), None)
    warnings = []
    if len({value for value in said if value is not None}) > 1:
        warnings.append(f"several page sizes were given; limit {limit} was used (limit > page_size > settings.limit)")
    if request.pagination:
        if limit is not None or request.offset is not None or request.page is not None:
            warnings.append("pagination was given beside limit, page_size, offset or page; pagination was used")
        return _explicit(request.pagination, tuple(warnings))
    offset = request.offset if request.offset is not None else _number(settings, "offset", "settings", 0, MAX_OFFSET)
    if request.page is not None and offset is None:
        offset = (request.page - 1) * (limit or DEFAULT_PAGE)
    if request.cursor is None and offset is not None:
        return PageRequest("offset", limit, _checked(offset, "page"), warnings=tuple(warnings))
    return PageRequest("cursor", limit, 0, request.cursor, warnings=tuple(warnings))


def _explicit(raw: dict[str, Any], warnings: tuple[str, ...]) -> PageRequest:
    method: Any = raw.get("method") or _guess(raw)
    if method not in ("cursor", "offset", "scroll", "keyset"):
        accepted = "cursor, offset, scroll, keyset"
        raise ValidationError.at("pagination.method", f"must be one of {accepted}, got {method!r}", "enum")
    ceiling = 1000 if method == "scroll" else MAX_PAGE
    limit = _number(raw, "limit", "pagination", 1, ceiling)
    limit = _number(raw, "page_size", "pagination", 1, ceiling) if limit is None else limit
    offset = _number(raw, "offset", "pagination", 0, MAX_OFFSET)
    if offset is None:
        page = _number(raw, "page_number", "pagination", 1, MAX_OFFSET) or _number(
            raw, "page", "pagination", 1, MAX_OFFSET
        )
        offset = ((page or 1) - 1) * (limit or DEFAULT_PAGE)
    cursor = raw.get("scroll_id") if method == "scroll" else raw.get("cursor")
    if cursor is not None and not isinstance(cursor, str):
        raise ValidationError.at("pagination.cursor", f"must be a text, got {cursor!r}", "string_type")
    after = raw.get("after")
    if after is not None and not isinstance(after, dict):
        raise ValidationError.at(
            "pagination.after", f"must be an object like {{score, id}}, got {after!r}", "dict_type"
        )
    return PageRequest(method, limit, _checked(offset, "pagination"), cursor, after, warnings)


def _guess(raw: dict[str, Any]) -> str:
    if any(key in raw for key in ("offset", "page_number", "page", "page_size")):
        return "offset"
    return "scroll" if "scroll_id" in raw else "keyset" if raw.get("after") else "cursor"


def _checked(offset: int, place: str) -> int:
    if offset > MAX_OFFSET:
        message = f"reaches result {offset:,}; at most {MAX_OFFSET:,} can be skipped, use cursor pagination or filters"
        raise ValidationError.at(place, message, "less_than_equal")
    return offset


def _number(raw: dict[str, Any], key: str, place: str, low: int, high: int) -> int | None:
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValidationError.at((place, key), f"must be an integer from {low} to {high:,}, got {value!r}", "int_range")
    return value


Reference: TypeAlias = tuple[str, str, float, dict[str, Any]]
"""Collection, document, score, scores: what is needed to show a result again."""


@dataclass(slots=True)
class Snapshot:
    """A ranking, as it was when its first page was shown. Documents are read again for later pages, so that a deleted
    one is gone; results that stages made are kept whole (`hits`)."""

    key: str
    references: list[Reference]
    hits: list[Hit] | None
    extra: dict[str, Any]
    made: float = field(default_factory=time.monotonic)

    @property
    def total(self) -> int:
        return len(self.references) if self.hits is None else len(self.hits)

    @property
    def weight(self) -> int:
        return self.total if self.hits is None else self.total * 10


class Snapshots:
    """Rankings remembered for 15 minutes, in memory. Cursors are signed and bound to one query."""

    def __init__(self, key: bytes, *, max_entries: int = MAX_ENTRIES) -> None:
        self._key = key
        self._max_entries = max_entries
        self._entries = 0
        self._held: OrderedDict[str, Snapshot] = OrderedDict()

    def keep(self, key: str, hits: Sequence[Hit], extra: dict[str, Any], *, whole: bool) -> str:
        """Remember a ranking; returns its id."""
        references = [] if whole else [(h.collection_id, h.document_id, h.score, h.scores) for h in hits]
        snapshot = Snapshot(key, references, list(hits) if whole else None, extra)
        ident = secrets.token_urlsafe(12)
        self._held[ident] = snapshot
        self._entries += snapshot.weight
        self._drop_old()
        return ident

    def _drop_old(self) -> None:
        oldest_allowed = time.monotonic() - TTL_S
        while len(self._held) > 1:
            first = next(iter(self._held.values()))
            if self._entries <= self._max_entries and first.made >= oldest_allowed:
                return
            self._entries -= self._held.popitem(last=False)[1].weight

    def find(self, ident: str) -> Snapshot | None:
        """The ranking, None when it has expired."""
        snapshot = self._held.get(ident)
        return snapshot if snapshot is not None and snapshot.made >= time.monotonic() - TTL_S else None

    def cursor(self, ident: str, position: int, key: str) -> str:
        body = orjson.dumps([ident, position, key])
        return base64.urlsafe_b64encode(self._sign(body) + body).decode().rstrip("=")

    def read(self, cursor: str, key: str, place: str = "cursor") -> tuple[str, int]:
        """Ranking id and position of a cursor.

        Raises:
            ValidationError: it was not made here, or for another query.
        """
        try:
            content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            if not hmac.compare_digest(content[:16], self._sign(content[16:])):
                raise ValueError
            ident, position, made_for = orjson.loads(content[16:])
        except (ValueError, binascii.Error) as error:
            message = "is not a cursor of this server; take pagination.cursor of the previous answer as it is"
            raise ValidationError.at(place, message, "cursor") from error
        if made_for != key:
            message = "belongs to another query; send the same inputs, filters and sort as for the first page"
            raise ValidationError.at(place, message, "cursor")
        return ident, position

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, hashlib.sha256)[:16]


def position_after(hits: Sequence[Hit], after: dict[str, Any]) -> int:
    """Where a keyset page begins: behind the marked document, or behind its score when it is gone."""
    ident = after.get("id", after.get("document_id"))
    for place, hit in enumerate(hits):
        if hit.document_id == ident:
            return place + 1
    score = after.get("score")
    if not isinstance(score, (int, float)):
        raise ValidationError.at("pagination.after", "needs the score and id of the last result seen", "keyset")
    return next((place for place, hit in enumerate(hits) if hit.score < score), len(hits))
