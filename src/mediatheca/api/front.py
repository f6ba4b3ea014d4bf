"""The front door: one ASGI middleware for what holds everywhere.

Base paths (`/v1`, `/`, `/api/v1`) and both slash forms lead to the same routes without a redirect; empty bodies read as
`{}`; bodies are capped; every answer has a request id; GET answers, and those of POST that bring one, have an
ETag and honour If-None-Match. A request whose transaction lost to another one (a deadlock of PostgreSQL) is run again
from the start.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import structlog
from anyio import to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mediatheca.api.auth import Auth, digest_of
from mediatheca.api.errors import crash_response, error_response
from mediatheca.api.limits import RateLimiter, Ticket
from mediatheca.kernel.errors import (
    MediathecaError,
    PayloadTooLargeError,
    TooManyRequestsError,
    UnauthorizedError,
)
from mediatheca.kernel.ids import new_id
from mediatheca.stores.db.engine import ContentionError, pauses
from mediatheca.telemetry import observe_request, request_span

log = structlog.get_logger()

_ROOT = ("/openapi.json", "/docs", "/redoc", "/metrics")
_JSON = b"application/json"
_KEEP = 4 << 20
"""Bytes of a body that are kept for running the request again."""


def normal_path(path: str) -> str:
    """`/api/v1/x/`, `/x`, `/v1/x/` → `/v1/x`; pages of the root stay."""
    if path.startswith("/api/v1/"):
        path = path[4:]
    if path == "/docs/openapi.json":
        return "/openapi.json"
    if path != "/" and path.endswith("/"):
        path = path.rstrip("/") or "/"
    if path.startswith("/v1/") or path == "/v1" or path.startswith(_ROOT):
        return path
    return "/v1" + ("" if path == "/" else path)


class Front:
    """Wraps the FastAPI application."""

    def __init__(self, app: ASGIApp, *, max_body: int, limiter: RateLimiter | None, auth: Auth) -> None:
        self._app = app
        self._max_body = max_body
        self._limiter = limiter
        self._auth = auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        path = normal_path(scope["path"])
        scope["path"] = path
        scope["raw_path"] = path.encode()
        request_id = headers.get(b"x-request-id", b"").decode("latin-1")[:128] or new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(scope, headers, send, request_id)
        try:
            if self._limiter is not None:
                answer.ticket = scope["state"]["ticket"] = await self._ticket(self._limiter, scope, headers)
            with request_span("request", headers, method=scope["method"], path=path, request_id=request_id):
                await self._run(scope, _Kept(self._body(scope, headers, receive)), answer)
        except MediathecaError as error:  # raised before routing, or ours to answer
            if error.status >= 500:
                log.error("request.failed", path=path, type=error.type, error=error.message)
            await error_response(error)(scope, receive, answer.send)
        except Exception as error:
            if answer.started:  # too late for an envelope: the client sees a broken answer
                raise
            await crash_response(error, path, request_id)(scope, receive, answer.send)
        finally:
            elapsed = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unmatched")
            observe_request(scope["method"], route, answer.status, elapsed)
            log.debug(
                "request", method=scope["method"], path=path, status=answer.status, ms=round(elapsed * 1e3, 2),
                request_id=request_id,
            )  # fmt: skip

    async def _ticket(self, limiter: RateLimiter, scope: Scope, headers: dict[bytes, bytes]) -> Ticket:
        client, header = scope.get("client"), headers.get(b"authorization", b"").decode("latin-1")
        digest = digest_of(header)
        try:
            return limiter.take(digest, client[0] if client else "")
        except TooManyRequestsError as refusal:
            if not digest or limiter.knows(digest):
                raise
            # Strangers have used up the address; a valid key that shares it must not be locked out with them.
            try:
                actor = await to_thread.run_sync(self._auth.actor, header)
            except UnauthorizedError:
                raise refusal from None
            return limiter.vouched(digest, actor.key_id)

    async def _run(self, scope: Scope, body: _Kept, answer: _Answer) -> None:
        """Run the request; again while its only transaction loses to others and is undone."""
        for pause in pauses():
            attempt = dict(scope)  # routing writes into it
            try:
                await self._app(attempt, body.receive, answer.send)
                return
            except ContentionError as error:
                if answer.started or not scope["state"].pop("rerun", False) or not body.rewind():
                    raise
                log.info("request.again", path=scope["path"], reason=error.message)
            finally:
                scope["route"] = attempt.get("route")
            await asyncio.sleep(pause)
        await self._app(scope, body.receive, answer.send)

    def _body(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        if scope["method"] not in ("POST", "PUT", "PATCH", "DELETE") or scope["path"].startswith("/v1/blobs/"):
            return receive
        length = headers.get(b"content-length")
        if length is not None and length.isdigit() and int(length) > self._max_body:
            raise self._too_large()
        if length == b"0" or (length is None and b"transfer-encoding" not in headers):
            return self._empty(scope, receive)
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self._max_body:
                raise self._too_large()
            return message

        return counted

    def _too_large(self) -> PayloadTooLargeError:
        return PayloadTooLargeError(
            f"the request body is larger than {self._max_body >> 20} MiB; split it, or upload files by presigned URL"
        )

    @staticmethod
    def _empty(scope: Scope, receive: Receive) -> Receive:
        """An empty body is an empty object."""
        if scope["method"] == "DELETE":
            return receive
        kept = [(name, value) for name, value in scope["headers"] if name not in (b"content-type", b"content-length")]
        scope["headers"] = [*kept, (b"content-type", _JSON), (b"content-length", b"2")]
        given = False

        async def braces() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": b"{}", "more_body": False}

        return braces


class _Kept:
    """The body as it comes, kept to be read again unless it is large."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: list[Message] = []
        self._next, self._size = 0, 0

    async def receive(self) -> Message:
        if self._next < len(self._messages):
            self._next += 1
            return self._messages[self._next - 1]
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > _KEEP:
                self._messages.clear()
                self._next = 0
            else:
                self._messages.append(message)
                self._next += 1
        return message

    def rewind(self) -> bool:
        """Whether the body can be read from the start again; then the next message is its first."""
        self._next = 0
        return self._size <= _KEEP


