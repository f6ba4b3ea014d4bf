"""An execution as server-sent events: every stage as it begins and ends, then the whole answer.

Events, in order: `stage_start`, `stage_complete` or `stage_error` for every stage, and between them `token`, the pieces
of what a language model writes; then `execution_complete` (the body of the plain answer) or `execution_error`. A
comment goes out every 15 seconds so that proxies keep the connection.

The id of an event is `EXECUTION:NUMBER`. A reader whose connection broke sends it back as `Last-Event-ID` and gets what
it missed. When nobody has read for `GRACE_S`, the execution is cancelled; its events are kept for `KEPT_S` after its
end, in the memory of this process and within `MAX_KEPT`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import orjson

from mediatheca.flows.retrieve.execute import Execution, Tell
from mediatheca.flows.retrieve.plan import PlannedStage
from mediatheca.kernel.errors import MediathecaError, NotFoundError
from mediatheca.kernel.redaction import PieceRedactor, Redactor
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.search import Hit

PING_S = 15.0
GRACE_S = 5.0
KEPT_S = 60.0
MAX_KEPT = 32 << 20
"""Bytes of events that are kept of executions at their end."""
MAX_STREAMS = 1_000
MAX_BYTES = 8 << 20
"""Of one execution: more are dropped once they were read."""
MAX_STREAMED = 100
"""Documents told of after every stage; the last event has the page."""
log = logging.getLogger(__name__)

Answering: TypeAlias = Callable[[Tell], Awaitable[dict[str, Any]]]
Put: TypeAlias = Callable[[str, Mapping[str, Any]], None]
Telling: TypeAlias = Callable[[Put], Awaitable[tuple[str, Mapping[str, Any]]]]
"""Puts events of its own into a stream, and gives the last one: its name, and what it says."""
Shown: TypeAlias = Callable[[Sequence[Hit]], list[dict[str, Any]]]
"""How a stream shows documents."""


def ids(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    return [{"document_id": h.document_id, "collection_id": h.collection_id, "score": h.score} for h in hits]


class Stream:
    """The events of one execution, which several readers may follow, one after the other or at once."""

    def __init__(self, execution_id: str, owner: Hashable, shown: Shown = ids) -> None:
        self.execution_id, self.owner = execution_id, owner
        self.ended: float | None = None
        self.size = 0
        self._shown = shown
        self._lines: deque[bytes] = deque()
        self._last = self._read = 0
        self._news = asyncio.Event()
        self._readers = 0
        self._task: asyncio.Task[None] | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self._spoken: dict[tuple[str, ...], PieceRedactor] = {}

    # ---- the execution's side

    def start(self, answering: Answering) -> None:
        """Run one execution."""

        async def answered(put: Put) -> tuple[str, Mapping[str, Any]]:
            return "execution_complete", await answering(self.tell)

        self.begin(answered)

    def begin(self, telling: Telling) -> None:
        """Run anything that tells of itself."""
        self._task = asyncio.create_task(self._work(telling))
        self.wait_for_reader()

    async def _work(self, telling: Telling) -> None:
        try:
            self.put(*await telling(self.put))
        except MediathecaError as error:
            self._fail(error.type, error.message, error.status)
        except Exception as error:
            log.error("a streamed execution failed: %s", type(error).__name__)
            self._fail("InternalServerError", "an internal error ended the execution", 500)
        finally:
            self.ended = time.monotonic()
            self._wake()

    def _fail(self, kind: str, message: str, status: int) -> None:
        self.put("execution_error", {"error": {"type": kind, "message": message, "status": status}})

    def put(self, event: str, data: Mapping[str, Any]) -> None:
        self._last += 1
        option = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
        body = {"event_type": event, "execution_id": self.execution_id, **data}
        line = b"id: %s:%d\nevent: %s\ndata: %s\n\n" % (
            self.execution_id.encode(),
            self._last,
            event.encode(),
            orjson.dumps(body, default=str, option=option),
        )
        self._lines.append(line)
        self.size += len(line)
        while self.size > MAX_BYTES and self._first <= self._read:
            self.size -= len(self._lines.popleft())
        self._wake()

    def tell(self, event: str, stage: PlannedStage, run: Execution, data: Mapping[str, Any] | None = None) -> None:
        """`Tell`: without the secrets of the execution."""
        hide = Redactor(run.caller.secrets.values())
        told: dict[str, Any] = {
            "stage_name": stage.name,
            "stage_index": run.plan.stages.index(stage),
            "total_stages": len(run.plan.stages),
        }
        if event == "token":
            piece = self._piece(stage.name, data or {}, hide)
            if piece is not None:
                self.put(event, {**told, **hide.tree(data), "text": piece})
            return
        told["budget_used"] = {
            "credits_used": run.budget.language.credits,
            "time_elapsed_ms": run.budget.elapsed_ms,
            "tokens_used": run.budget.language.tokens,
        }
        if event in ("stage_complete", "stage_error"):
            told["statistics"] = run.out.statistics[stage.name]
            told["documents"] = self._shown(run.out.hits[:MAX_STREAMED])
        self.put(event, hide.tree({**told, **(data or {})}))

    def _piece(self, stage: str, data: Mapping[str, Any], hide: Redactor) -> str | None:
        """The text that may be shown now: the end of a piece may be the beginning of a secret."""
        place = (stage, str(data.get("field")), str(data.get("document_id")))
        held = self._spoken.setdefault(place, PieceRedactor(hide))
        if data.get("done"):
            return held.piece(str(data.get("text", ""))) + self._spoken.pop(place).rest()
        return held.piece(str(data.get("text", ""))) or None

    # ---- the readers' side

    def holds(self, after: int) -> bool:
        """Whether everything after an event is there."""
        return self._first <= after + 1 <= self._last + 1

    async def read(self, after: int = 0) -> AsyncIterator[bytes]:
        """The lines after an event, as they come, until the execution ends."""
        self._enter()
        position = after
        try:
            while self._first <= position + 1:
                if position < self._last:
                    position += 1
                    self._read = max(self._read, position)
                    yield self._lines[position - self._first]
                    continue
                if self.ended is not None:
                    return
                news = self._news
                try:
                    async with asyncio.timeout(PING_S):
                        await news.wait()
                except TimeoutError:
                    yield b": ping\n\n"
        finally:
            self._readers -= 1
            if not self._readers:
                self.wait_for_reader()

    def wait_for_reader(self) -> None:
        """Cancel the execution unless somebody reads soon."""
        self._stay()
        if self._task is not None and not self._task.done():
            self._leaving = asyncio.get_running_loop().call_later(GRACE_S, self._task.cancel)

    @property
    def _first(self) -> int:
        return self._last - len(self._lines) + 1

    def _enter(self) -> None:
        self._readers += 1
        self._stay()

    def _stay(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class Streams:
    """The streams of a process. The oldest are forgotten first."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Stream] = OrderedDict()

    def start(self, execution_id: str, owner: Hashable, answering: Answering, shown: Shown = ids) -> Stream:
        """Begin an execution. `owner`: who may go on reading, tenant and key."""
        made = self._made(execution_id, owner, shown)
        made.start(answering)
        return made

    def begin(self, ident: str, owner: Hashable, telling: Telling) -> Stream:
        """Begin something that tells of itself, with an id of its own."""
        made = self._made(ident, owner, ids)
        made.begin(telling)
        return made

    def _made(self, ident: str, owner: Hashable, shown: Shown) -> Stream:
        self._forget()
        self._held[ident] = Stream(ident, owner, shown)
        return self._held[ident]

    def forget(self, scope: Scope) -> None:
        """Drop the streams of a namespace that have ended; those that are read go on."""
        for ident, stream in list(self._held.items()):
            if stream.ended is not None and isinstance(stream.owner, tuple) and stream.owner[0] == scope:
                self._held.pop(ident, None)

    def resume(self, event_id: str, owner: Hashable) -> AsyncIterator[bytes]:
        """The lines after an event.

        Raises:
            NotFoundError: no such stream is kept for this owner, or what came after the event is not.
        """
        self._forget()
        execution_id, _, number = event_id.rpartition(":")
        found = self._held.get(execution_id)
        after = int(number) if number.isascii() and number.isdigit() and len(number) < 10 else -1
        if found is None or found.owner != owner or after < 0 or not found.holds(after):
            raise NotFoundError("stream", f"{event_id[:100]} (Last-Event-ID; execute again without it)")
        found.wait_for_reader()
        return found.read(after)

    def _forget(self) -> None:
        late = time.monotonic() - KEPT_S
        kept = 0
        for ident, stream in reversed(list(self._held.items())):
            if stream.ended is not None:
                kept += stream.size
                if stream.ended < late or kept > MAX_KEPT:
                    self._held.pop(ident, None)
        while len(self._held) >= MAX_STREAMS:
            self._held.popitem(last=False)
