"""One handler makes the error envelope: `{"success": false, "status", "error": {message, type, details}}`.

422 also carries a top-level `detail` list, the older shape. Unexpected errors say only an id that the log knows.
"""

from __future__ import annotations

import re
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from mediatheca.api.deps import answer
from mediatheca.kernel.errors import FieldError, MediathecaError, TooManyRequestsError, ValidationError, plain_message
from mediatheca.stores.db.engine import ContentionError

log = structlog.get_logger()

MAX_LISTED = 50
"""Most problems of one request that are spelled out: a body may have a million of them."""

_TOO_DEEP = re.compile("serialization depth exceeded|recursion limit", re.IGNORECASE)
"""What pydantic and orjson say of values that no one could have written by hand."""
_TYPES = {404: "NotFoundError", 405: "MethodNotAllowedError", 413: "PayloadTooLargeError"}


def envelope(status: int, type: str, message: str, details: dict[str, Any], **extra: Any) -> Response:
    body = {"success": False, "status": status, "error": {"message": message, "type": type, "details": details}}
    return answer({**body, **extra}, status)


def error_response(error: MediathecaError) -> Response:
    """The envelope of a known error."""
    details = {"retryable": error.retryable, **error.details}
    if isinstance(error, ValidationError):
        errors = [entry.as_dict() for entry in error.errors]
        listed = [{"type": e.type, "location": list(e.loc), "message": e.msg} for e in error.errors]
        details |= {"errors": errors, "validation_errors": listed}
        return envelope(error.status, error.type, error.message, details, detail=errors)
    response = envelope(error.status, error.type, error.message, details)
    if isinstance(error, TooManyRequestsError):
        response.headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return response


def install(app: FastAPI) -> None:
    """Register the handlers."""

    @app.exception_handler(MediathecaError)
    async def known(request: Request, error: MediathecaError) -> Response:
        if isinstance(error, ContentionError):
            raise error  # the front door's: it may run the request again
        if error.status >= 500:
            log.error("request.failed", path=request.url.path, type=error.type, error=error.message)
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return error_response(request_errors(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        kind = _TYPES.get(error.status_code, "HTTPError")
        message = f"{request.method} {request.url.path}: {error.detail}"
        response = envelope(error.status_code, kind, message, {"retryable": False})
        response.headers.update(error.headers or {})
        return response


def crash_response(error: Exception, path: str, request_id: str) -> Response:
    """The envelope of an error nobody foresaw: the log has it under the request id, the caller only the id."""
    if isinstance(error, RecursionError) or _TOO_DEEP.search(str(error)[:200]):
        return error_response(ValidationError.at(("body",), "is nested too deep", "too_deep"))
    log.error("request.crashed", path=path, request_id=request_id, exc_info=error)
    message = f"an unexpected error; the server's log has it under request id {request_id}"
    return envelope(500, "InternalServerError", message, {"error_id": request_id, "retryable": False})


def request_errors(error: RequestValidationError) -> ValidationError:
    """FastAPI's list of problems, each with what was given."""
    found = []
    problems = error.errors()
    for entry in problems[:MAX_LISTED]:
        loc = tuple(entry["loc"])
        message = plain_message(entry)
        given = entry.get("input")
        if isinstance(given, str | int | float | bool) and entry["type"] != "missing":
            message += f", got {str(given)[:100]!r}"
        found.append(FieldError(loc, message, str(entry["type"])))
    summary = "; ".join(f"{'.'.join(map(str, e.loc[1:] or e.loc))}: {e.msg}" for e in found)
    if len(problems) > MAX_LISTED:
        summary += f"; and {len(problems) - MAX_LISTED} more"
    return ValidationError(summary, found)
