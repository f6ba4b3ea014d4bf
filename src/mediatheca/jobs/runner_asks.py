"""What a child of the runner asks of its parent, as plain values: both sides of the desk.

A question is `("ask", number, name, payload)` to the parent, its answer `("answered", number, good, payload)` to the
child. The parent trusts nothing in a question: it is read into the request's own type, with every field checked.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, InvalidStateError
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import structlog

from mediatheca.kernel.desk import Desk
from mediatheca.kernel.errors import (
    BadRequestError,
    BudgetError,
    ConflictError,
    ForbiddenError,
    GoneError,
    MediathecaError,
    NotConfiguredError,
    NotFoundError,
    PayloadTooLargeError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
    ValidationError,
)
from mediatheca.kernel.outside import Generate, Generated, HttpAnswer, HttpRequest, RenderRequest

log = structlog.get_logger()

MAX_OPEN = 64
"""Questions one child may have open."""
MAX_WAIT_S = 900.0
_QUICK_S = 60.0


class OutsideFailedError(BadRequestError):
    """The other side did not deliver; trying again later may help."""

    retryable = True


@dataclass(frozen=True, slots=True)
class _Question:
    """One kind of question. `limit_s`: how long an answer to this request may take."""

    request: type[Any]
    answer: type[Any] | None
    put: Callable[[Desk, Any], Any]
    limit_s: Callable[[Any], float]


@dataclass(frozen=True, slots=True)
class _Recall:
    key: str


@dataclass(frozen=True, slots=True)
class _Remember:
    key: str
    data: bytes


def _remember(desk: Desk, request: _Remember) -> None:
    desk.remember(request.key, request.data)


_QUESTIONS: Mapping[str, _Question] = {
    "fetch": _Question(HttpRequest, HttpAnswer, lambda desk, r: desk.fetch(r), lambda r: r.timeout_s + 15),
    "render": _Question(RenderRequest, HttpAnswer, lambda desk, r: desk.render(r), lambda r: r.timeout_s + 30),
    # A timeout is tried once more, and an answer that does not fit is repaired once.
    "generate": _Question(Generate, Generated, lambda desk, r: desk.generate(r), lambda r: 4 * r.timeout_s + 30),
    "recall": _Question(_Recall, None, lambda desk, r: desk.recall(r.key), lambda r: _QUICK_S),
    "remember": _Question(_Remember, None, _remember, lambda r: _QUICK_S),
}
_LOCAL = frozenset({"hear"})
"""Fields that mean something to one process only."""
_ERRORS: Mapping[str, type[MediathecaError]] = {
    kind.__name__: kind
    for kind in (
        OutsideFailedError, BadRequestError, UnauthorizedError, ForbiddenError, NotFoundError, ConflictError, GoneError,
        PayloadTooLargeError, ValidationError, TooManyRequestsError, BudgetError, UnavailableError, NotConfiguredError,
    )
}  # fmt: skip


def _plain(value: Any) -> dict[str, Any]:
    """The fields of a request or an answer."""
    return {each.name: _copied(getattr(value, each.name)) for each in fields(value) if each.name not in _LOCAL}


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


@cache
def _reader(name: str) -> Callable[[Any], Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(_QUESTIONS[name].request).validate_python


# The parent's side


class Question:
    """A question as the parent read it."""

    def __init__(self, name: str, payload: Any) -> None:
        """Raises ValueError, or an error of pydantic's that is one: it is no question of ours."""
        if name not in _QUESTIONS or not isinstance(payload, dict):
            raise ValueError(f"no question '{str(name)[:40]}'")
        self._kind = _QUESTIONS[name]
        self._request = _reader(name)(payload)
        self.limit_s = max(1.0, min(float(self._kind.limit_s(self._request)), MAX_WAIT_S))

    def put(self, desk: Desk) -> tuple[bool, Any]:
        """The answer as it travels; whether it is one, or else an error."""
        try:
            found = self._kind.put(desk, self._request)
        except MediathecaError as error:
            return False, _error(error)
        return True, found if self._kind.answer is None else _plain(found)


