"""What a route handler asks for: who calls, in which scope, and a transaction that ends before the answer is sent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import orjson
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi import Depends, Request, Response

from mediatheca.api.limits import Ticket
from mediatheca.flows.services import Services
from mediatheca.kernel.errors import FieldError, ForbiddenError, ValidationError
from mediatheca.kernel.filters import Filter, parse_filter
from mediatheca.kernel.scope import Actor, Scope
from mediatheca.stores.db.engine import ContentionError
from mediatheca.stores.db.listing import ListQuery, Page
from mediatheca.stores.db.tx import ReadTx, Tx

_JSON = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
MAX_OFFSET = 10_000
MAX_SEARCH = 1000
MAX_SORT_KEYS = 10
MAX_SORT_NAME = 500
MAX_NAMES = 100
SLOW_THREADS = 32
_NUMBER = re.compile(r"[0-9]{1,18}")
"""Not `str.isdigit`, which takes digits that `int` refuses, and any number of them."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated request: actor, scope and the services of this process."""

    actor: Actor
    scope: Scope
    services: Services
    base_url: str

    @property
    def organization(self) -> Scope:
        return Scope(self.scope.organization_id)

    def need(self, permission: str) -> None:
        """Raises ForbiddenError when the key lacks a permission (`read`, `write`, `delete`, `admin`)."""
        if permission not in self.actor.permissions:
            raise ForbiddenError(
                f"this key lacks the permission '{permission}' (it has: {', '.join(sorted(self.actor.permissions))})"
            )

    def absolute(self, url: str) -> str:
        """A URL of the blob store as the client can use it."""
        return self.base_url + url if url.startswith("/") else url


async def _caller(request: Request, permission: str, *, namespaced: bool) -> Caller:
    auth = request.app.state.auth
    header, name = request.headers.get("authorization"), None
    if namespaced:
        name = request.headers.get("x-namespace") or request.query_params.get("namespace")

    def look_up() -> tuple[Actor, Scope]:
        actor = auth.actor(header)
        return actor, auth.namespace(actor, name) if namespaced else Scope(actor.organization_id)

    # From memory on the event loop; a trip to the database in a thread, so that a slow one stops nobody else.
    actor, scope = look_up() if auth.remembers(header, name) else await to_thread.run_sync(look_up)
    ticket: Ticket | None = getattr(request.state, "ticket", None)
    if ticket is not None:
        ticket.admit(actor.key_id)
    services: Services = request.app.state.services
    base = services.settings.public_url.rstrip("/") or str(request.base_url).rstrip("/")
    caller = Caller(actor, scope, services, base)
    caller.need(permission)
    request.state.scope = scope
    return caller


# `async def`: a plain function would cost a trip through the thread pool.
async def _reader(request: Request) -> Caller:
    return await _caller(request, "read", namespaced=True)


async def _writer(request: Request) -> Caller:
    return await _caller(request, "write", namespaced=True)


async def _deleter(request: Request) -> Caller:
    return await _caller(request, "delete", namespaced=True)


async def _org_reader(request: Request) -> Caller:
    return await _caller(request, "read", namespaced=False)


async def _org_writer(request: Request) -> Caller:
    return await _caller(request, "write", namespaced=False)


async def _org_deleter(request: Request) -> Caller:
    return await _caller(request, "delete", namespaced=False)


async def _admin(request: Request) -> Caller:
    return await _caller(request, "admin", namespaced=False)


Reader = Annotated[Caller, Depends(_reader)]
Writer = Annotated[Caller, Depends(_writer)]
Deleter = Annotated[Caller, Depends(_deleter)]
OrgReader = Annotated[Caller, Depends(_org_reader)]
OrgWriter = Annotated[Caller, Depends(_org_writer)]
OrgDeleter = Annotated[Caller, Depends(_org_deleter)]
Admin = Annotated[Caller, Depends(_admin)]


def _read_tx(caller: Reader) -> Iterator[ReadTx]:
    with caller.services.db.read(caller.scope) as tx:
        yield tx


def _begin(request: Request, caller: Caller, scope: Scope) -> Iterator[Tx]:
    try:
        with caller.services.db.begin(scope, caller.actor.key_id) as tx:
            yield tx
    except ContentionError:
        request.state.rerun = True  # all that the request did is undone: the front door runs it again
        raise


