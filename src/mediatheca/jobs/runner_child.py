"""The child process of the runner: opens extractors, works through items, answers item by item.

Started as `python -m mediatheca.jobs.runner_child SOCKET LIFE` with two inherited descriptors. It ends when the
parent does, however that ends and whatever the child is doing then: `LIFE` is a pipe the parent never writes to; when
the parent is gone the kernel sends SIGIO to the child's whole process group, whose default action is to terminate.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mediatheca.extractors import ENTRY_POINTS, Extract, ExtractContext, Extractor, ItemError
from mediatheca.jobs.children import end_with_parent, limit_memory
from mediatheca.jobs.runner_wire import FrameReader, dump_answer, encode_rows, send_frame
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.errors import MediathecaError, NotFoundError, ValidationError
from mediatheca.kernel.models import Models
from mediatheca.providers import ENTRY_POINTS as PROVIDERS
from mediatheca.providers import ModelSettings, Provider

_KEPT_OPEN = 8
_MAX_REASON = 500
_MAX_TRACE = 4000


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """The first message to a child. `plugins`: packages scanned for extractors besides our own."""

    memory_limit_mb: int
    model_settings: ModelSettings
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """A message to a child: items (each pickled by itself) for one extractor. `key` names extractor and params."""

    key: str
    extractor_id: str
    params: dict[str, Any]
    items: tuple[bytes, ...]


class Child:
    """The state of a child process."""

    def __init__(self, connection: socket.socket, settings: ChildSettings) -> None:
        self._connection, self._settings = connection, settings
        self._open: OrderedDict[str, Extract] = OrderedDict()
        self._extractors: dict[str, Extractor] | None = None
        self._models: Models | None = None

    def work(self, task: Task) -> None:
        """Answer `opened`, then one answer for each item, in order; `open_failed` if there is nothing to work with."""
        try:
            extract = self._extract(task)
        except MemoryError:
            self._answer("open_failed", "memory", "it needs more memory than a process may have")
            os._exit(1)
        except BaseException as error:
            # Also SystemExit: whatever a plug-in does at import must not end the child without a word.
            self._answer("open_failed", *_open_problem(error))
            return
        self._answer("opened")
        for index, pickled in enumerate(task.items):
            self._item(extract, index, pickled)

    def _item(self, extract: Extract, index: int, pickled: bytes) -> None:
        phase = "extract"
        try:
            rows = list(extract(pickle.loads(pickled)))  # noqa: S301 (from our own parent)
            phase = "result"
            answer = dump_answer(("rows", index, encode_rows(rows)))
        except MemoryError:
            self._answer("memory", index)
            # What is left of the memory is nothing to work with; the parent starts a fresh child.
            os._exit(1)
        except BaseException as error:
            trace = "" if isinstance(error, ItemError) else traceback.format_exc()[-_MAX_TRACE:]
            self._answer("failed", index, _reason(error), phase, _is_permanent(error), trace)
        else:
            send_frame(self._connection, answer)

    def _extract(self, task: Task) -> Extract:
        if task.key in self._open:
            self._open.move_to_end(task.key)
            return self._open[task.key]
        extractor = self._find(task.extractor_id)
        opened = extractor.open(extractor.params.model_validate(task.params), ExtractContext(self._catalog()))
        self._open[task.key] = opened
        if len(self._open) > _KEPT_OPEN:
            self._open.popitem(last=False)
        return opened

    def _find(self, extractor_id: str) -> Extractor:
        if self._extractors is None:
            found = [*discover("mediatheca.extractors", Extractor, ENTRY_POINTS)]
            for package in self._settings.plugins:
                found += discover(package, Extractor)
            self._extractors = {extractor.extractor_id: extractor for extractor in found}
        if extractor_id not in self._extractors:
            raise NotFoundError("extractor", extractor_id)
        return self._extractors[extractor_id]

    def _catalog(self) -> Models:
        if self._models is None:
            from mediatheca.providers._catalog import ModelCatalog

            providers = list(discover("mediatheca.providers", Provider, PROVIDERS))
            self._models = ModelCatalog(self._settings.model_settings, providers)
        return self._models

    def _answer(self, *answer: object) -> None:
        send_frame(self._connection, dump_answer(answer))


def _reason(error: BaseException) -> str:
    if isinstance(error, (ItemError, MediathecaError)):
        return str(error)[:_MAX_REASON]
    return f"{type(error).__name__}: {error}"[:_MAX_REASON]


def _is_permanent(error: BaseException) -> bool:
    """Whether the same item will fail again: not so for a model service or a network that is away."""
    if isinstance(error, ItemError):
        return error.permanent
    if isinstance(error, MediathecaError):
        return not error.retryable and error.status < 500
    return not isinstance(error, OSError)


def _open_problem(error: BaseException) -> tuple[str, str]:
    """What kind of problem it is, and what to say of it."""
    import pydantic

    if isinstance(error, pydantic.ValidationError):
        details = [f"{'.'.join(map(str, each['loc'])) or 'params'}: {each['msg']}" for each in error.errors()]
        return "params", "; ".join(details)[:_MAX_REASON]
    if isinstance(error, ValidationError):
        return "params", _reason(error)
    return "unknown" if isinstance(error, NotFoundError) else "other", _reason(error)


def _messages(connection: socket.socket) -> Iterator[Any]:
    reader = FrameReader(connection)
    while True:
        try:
            frames = reader.receive()
        except (EOFError, ConnectionError):
            return
        for frame in frames:
            yield pickle.loads(frame)  # noqa: S301 (from our own parent)


def main(arguments: Sequence[str]) -> None:
    """Serve tasks until the parent closes the socket."""
    descriptor, life = map(int, arguments)
    end_with_parent(life)
    connection = socket.socket(fileno=descriptor)
    messages = _messages(connection)
    settings = next(messages, None)
    if settings is None:
        return
    limit_memory(settings.memory_limit_mb)
    child = Child(connection, settings)
    for task in messages:
        child.work(task)


if __name__ == "__main__":
    # Under its own name, so that messages unpickle to these classes and not to those of `__main__`.
    from mediatheca.jobs.runner_child import main as real_main

    real_main(sys.argv[1:])