class OpenQuestions:
    """The questions of a child at work, answered on other threads. `send` sends it a message."""

    def __init__(self, desk: Desk, send: Callable[[tuple[Any, ...]], None], threads: Executor) -> None:
        self._desk, self._send, self._threads = desk, send, threads
        self._lock = threading.Lock()
        self._open: dict[int, float] = {}
        self._answered = 0.0
        self._closed = False

    def take(self, number: int, name: str, payload: Any) -> None:
        """Have a question answered.

        Raises:
            ValueError: it is none, its number is in use, or there are too many.
        """
        question = Question(name, payload)
        with self._lock:
            if number in self._open or len(self._open) >= MAX_OPEN:
                raise ValueError(f"question {number} beside {len(self._open)} open ones")
            self._open[number] = time.monotonic() + question.limit_s
        with contextlib.suppress(RuntimeError):  # the runner was closed: so is the child
            self._threads.submit(self._answer, number, question)

    def close(self) -> None:
        """The child has gone: what nobody has begun to answer is not answered."""
        self._closed = True

    def _answer(self, number: int, question: Question) -> None:
        if self._closed:
            return
        try:
            good, payload = question.put(self._desk)
        except Exception as error:
            log.exception("runner.question_failed")
            good, payload = False, _error(UnavailableError(f"the answer failed: {type(error).__name__}"))
        with self._lock:  # before it is sent: who has got an answer may put the next question
            self._open.pop(number, None)
            self._answered = time.monotonic()
        with contextlib.suppress(OSError):  # the child has died
            self._send(("answered", number, good, payload))
        with self._lock:
            self._answered = time.monotonic()

    def until(self, limit_s: float) -> float:
        """Until when the child may be silent: it waits for us, or has just got an answer."""
        with self._lock:
            answered = self._answered + limit_s if self._answered else 0.0
            return max(self._open.values(), default=answered)


def _error(error: MediathecaError) -> dict[str, Any]:
    name = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _ERRORS), "UnavailableError")
    if name == "BadRequestError" and error.retryable:
        name = "OutsideFailedError"
    return {"name": name, "message": error.message, "retry_after_s": getattr(error, "retry_after_s", 0.0)}


# The child's side


class AskingDesk:
    """A `Desk` that asks the parent. `send` sends a message to it; answers come in with `answered`."""

    def __init__(self, send: Callable[[tuple[Any, ...]], None]) -> None:
        self._send, self._lock = send, threading.Lock()
        self._open: dict[int, Future[tuple[bool, Any]]] = {}
        self._number = 0
        self._gone = False

    def fetch(self, request: HttpRequest) -> HttpAnswer:
        answer: HttpAnswer = self._ask("fetch", request)
        return answer

    def render(self, request: RenderRequest) -> HttpAnswer:
        answer: HttpAnswer = self._ask("render", request)
        return answer

    def generate(self, request: Generate) -> Generated:
        answer: Generated = self._ask("generate", request)
        return answer

    def recall(self, key: str) -> bytes | None:
        data: bytes | None = self._ask("recall", _Recall(key))
        return data

    def remember(self, key: str, data: bytes) -> None:
        self._ask("remember", _Remember(key, data))

    def _ask(self, name: str, request: Any) -> Any:
        waiting: Future[tuple[bool, Any]] = Future()
        with self._lock:
            if self._gone:
                raise UnavailableError("the process that would answer has gone")
            self._number += 1
            number = self._number
            self._open[number] = waiting
        try:
            self._send(("ask", number, name, _plain(request)))
            good, payload = waiting.result()
        finally:
            self._open.pop(number, None)
        if not good:
            raise _raised(payload)
        answer = _QUESTIONS[name].answer
        return payload if answer is None else answer(**payload)

    def answered(self, number: int, good: bool, payload: Any) -> None:
        """The parent's answer."""
        waiting = self._open.get(number)
        if waiting is not None:
            waiting.set_result((good, payload))

    def close(self) -> None:
        """There will be no more answers."""
        with self._lock:
            self._gone = True
            waiting = list(self._open.values())
        for each in waiting:
            with contextlib.suppress(InvalidStateError):  # it has got its answer
                each.set_exception(UnavailableError("the process that would answer has gone"))


def _raised(payload: Mapping[str, Any]) -> MediathecaError:
    """The error again, of the same class."""
    kind, message = _ERRORS[payload["name"]], str(payload["message"])
    if kind is TooManyRequestsError:
        return TooManyRequestsError(message, payload["retry_after_s"])
    if kind is NotFoundError:
        error = NotFoundError("", "")
        error.args, error.message = (message,), message
        return error
    return kind(message)