def _write_tx(request: Request, caller: Writer) -> Iterator[Tx]:
    yield from _begin(request, caller, caller.scope)


def _delete_tx(request: Request, caller: Deleter) -> Iterator[Tx]:
    yield from _begin(request, caller, caller.scope)


def _org_read_tx(caller: OrgReader) -> Iterator[ReadTx]:
    with caller.services.db.read(caller.organization) as tx:
        yield tx


def _org_write_tx(request: Request, caller: OrgWriter) -> Iterator[Tx]:
    yield from _begin(request, caller, caller.organization)


def _org_delete_tx(request: Request, caller: OrgDeleter) -> Iterator[Tx]:
    yield from _begin(request, caller, caller.organization)


def _admin_tx(request: Request, caller: Admin) -> Iterator[Tx]:
    yield from _begin(request, caller, caller.organization)


# scope="function": the transaction commits before the response is sent, not after.
Read = Annotated[ReadTx, Depends(_read_tx, scope="function")]
Write = Annotated[Tx, Depends(_write_tx, scope="function")]
Delete = Annotated[Tx, Depends(_delete_tx, scope="function")]
OrgRead = Annotated[ReadTx, Depends(_org_read_tx, scope="function")]
OrgWrite = Annotated[Tx, Depends(_org_write_tx, scope="function")]
OrgDelete = Annotated[Tx, Depends(_org_delete_tx, scope="function")]
AdminWrite = Annotated[Tx, Depends(_admin_tx, scope="function")]


async def _raw(request: Request) -> bytes:
    return await request.body()


Raw = Annotated[bytes, Depends(_raw)]
"""The request body as it came: for bodies whose keys are data, and for large ones, parsed off the event loop."""


def json_body(raw: bytes) -> dict[str, Any]:
    """A JSON object; an empty body is an empty object.

    Raises:
        ValidationError: it is not JSON, or not an object.
    """
    try:
        body = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError as error:
        raise ValidationError.at(("body",), f"is not JSON: {error}", "json_invalid") from error
    if not isinstance(body, dict):
        raise ValidationError.at(("body",), f"must be an object, got {type(body).__name__}", "dict_type")
    return body


def names_in(body: Mapping[str, Any], key: str) -> list[str]:
    """What a body's key names: a string, or a list of a few; none when it is missing or empty.

    Raises:
        ValidationError: it is anything else.
    """
    given = body.get(key)
    names = given if isinstance(given, list) else [] if given is None else [given]
    if not all(isinstance(name, str) for name in names) or len(names) > MAX_NAMES:
        message = f"must be a string or a list of at most {MAX_NAMES} strings"
        raise ValidationError.at(("body", key), message, "string_type")
    return [name for name in names if name]


_slow: RunVar[CapacityLimiter] = RunVar("mediatheca_slow_threads")


async def in_slow_thread(work: Callable[[], T]) -> T:
    """Run what may wait long (a fetch, a large body) in threads of its own, so that quick requests keep theirs."""
    try:
        limiter = _slow.get()
    except LookupError:
        limiter = CapacityLimiter(SLOW_THREADS)
        _slow.set(limiter)
    return await to_thread.run_sync(work, limiter=limiter)


def answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response, past FastAPI's own serialisation: datetimes as ISO-8601 with `Z`."""
    try:
        body = orjson.dumps(data, option=_JSON)
    except orjson.JSONEncodeError:
        body = orjson.dumps(_speakable(data), option=_JSON)
    return Response(body, status, dict(headers or {}), "application/json")


def _speakable(data: Any) -> Any:
    """The same with `?` for what UTF-8 has no form of: a lone surrogate that a caller sent and an error repeats."""
    if isinstance(data, str):
        return data.encode("utf-8", "replace").decode()
    if isinstance(data, Mapping):
        return {_speakable(key): _speakable(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_speakable(value) for value in data]
    return data


def deleted(kind: str, ident: str, **extra: Any) -> Response:
    """The body of a successful DELETE that answers 200."""
    return answer({"success": True, "message": f"{kind} '{ident}' deleted", **extra})


async def _list_query(request: Request) -> ListQuery:
    body: Any = {}
    if request.method == "POST" and (raw := await request.body()):
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise ValidationError.at(("body",), f"is not JSON: {error}", "json_invalid") from error
    if not isinstance(body, dict):
        raise ValidationError.at(("body",), "must be an object", "dict_type")
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
