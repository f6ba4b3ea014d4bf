"""The front door: one ASGI middleware for what holds everywhere.

Base paths (`/v1`, `/`, `/api/v1`) and both slash forms lead to the same routes without a redirect; empty bodies read as
`{}`; bodies are capped; every answer has a request id; GET answers have an ETag and honour If-None-Match.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mediatheca.api.errors import crash_response, error_response
from mediatheca.api.limits import RateLimiter
from mediatheca.kernel.errors import MediathecaError, PayloadTooLargeError
from mediatheca.kernel.ids import new_id
from mediatheca.telemetry import observe_request, span

log = structlog.get_logger()

_ROOT = ("/openapi.json", "/docs", "/redoc", "/metrics")
_JSON = b"application/json"


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

    def __init__(self, app: ASGIApp, *, max_body: int, limiter: RateLimiter | None) -> None:
        self._app = app
        self._max_body = max_body
        self._limiter = limiter

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
                answer.extra += self._limiter.take(headers.get(b"authorization", b""))
            with span("request", method=scope["method"], path=path, request_id=request_id):
                await self._app(scope, self._body(scope, headers, receive), answer.send)
        except MediathecaError as error:  # raised before routing
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


class _Answer:
    """Adds headers to the response, and turns a GET whose ETag the client knows into 304."""

    def __init__(self, scope: Scope, headers: dict[bytes, bytes], send: Send, request_id: str) -> None:
        self._send = send
        self._known = headers.get(b"if-none-match")
        self._tagged = scope["method"] == "GET"
        self.extra: list[tuple[bytes, bytes]] = [(b"x-request-id", request_id.encode("latin-1", "replace"))]
        self.status = 500
        self.started = False
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.started = message["status"], True
            headers: list[Any] = [*message["headers"], *self.extra]
            message = {**message, "headers": headers}
            is_json = any(name == b"content-type" and value.startswith(_JSON) for name, value in headers)
            if self._tagged and is_json and self.status == 200:
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
        etag = b'"' + hashlib.blake2b(message.get("body", b""), digest_size=16).hexdigest().encode() + b'"'
        headers = [*start["headers"], (b"etag", etag)]
        if self._known is not None and etag in (tag.strip().removeprefix(b"W/") for tag in self._known.split(b",")):
            self.status = 304
            kept = [(name, value) for name, value in headers if name not in (b"content-length", b"content-type")]
            await self._send({**start, "status": 304, "headers": kept})
            return {"type": "http.response.body", "body": b""}
        await self._send({**start, "headers": headers})
        return message
