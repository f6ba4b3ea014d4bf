"""Calls of a provider: tried again while that can help, and explained in our own errors, without secrets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mediatheca.flows.outside.language_models import ModelName
from mediatheca.kernel.errors import BadRequestError, MediathecaError, TooManyRequestsError, UnavailableError

T = TypeVar("T")
ATTEMPTS = 4
TIMEOUTS = 2
"""A timeout is tried once more."""
FIRST_PAUSE_S = 0.25
_jitter = random.Random()
LONGEST_PAUSE_S = 20.0
_BUSY = frozenset({408, 409, 425, 500, 502, 503, 504, 529})


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call failed, and whether it is worth another try."""

    error: MediathecaError
    again: bool
    wait_s: float | None = None
    """What the provider asks for."""


async def tried(
    send: Callable[[], Awaitable[T]], name: ModelName, *, timeout_s: float, hidden: Sequence[str] = ()
) -> T:
    """Send a request until it is answered.

    Args:
        timeout_s: of one attempt.
        hidden: what no message may repeat.

    Raises:
        UnavailableError: it does not answer, or refuses the key or the model.
        TooManyRequestsError: its rate limit outlasts the retries.
        BadRequestError: it refuses the request.
    """
    timeouts = 0
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with asyncio.timeout(timeout_s):
                return await send()
        except TimeoutError:
            timeouts += 1
            error: MediathecaError = UnavailableError(f"{name} did not answer within {timeout_s:g} s, {timeouts} times")
            refusal = Refusal(error, timeouts < TIMEOUTS, 0.0)
        except Exception as failure:
            refusal = explain(failure, name, hidden)
            if not refusal.again:
                raise refusal.error from None  # the cause quotes the request, key and all
        pause = FIRST_PAUSE_S * 2**attempt * _jitter.uniform(0.5, 1) if refusal.wait_s is None else refusal.wait_s
        if attempt == ATTEMPTS or not refusal.again or pause > LONGEST_PAUSE_S:
            raise refusal.error
        await asyncio.sleep(pause)
    raise AssertionError("unreachable")


def explain(failure: Exception, name: ModelName, hidden: Sequence[str]) -> Refusal:
    """An exception of pydantic-ai as our own. What is neither is raised again.

    Raises:
        Exception: `failure` itself, where it is a fault of ours.
    """
    from pydantic_ai import exceptions as theirs

    if isinstance(failure, MediathecaError):
        return Refusal(failure, again=False)
    if isinstance(failure, theirs.ModelHTTPError):
        return _refused(failure, name, hidden)
    if isinstance(failure, theirs.ModelAPIError):
        message = (
            f"{name} cannot be reached ({_cut(failure.message, hidden)}); check that it runs, and {name.url_setting}"
        )
        return Refusal(UnavailableError(message), again=True)
    if isinstance(failure, theirs.UnexpectedModelBehavior):
        message = f"{name} answered something that is no answer: {_cut(failure.message, hidden)}"
        return Refusal(UnavailableError(message), again=True)
    if isinstance(failure, theirs.UserError):
        return Refusal(
            BadRequestError(f"{name} does not take this request: {_cut(failure.message, hidden)}"), again=False
        )
    raise failure


def _refused(failure: Exception, name: ModelName, hidden: Sequence[str]) -> Refusal:
    status = int(getattr(failure, "status_code", 0))
    if status in (401, 403):
        message = f"{name} refuses the key (HTTP {status}); check {name.key_setting}, or the stage's api_key"
        return Refusal(UnavailableError(message), again=False)
    wait_s = getattr(failure, "retry_after", None)
    if status == 429:
        limited = TooManyRequestsError(
            f"{name} is over its rate limit; try again later, or ask for fewer documents", float(wait_s or 1)
        )
        limited.details["api_name"] = name.provider
        return Refusal(limited, again=True, wait_s=wait_s)
    said = _cut(_body(failure), hidden)
    if status in _BUSY or status >= 500:
        return Refusal(UnavailableError(f"{name} does not work now (HTTP {status}): {said}"), again=True, wait_s=wait_s)
    if status == 404:
        message = f"{name} is not served (HTTP 404): {said}; check the model's name, and {name.url_setting}"
        return Refusal(UnavailableError(message), again=False)
    return Refusal(BadRequestError(f"{name} refused the request (HTTP {status}): {said}"), again=False)


def _body(failure: Exception) -> str:
    body = getattr(failure, "body", None)
    for _ in range(3):
        if not isinstance(body, dict):
            break
        body = body.get("error") or body.get("message") or body.get("detail") or str(body)
    return str(body or "no message")


def _cut(text: str, hidden: Sequence[str]) -> str:
    for secret in hidden:
        if secret:
            text = text.replace(secret, "***")
    return text[:300]
