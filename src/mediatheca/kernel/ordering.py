"""Reading a field of a hit, and sorting hits by fields: one meaning for stages, requests and templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filter_tree import SYSTEM_ALIASES
from mediatheca.kernel.filter_values import fold
from mediatheca.kernel.search import FINDINGS, Hit

Direction: TypeAlias = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True)
class SortKey:
    """One field to sort by."""

    field: str
    direction: Direction = "asc"
    nulls_last: bool = True
    """Hits without the field come last in both directions; False: first for asc, last for desc."""
    ignore_case: bool = False
    """Texts are compared without regard to case."""


def read_field(hit: Hit, path: str) -> Any:
    """The value at a dotted path of a hit, None where there is none.

    `score`, `document_id`, `collection_id`, `scores.…` and `_internal.…` are the hit's own; everything else is payload,
    and where it has no value, `created_at`, `updated_at`, `source_object_id` and `root_object_id` are the system's;
    `highlights` and `query_chunks`, unless the payload has a field of that name, are what the search noted.
    A path through a list gives the list of what its elements hold.
    """
    if path in ("score", "_score"):
        return hit.score
    if path == "document_id":
        return hit.document_id
    if path == "collection_id":
        return hit.collection_id
    if path in hit.payload:
        return hit.payload[path]
    if path.startswith("_internal."):
        return _walk(hit.system, path.removeprefix("_internal.").split("."))
    if path.startswith("scores.") and "scores" not in hit.payload:
        return _walk(hit.scores, path.removeprefix("scores.").split("."))
    parts = path.split(".")
    if parts[0] in FINDINGS and parts[0] not in hit.payload:
        return _walk(hit.scores, parts)
    value = _walk(hit.payload, parts)
    return value if value is not None or path not in SYSTEM_ALIASES else hit.system.get(SYSTEM_ALIASES[path])


def _walk(value: Any, parts: list[str]) -> Any:
    for number, part in enumerate(parts):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list):
            if part.isdigit():
                value = value[int(part)] if int(part) < len(value) else None
            else:
                found = (_walk(item, parts[number:]) for item in value)
                return [item for item in found if item is not None] or None
        else:
            return None
    return value


def sort_hits(hits: Sequence[Hit], keys: Sequence[SortKey]) -> list[Hit]:
    """Sorted by the first key, then the next; equal hits keep their order. Never fails on mixed types: they are
    compared as text. Numbers by value, ISO dates by time, false before true."""
    ordered = list(hits)
    for key in reversed(keys):
        ordered = _sort_by(ordered, key)
    return ordered


def _sort_by(hits: list[Hit], key: SortKey) -> list[Hit]:
    values = [read_field(hit, key.field) for hit in hits]
    present = [(value, hit) for value, hit in zip(values, hits, strict=True) if not _is_null(value)]
    absent = [hit for value, hit in zip(values, hits, strict=True) if _is_null(value)]
    ranked = _comparable([fold(value) if key.ignore_case and isinstance(value, str) else value for value, _ in present])
    order = sorted(range(len(present)), key=ranked.__getitem__, reverse=key.direction == "desc")
    found = [present[index][1] for index in order]
    return [*absent, *found] if not key.nulls_last and key.direction == "asc" else [*found, *absent]


def _is_null(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, float) and value != value)


def _comparable(values: list[Any]) -> list[Any]:
    """The values in a form in which any two compare: numbers, times, or else text."""
    if all(isinstance(value, (int, float)) for value in values):
        return values
    if all(isinstance(value, str) for value in values):
        times = [parse_time(value) for value in values]
        return values if any(time is None for time in times) else times
    return [str(value) for value in values]


def parse_time(text: str) -> datetime | None:
    """An ISO-8601 date or time, naive ones as UTC; None when it is not one."""
    if len(text) < 10 or text[4:5] != "-":
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_sort(raw: Any, path: str = "sort") -> list[SortKey]:
    """Sort keys in every spelling of the wire: `{field, direction|order}`, `{price: "desc"}`, `"price:desc"`,
    `"-price"`, or a list of these.

    Raises:
        ValidationError: naming the entry.
    """
    if raw is None or raw in ([], {}):
        return []
    entries = raw if isinstance(raw, list) else [raw]
    return [_parse_key(entry, f"{path}.{index}") for index, entry in enumerate(entries)]


def _parse_key(raw: Any, path: str) -> SortKey:
    direction: Any = "asc"
    name: Any = raw
    if isinstance(raw, dict):
        name = raw.get("field", raw.get("sort_field"))
        direction = raw.get("direction", raw.get("order", raw.get("sort_order", "desc" if name == "score" else "asc")))
        if name is None and len(raw) == 1:
            name, direction = next(iter(raw.items()))
    elif isinstance(raw, str):
        name, _, direction = raw.lstrip("-").partition(":")
        direction = "desc" if raw.startswith("-") else direction or ("desc" if name == "score" else "asc")
    direction = {1: "asc", -1: "desc"}.get(direction, direction) if isinstance(direction, int) else direction
    if not isinstance(name, str) or not name:
        raise ValidationError.at(path, f"must be {{field, direction}}, got {raw!r}", "sort")
    if not isinstance(direction, str) or direction.lower() not in ("asc", "desc", "ascending", "descending"):
        raise ValidationError.at(path, f"the direction must be asc or desc, got {direction!r}", "sort")
    return SortKey(name, "desc" if direction.lower().startswith("desc") else "asc")