class _Answer:
    """Adds headers to the response, and turns one whose ETag the client knows into 304. Who answers a POST may give an
    ETag; every GET has one."""

    def __init__(self, scope: Scope, headers: dict[bytes, bytes], send: Send, request_id: str) -> None:
        self._send = send
        self._known = headers.get(b"if-none-match")
        self._tagged = scope["method"] == "GET"
        self.ticket: Ticket | None = None
        self._request_id = request_id.encode("latin-1", "replace")
        self.status = 500
        self.started = False
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.started = message["status"], True
            limits = self.ticket.headers() if self.ticket is not None else []
            headers: list[Any] = [*message["headers"], (b"x-request-id", self._request_id), *limits]
            message = {**message, "headers": headers}
            is_json = any(name == b"content-type" and value.startswith(_JSON) for name, value in headers)
            tagged = self._tagged or any(name == b"etag" for name, _ in headers)
            if tagged and is_json and self.status == 200:
                self._start = message
                return
        elif self._start is not None:
            start, self._start = self._start, None
            if message.get("more_body"):
                await self._send(start)
            else:
                message = await self._tag(start, message)
        await self._send(message)

    async def _tag(self, start: Message, message: Message) -> Message:
        headers = start["headers"]
        etag = next((value for name, value in headers if name == b"etag"), None)
        if etag is None:
            etag = b'"' + hashlib.blake2b(message.get("body", b""), digest_size=16).hexdigest().encode() + b'"'
            headers = [*headers, (b"etag", etag)]
        if self._known is not None and _opaque(etag) in map(_opaque, self._known.split(b",")):
            self.status = 304
            kept = [(name, value) for name, value in headers if name not in (b"content-length", b"content-type")]
            await self._send({**start, "status": 304, "headers": kept})
            return {"type": "http.response.body", "body": b""}
        await self._send({**start, "headers": headers})
        return message


def _opaque(etag: bytes) -> bytes:
    """What weak comparison looks at (RFC 9110, 8.8.3.2)."""
    return etag.strip().removeprefix(b"W/")
