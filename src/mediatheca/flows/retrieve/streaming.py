"""An execution as server-sent events: every stage as it begins and ends, then the whole answer.

Events, in order: `stage_start`, `stage_complete` or `stage_error` for every stage, then `execution_complete` (the body
of the plain answer) or `execution_error`. A comment goes out every 15 seconds so that proxies keep the connection. When
the reader goes away, the execution is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import orjson

from mediatheca.flows.retrieve.execute import Execution, Tell
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.redaction import Redactor

PING_S = 15.0
MAX_STREAMED = 100
"""Documents told of after every stage; the last event has the page."""

Answering = Callable[[Tell], Awaitable[dict[str, Any]]]


class _Events:
    """Gathers what an execution tells, as lines of the stream."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._number = 0

    def put(self, event: str, data: dict[str, Any]) -> None:
        self._number += 1
        option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
        body = orjson.dumps({"event_type": event, **data}, default=str, option=option)
        self.queue.put_nowait(b"id: %d\nevent: %s\ndata: %s\n\n" % (self._number, event.encode(), body))

    async def tell(self, event: str, number: int, run: Execution) -> None:
        stage = run.plan.stages[number]
        data: dict[str, Any] = {
            "stage_name": stage.name,
            "stage_index": number,
            "total_stages": len(run.plan.stages),
            "budget_used": {
                "credits_used": run.language.credits,
                "time_elapsed_ms": run.elapsed_ms,
                "tokens_used": run.language.tokens,
            },
        }
        if event != "stage_start":
            data["statistics"] = run.statistics[stage.name]
            shown = run.hits[:MAX_STREAMED]
            data["documents"] = [
                {"document_id": h.document_id, "collection_id": h.collection_id, "score": h.score} for h in shown
            ]
        self.put(event, Redactor(run.caller.secrets.values()).tree(data))


async def events(execution_id: str, answering: Answering) -> AsyncIterator[bytes]:
    """The lines of the stream. Errors of the execution are its last event: the status line is long gone."""
    told = _Events()

    async def work() -> None:
        try:
            body = await answering(told.tell)
            told.put("execution_complete", body)
        except MediathecaError as error:
            failure = {"type": error.type, "message": error.message, "status": error.status}
            told.put("execution_error", {"execution_id": execution_id, "error": failure})
        finally:
            told.queue.put_nowait(None)

    task = asyncio.create_task(work())
    try:
        while True:
            try:
                line = await asyncio.wait_for(told.queue.get(), PING_S)
            except TimeoutError:
                yield b": ping\n\n"
                continue
            if line is None:
                return
            yield line
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
