"""How a list is asked for and answered: paging, filter, search and sort in every spelling that clients use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import orjson
from fastapi import Depends, Request

from mediatheca.api.deps import json_body
from mediatheca.kernel.errors import FieldError, ValidationError
from mediatheca.kernel.filters import Filter, parse_filter
from mediatheca.stores.db.listing import ListQuery, Page

MAX_OFFSET = 10_000
MAX_SEARCH = 1000
MAX_SORT_KEYS = 10
MAX_SORT_NAME = 500
_NUMBER = re.compile(r"[0-9]{1,18}")
"""Not `str.isdigit`, which takes digits that `int` refuses, and any number of them."""


async def _list_query(request: Request) -> ListQuery:
    body = json_body(await request.body()) if request.method == "POST" else {}
    return list_query({**request.query_params, **body})


Listed = Annotated[ListQuery, Depends(_list_query)]


def list_query(raw: Mapping[str, Any]) -> ListQuery:
    """Paging, filter, search and sort in every spelling: `limit|page_size`, `offset|page`, `cursor|next_cursor|after`.

    Raises:
        ValidationError: naming each offending key.
    """
    errors: list[FieldError] = []
    limit = _number(raw, errors, ("limit", "page_size"), 1, 1000, 20)
    skipped = (_number(raw, errors, ("page",), 1, 10**6, 1) - 1) * limit
    offset = _number(raw, errors, ("offset",), 0, MAX_OFFSET, skipped)
    cursor = next((raw[name] for name in ("cursor", "next_cursor", "after") if raw.get(name)), None)
    sort = _sort(raw, errors)
    search = raw.get("search")
    if search is not None and not (isinstance(search, str) and len(search) <= MAX_SEARCH and "\0" not in search):
        message = f"must be a string of at most {MAX_SEARCH} characters, without NUL"
        errors.append(FieldError(("search",), message, "string_type"))
    if errors:
        raise ValidationError("; ".join(f"{error.loc[0]}: {error.msg}" for error in errors), errors)
    total = str(raw.get("include_total", True)).lower() != "false"
    return ListQuery(limit, offset, str(cursor) if cursor else None, search or None, _filter(raw), sort, total)


def _number(
    raw: Mapping[str, Any], errors: list[FieldError], names: Sequence[str], low: int, high: int, default: int
) -> int:
    """The first of `names` that is given; what is no such number is an error."""
    for name in names:
        value = raw.get(name)
        if value is None or value == "":
            continue
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            shown = repr(value)[:40]
            errors.append(FieldError((name,), f"must be an integer from {low} to {high}, got {shown}", "int"))
            return default
        return value
    return default


def _filter(raw: Mapping[str, Any]) -> Filter | None:
    filters = raw.get("filters")
    if isinstance(filters, str):
        try:
            filters = orjson.loads(filters)
        except orjson.JSONDecodeError as error:
            raise ValidationError.at("filters", f"is not JSON: {error}", "json_invalid") from error
    return parse_filter(filters, case_sensitive=raw.get("case_sensitive") is True) if filters else None


def _sort(raw: Mapping[str, Any], errors: list[FieldError]) -> tuple[tuple[str, bool], ...]:
    given = raw.get("sorts") or raw.get("sort") or []
    if isinstance(given, str):
        given = [{"field": given.lstrip("-"), "direction": "desc" if given.startswith("-") else "asc"}]
    found = []
    given = given if isinstance(given, list) else [given]
    if len(given) > MAX_SORT_KEYS:
        errors.append(FieldError(("sort",), f"has {len(given)} fields; at most {MAX_SORT_KEYS}", "too_long"))
        return ()
    for number, entry in enumerate(given):
        if not isinstance(entry, dict) or not _is_sort_name(entry.get("field")):
            message = f"must be {{field, direction}}; a field has 1 to {MAX_SORT_NAME} characters, without NUL"
            errors.append(FieldError(("sort", number), message, "sort"))
            continue
        direction = str(entry.get("direction") or entry.get("order") or "asc").lower()
        if direction not in ("asc", "desc"):
            errors.append(FieldError(("sort", number, "direction"), f"must be asc or desc, got '{direction}'", "enum"))
        found.append((entry["field"], direction == "desc"))
    return tuple(found)


def _is_sort_name(name: Any) -> bool:
    return isinstance(name, str) and 1 <= len(name) <= MAX_SORT_NAME and "\0" not in name


def listed(page: Page, results: list[dict[str, Any]], **extra: Any) -> dict[str, Any]:
    """The union of every list shape clients read."""
    number = page.offset // page.limit + 1
    pages = None if page.total is None else max(1, -(-page.total // page.limit))
    following = number + 1 if page.next_cursor else None
    return {
        "results": results,
        "pagination": {
            "total": page.total,
            "page": number,
            "page_size": page.limit,
            "total_pages": pages,
            "next_page": str(following) if following else None,
            "previous_page": str(number - 1) if number > 1 else None,
            "next_cursor": page.next_cursor,
            "has_more": page.next_cursor is not None,
        },
        "total_count": page.total if page.total is not None else len(results),
        "total": page.total if page.total is not None else len(results),
        "offset": page.offset,
        "limit": page.limit,
        "stats": {},
        **extra,
    }
