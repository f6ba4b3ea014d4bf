"""What a route handler asks for: who calls, in which scope, and a transaction that ends before the answer is sent.

And how it gives its answer. Lists are read and answered by `lists`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import orjson
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi import Depends, Request, Response

from mediatheca.api.limits import Ticket
from mediatheca.flows.services import Services
from mediatheca.kernel.errors import ForbiddenError, ValidationError
from mediatheca.kernel.scope import Actor, Scope
from mediatheca.stores.db.engine import ContentionError
from mediatheca.stores.db.tx import ReadTx, Tx

_JSON = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
MAX_NAMES = 100
SLOW_THREADS = 32
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

    def signed(self, key: str, content_type: str | None = None) -> str:
        """A URL to read a stored file by, good for one to two hours; the same within an hour, so that ETags stay."""
        lifetime = 7200 - int(time.time()) % 3600
        return self.absolute(self.services.blobs.sign("GET", key, expires_s=lifetime, content_type=content_type))


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


def _with(permission: str, *, namespaced: bool = True) -> Callable[[Request], Awaitable[Caller]]:
    # `async def`: a plain function would cost a trip through the thread pool.
    async def caller(request: Request) -> Caller:
        return await _caller(request, permission, namespaced=namespaced)

    return caller


Reader = Annotated[Caller, Depends(_with("read"))]
Writer = Annotated[Caller, Depends(_with("write"))]
Deleter = Annotated[Caller, Depends(_with("delete"))]
OrgReader = Annotated[Caller, Depends(_with("read", namespaced=False))]
OrgWriter = Annotated[Caller, Depends(_with("write", namespaced=False))]
OrgDeleter = Annotated[Caller, Depends(_with("delete", namespaced=False))]
Admin = Annotated[Caller, Depends(_with("admin", namespaced=False))]


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
    """A JSON response, past FastAPI's own serialisation."""
    return Response(json_bytes(data), status, dict(headers or {}), "application/json")


def json_bytes(data: Any) -> bytes:
    """What is sent for it: datetimes as ISO-8601 with `Z`."""
    try:
        return orjson.dumps(data, option=_JSON)
    except orjson.JSONEncodeError:
        return orjson.dumps(_speakable(data), option=_JSON)


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
