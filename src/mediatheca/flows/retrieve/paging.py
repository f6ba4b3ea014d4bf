"""Pages of a result. Every way of paging reads the same remembered ranking: a cursor names it, an offset and a keyset
continue the last one that the same asker was shown for the same query."""

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
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import orjson

from mediatheca.flows.retrieve.request import MAX_PAGE, ExecuteRequest
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.hits import number
from mediatheca.kernel.ordering import SortKey, read_field, sort_hits
from mediatheca.kernel.search import Hit

Method: TypeAlias = Literal["cursor", "offset", "scroll", "keyset"]
DEFAULT_PAGE = 10
MAX_OFFSET = 10_000
TTL_S = 15 * 60
MAX_ENTRIES = 200_000
"""Results remembered over all rankings, and three for each ranking; the oldest rankings go first."""


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
    asker: str = ""

    @property
    def total(self) -> int:
        return len(self.references) if self.hits is None else len(self.hits)

    @property
    def weight(self) -> int:
        return (self.total if self.hits is None else self.total * 10) + 3

    def identities(self) -> list[tuple[str, str]]:
        """Collection and document id of every result, deleted ones too."""
        if self.hits is not None:
            return [(hit.collection_id, hit.document_id) for hit in self.hits]
        return [reference[:2] for reference in self.references]

    def add(self, hits: Sequence[Hit]) -> None:
        """More results at the end."""
        if self.hits is not None:
            self.hits.extend(hits)
        else:
            self.references.extend(_references(hits))


def _references(hits: Sequence[Hit]) -> list[Reference]:
    return [(hit.collection_id, hit.document_id, hit.score, hit.scores) for hit in hits]


class Snapshots:
    """Rankings remembered for 15 minutes, in memory. Cursors are signed and bound to one query."""

    def __init__(self, key: bytes, *, max_entries: int = MAX_ENTRIES) -> None:
        self._key = key
        self._max_entries = max_entries
        self._entries = 0
        self._held: OrderedDict[str, Snapshot] = OrderedDict()
        self._latest: dict[tuple[str, str], str] = {}

    def keep(self, key: str, hits: Sequence[Hit], extra: dict[str, Any], *, whole: bool, asker: str = "") -> str:
        """Remember a ranking as the latest of a query and asker; returns its id."""
        references = [] if whole else _references(hits)
        snapshot = Snapshot(key, references, list(hits) if whole else None, extra, asker=asker)
        ident = secrets.token_urlsafe(12)
        self._held[ident] = snapshot
        self._latest[key, asker] = ident
        self._entries += snapshot.weight
        self._drop_old()
        return ident

    def extend(self, ident: str, hits: Sequence[Hit]) -> None:
        """Put results behind the last one of a ranking."""
        snapshot = self._held.get(ident)
        if snapshot is not None:
            self._entries -= snapshot.weight
            snapshot.add(hits)
            self._entries += snapshot.weight
            self._drop_old()

    def _drop_old(self) -> None:
        oldest_allowed = time.monotonic() - TTL_S
        while len(self._held) > 1:
            first = next(iter(self._held.values()))
            if self._entries <= self._max_entries and first.made >= oldest_allowed:
                return
            ident, dropped = self._held.popitem(last=False)
            self._entries -= dropped.weight
            if self._latest.get((dropped.key, dropped.asker)) == ident:
                del self._latest[dropped.key, dropped.asker]

    def find(self, ident: str) -> Snapshot | None:
        """The ranking, None when it has expired."""
        snapshot = self._held.get(ident)
        return snapshot if snapshot is not None and snapshot.made >= time.monotonic() - TTL_S else None

    def latest(self, key: str, asker: str) -> tuple[str, Snapshot] | None:
        """The last ranking that an asker was shown for a query, with its id; None when there is none any more."""
        ident = self._latest.get((key, asker))
        snapshot = None if ident is None else self.find(ident)
        return None if ident is None or snapshot is None else (ident, snapshot)

    def forget(self, owner: str) -> None:
        """Drop the rankings that were shown in a namespace: askers begin with it."""
        for ident in [ident for ident, held in list(self._held.items()) if held.asker.startswith(f"{owner} ")]:
            dropped = self._held.pop(ident, None)
            if dropped is None:  # its time was over this moment
                continue
            self._entries -= dropped.weight
            self._latest.pop((dropped.key, dropped.asker), None)

    def cursor(self, ident: str, position: int, key: str) -> str:
        body = orjson.dumps([ident, position, key])
        return _text(self._sign(body) + body)

    def read(self, cursor: str, key: str, place: str = "cursor") -> tuple[str, int]:
        """Ranking id and position of a cursor.

        Raises:
            ValidationError: it was not made here, or for another query.
        """
        try:
            content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            # One spelling only: base64 reads `+` as `-`, and does not look at the last bits.
            if _text(content) != cursor or not hmac.compare_digest(content[:16], self._sign(content[16:])):
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


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def mark_of(hit: Hit, position: int, keys: Sequence[SortKey], ranking: str) -> dict[str, Any]:
    """What a keyset page ends with: `after` of the next request.

    Args:
        position: how many results there are up to this one.
        ranking: a cursor behind it.
    """
    mark = {"score": hit.score, "id": hit.document_id, "collection_id": hit.collection_id, "position": position}
    if keys:
        mark["sort"] = [read_field(hit, key.field) for key in keys]
    return {**mark, "ranking": ranking}


def place_of(identities: Sequence[tuple[str, str]], after: dict[str, Any]) -> int | None:
    """Where a keyset page begins, when the marked document is in the ranking."""
    ident, collection = after.get("id", after.get("document_id")), after.get("collection_id")
    for place, (collection_id, document_id) in enumerate(identities):
        if document_id == ident and collection in (None, collection_id):
            return place + 1
    return None


def position_after(hits: Sequence[Hit], after: dict[str, Any], keys: Sequence[SortKey] = ()) -> int:
    """Where a keyset page begins in a ranking that was made anew: behind the marked document, or, when it is gone,
    behind everything that its sort keys, or else its score, put before it.

    Raises:
        ValidationError: the mark is not in the ranking and does not say where it stood.
    """
    place = place_of([(hit.collection_id, hit.document_id) for hit in hits], after)
    if place is not None:
        return place
    low, high = _between(hits, after, keys)
    said = after.get("position")
    if isinstance(said, int) and not isinstance(said, bool):
        return min(max(said, low), high)
    ident = str(after.get("id", after.get("document_id")))
    return low + sum(hit.document_id <= ident for hit in hits[low:high])


def _between(hits: Sequence[Hit], after: dict[str, Any], keys: Sequence[SortKey]) -> tuple[int, int]:
    """The first and the last place at which the mark may have stood."""
    score, values = number(after.get("score")), after.get("sort")
    if keys and isinstance(values, list) and len(values) == len(keys):
        payload = {key.field: value for key, value in zip(keys, values, strict=True)}
        mark = Hit("", "", score or 0.0, payload, {})
        low, high = (sort_hits(order, keys) for order in ([mark, *hits], [*hits, mark]))
        return _index(low, mark), _index(high, mark)
    if score is None:
        message = "needs the score and id of the last result seen; take pagination.after of the previous answer"
        raise ValidationError.at("pagination.after", message, "keyset")
    if any(first.score < second.score for first, second in pairwise(hits)):
        return 0, len(hits)  # not in the order of scores: only the position can tell
    return sum(hit.score > score for hit in hits), sum(hit.score >= score for hit in hits)


def _index(hits: Sequence[Hit], wanted: Hit) -> int:
    return next(place for place, hit in enumerate(hits) if hit is wanted)
