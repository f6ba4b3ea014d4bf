"""The error tree. A class fixes HTTP status and wire type; the message says what to check.

MediathecaError
├── BadRequestError 400
├── UnauthorizedError 401
├── ForbiddenError 403
│   └── NotEnabledError 403
├── NotFoundError 404
├── ConflictError 409
├── GoneError 410
├── PayloadTooLargeError 413
├── ValidationError 422
├── TooManyRequestsError 429
├── BudgetError 429
└── UnavailableError 503
    └── NotConfiguredError 503
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One offending field: where it is, what is wrong, and a stable machine-readable kind."""

    loc: tuple[str | int, ...]
    msg: str
    type: str = "value_error"

    def as_dict(self) -> dict[str, Any]:
        return {"loc": list(self.loc), "msg": self.msg, "type": self.type}


def plain_message(problem: Mapping[str, Any]) -> str:
    """What an entry of pydantic's `errors()` says, without the words it puts before messages of our own validators."""
    return str(problem["msg"]).removeprefix("Value error, ")


class MediathecaError(Exception):
    """Base of every error a caller may see. `details` is shown to the caller: never put secrets in it."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "InternalServerError"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details or {}


class BadRequestError(MediathecaError):
    """Semantically impossible request."""

    status = 400
    type = "BadRequestError"


class UnauthorizedError(MediathecaError):
    status = 401
    type = "UnauthorizedError"


class ForbiddenError(MediathecaError):
    status = 403
    type = "ForbiddenError"


class NotEnabledError(ForbiddenError):
    """The feature is switched off here; the message says how to switch it on."""

    type = "NotEnabledError"


class NotFoundError(MediathecaError):
    status = 404
    type = "NotFoundError"

    def __init__(self, kind: str, ident: str) -> None:
        super().__init__(f"{kind} '{ident}' not found", details={"resource": kind, "id": ident})


class ConflictError(MediathecaError):
    """The name or key is taken, or the state forbids it; `details.existing_id` names the holder where there is one."""

    status = 409
    type = "AlreadyExistsError"


class GoneError(MediathecaError):
    """It was here and is not any more: a cursor into what was forgotten, a stream that has ended."""

    status = 410
    type = "GoneError"


class PayloadTooLargeError(MediathecaError):
    status = 413
    type = "PayloadTooLargeError"


class ValidationError(MediathecaError):
    """The request does not match a schema or a declared rule; every offending field is listed."""

    status = 422
    type = "ValidationError"

    def __init__(self, message: str, errors: Iterable[FieldError] = ()) -> None:
        self.errors = list(errors)
        super().__init__(message)

    @classmethod
    def at(cls, loc: str | tuple[str | int, ...], msg: str, kind: str = "value_error") -> ValidationError:
        """One offending field, given as a dotted path or a tuple."""
        path: tuple[str | int, ...] = tuple(loc.split(".")) if isinstance(loc, str) else loc
        return cls(f"{'.'.join(map(str, path))}: {msg}", [FieldError(path, msg, kind)])

    @classmethod
    def of(cls, errors: Iterable[FieldError], *, skip: int = 0) -> ValidationError:
        """Several offending fields; the message names the place of each, without its first `skip` parts (`body`)."""
        found = list(errors)
        return cls("; ".join(f"{'.'.join(map(str, error.loc[skip:]))}: {error.msg}" for error in found), found)


class TooManyRequestsError(MediathecaError):
    status = 429
    type = "TooManyRequestsError"
    retryable = True

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message, details={"retry_after_seconds": retry_after_s})
        self.retry_after_s = retry_after_s


class BudgetError(MediathecaError):
    """What an execution may spend is spent. The engine keeps what was found so far and calls the result degraded."""

    status = 429
    type = "BudgetExceededError"


class UnavailableError(MediathecaError):
    """A backend or model is missing or not answering; the message names it and the next step."""

    status = 503
    type = "InferenceServiceUnavailableError"


class NotConfiguredError(UnavailableError):
    """Nobody has set up what could answer, so that trying again does not help; the message says what to set."""
