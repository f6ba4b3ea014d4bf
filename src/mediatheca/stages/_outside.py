"""Calls to the world outside for documents: which are asked about, how many at once, and what a failure does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

import orjson

from mediatheca.kernel.errors import ForbiddenError, MediathecaError, NotFoundError
from mediatheca.kernel.filters import Filter, document_view
from mediatheca.kernel.search import Hit
from mediatheca.stages import StageContext

T = TypeVar("T")
OnError: TypeAlias = Literal["skip", "remove", "raise"]
"""What a document does for which the call failed: stays as it is, leaves, or fails the stage."""
MAX_DOCUMENTS = 1_000
"""Of one execution that a stage asks the world outside about; the rest stay as they are."""
_REPORTED = 5


def matching(hits: Sequence[Hit], when: Filter | None) -> list[Hit]:
    """The documents that a condition selects."""
    if when is None:
        return list(hits)
    return [
        hit
        for hit in hits
        if when.matches(document_view(hit.payload, hit.document_id, hit.collection_id, hit.system, hit.score))
    ]


def chosen(hits: Sequence[Hit], when: Filter | None, ctx: StageContext) -> list[Hit]:
    """The documents to ask about, no more than `MAX_DOCUMENTS`."""
    found = matching(hits, when)
    if len(found) > MAX_DOCUMENTS:
        ctx.limit("documents", len(found), MAX_DOCUMENTS)
    return found[:MAX_DOCUMENTS]


@dataclass(slots=True)
class Outcomes:
    """What came of the calls: by document (its place in memory), a value or an error."""

    values: dict[int, Any] = field(default_factory=dict)
    errors: dict[int, MediathecaError] = field(default_factory=dict)

    def add(self, hit: Hit, outcome: Any) -> None:
        if isinstance(outcome, MediathecaError):
            self.errors[id(hit)] = outcome
        else:
            self.values[id(hit)] = outcome


def request_key(value: Any) -> bytes:
    """Equal for equal requests."""
    return orjson.dumps(value, default=repr, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


async def ask(
    requests: Sequence[tuple[Hit, Any]],
    call: Callable[[Any], Awaitable[Any]],
    *,
    at_once: int,
    on_error: OnError,
) -> Outcomes:
    """One call for every different request, shared by the documents that have the same.

    Args:
        requests: documents with what is asked for them (a JSON value), or the error that making it gave.
        call: asks; a `MediathecaError` is that request's failure.
        at_once: most calls under way.

    Raises:
        ForbiddenError: the operator does not allow such calls at all.
        NotFoundError: what is called does not exist.
        MediathecaError: the first failure, with `on_error="raise"`.
    """
    keys = {id(hit): request_key(request) for hit, request in requests if not isinstance(request, MediathecaError)}
    unique = {keys[id(hit)]: request for hit, request in requests if id(hit) in keys}
    answers: dict[Hashable, Any] = {}
    gate = asyncio.Semaphore(at_once)
    stopped = any(isinstance(request, MediathecaError) for _, request in requests) and on_error == "raise"

    async def one(key: Hashable, request: Any) -> None:
        nonlocal stopped
        async with gate:
            if stopped:
                return
            try:
                answers[key] = await call(request)
            except MediathecaError as error:
                answers[key] = error
                stopped = stopped or on_error == "raise" or isinstance(error, ForbiddenError | NotFoundError)

    await asyncio.gather(*(one(key, request) for key, request in unique.items()))
    for answer in answers.values():
        if isinstance(answer, ForbiddenError | NotFoundError):
            raise answer
    return _outcomes(requests, keys, answers)


def _outcomes(
    requests: Sequence[tuple[Hit, Any]], keys: Mapping[int, Hashable], answers: Mapping[Hashable, Any]
) -> Outcomes:
    outcomes = Outcomes()
    for hit, request in requests:
        key = keys.get(id(hit))
        if key is None:
            outcomes.add(hit, request)
        elif key in answers:
            outcomes.add(hit, answers[key])
    return outcomes


def settle(
    hits: Sequence[Hit],
    asked: Sequence[Hit],
    outcomes: Outcomes,
    write: Callable[[Hit, Any], None],
    on_error: OnError,
    ctx: StageContext,
) -> list[Hit]:
    """Write the values, apply the policy to the failures, and tell.

    Raises:
        MediathecaError: the first failure, with `on_error="raise"`.
    """
    if outcomes.errors and on_error == "raise":
        raise next(iter(outcomes.errors.values()))
    for hit in asked:
        if id(hit) in outcomes.values:
            write(hit, outcomes.values[id(hit)])
    failed = [hit for hit in asked if id(hit) in outcomes.errors]
    _tell(hits, asked, failed, outcomes, on_error, ctx)
    if on_error != "remove":
        return list(hits)
    gone = {id(hit) for hit in failed}
    return [hit for hit in hits if id(hit) not in gone]


def _tell(
    hits: Sequence[Hit],
    asked: Sequence[Hit],
    failed: Sequence[Hit],
    outcomes: Outcomes,
    on_error: OnError,
    ctx: StageContext,
) -> None:
    ctx.metadata.update(processed=len(asked) - len(failed), skipped=len(hits) - len(asked), failed=len(failed))
    if not failed:
        return
    errors = [{"document_id": hit.document_id, "error": outcomes.errors[id(hit)].message} for hit in failed[:_REPORTED]]
    ctx.metadata["errors"] = errors
    done = "were removed" if on_error == "remove" else "stay as they are"
    message = f"{len(failed)} of {len(asked)} documents failed and {done}: {errors[0]['error']}"
    ctx.warn(message)
    if len(failed) == len(asked):
        ctx.degrade(message, "check the address, the credentials and the service; on_error: raise makes it an error")


def attempt(make: Callable[[Hit], T], hit: Hit) -> T | MediathecaError:
    """What `make` gives for a document, or its error: a template that fails is that document's failure."""
    try:
        return make(hit)
    except MediathecaError as error:
        return error
