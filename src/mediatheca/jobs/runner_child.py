"""The child process of the runner: opens extractors, works through items, answers item by item.

Started as `python -m mediatheca.jobs.runner_child SOCKET LIFE` with two inherited descriptors. It ends when the
parent does, however that ends and whatever the child is doing then: `LIFE` is a pipe the parent never writes to; when
the parent is gone the kernel sends SIGIO to the child's whole process group, whose default action is to terminate.

A confined child may from its start read only programs, models and its own folder, and write only models and that
folder; once an extractor is open, the last thing before a stranger's file comes near, also models are read-only and the
network is gone. What an extractor needs from outside it asks of the parent (`runner_asks`).
"""

from __future__ import annotations

import os
import pickle
import queue
import resource
import shutil
import socket
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mediatheca.extractors import (
    CUTTING,
    ENTRY_POINTS,
    CutFile,
    Dropped,
    Extract,
    ExtractContext,
    Extractor,
    Item,
    ItemError,
    Row,
)
from mediatheca.jobs.children import end_with_parent, limit_memory
from mediatheca.jobs.confine import readable, restrict_calls, restrict_files
from mediatheca.jobs.plugin_child import confine_uploaded, load_archive
from mediatheca.jobs.runner_asks import AskingDesk
from mediatheca.jobs.runner_wire import (
    MAX_FILE_BYTES,
    FrameReader,
    Outbox,
    dump_answer,
    encode_dropped,
    encode_rows,
    send_frame,
)
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.errors import MediathecaError, NotFoundError, ValidationError
from mediatheca.kernel.models import Models
from mediatheca.kernel.stopwatch import Stopwatch
from mediatheca.providers import ENTRY_POINTS as PROVIDERS
from mediatheca.providers import ModelSettings, Provider

_KEPT_OPEN = 8
_MAX_REASON = 500
_MAX_TRACE = 4000
_BEAT_S = 0.25
"""Beats that come faster are not sent."""
WRITABLE = ("scratch", "out", "tmp")
"""Of its own folder, what a child may write. Not the files it is lent, which are the blob store's own by another name,
nor the folder that they lie in, which the parent opens by its path."""


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """The first message to a child. `plugins`: packages scanned for extractors besides our own."""

    memory_limit_mb: int
    model_settings: ModelSettings
    plugins: tuple[str, ...] = ()
    home: str = ""
    """The child's own folder."""
    confined: bool = False
    archive: str = ""
    """The folder of an uploaded extractor: the only one, and nothing of it is imported before the child is confined."""


@dataclass(frozen=True, slots=True)
class Task:
    """A message to a child: items (each pickled by itself) for one extractor. `key` names extractor and params."""

    key: str
    extractor_id: str
    params: dict[str, Any]
    items: tuple[bytes, ...]
    query: str = ""
    """Not empty: the items are files of queries, and only this output of the extractor is wanted."""


def find_providers(plugins: Sequence[str]) -> list[Provider]:
    """Ours, those of entry points, and those of the operator's packages."""
    found = list(discover("mediatheca.providers", Provider, PROVIDERS))
    return found + [provider for package in plugins for provider in discover(package, Provider)]


class Child:
    """The state of a child process."""

    def __init__(self, connection: socket.socket, settings: ChildSettings) -> None:
        self._connection, self._settings = connection, settings
        self._open: OrderedDict[str, Extract] = OrderedDict()
        self._extractors: dict[str, Extractor] | None = None
        self._models: Models | None = None
        self._sending = threading.Lock()
        self._beaten = 0.0
        home = Path(settings.home)
        self._scratch = home / "scratch"
        self._outbox = Outbox(self._scratch, home / "out")
        self.desk = AskingDesk(lambda message: self._answer(*message))
        self._watch = Stopwatch()
        self._closed_in = bool(settings.archive)

    def work(self, task: Task) -> None:
        """Answer `opened`, then one answer for each item, in order; `open_failed` if there is nothing to work with."""
        try:
            extract = self._extract(task)
        except MemoryError:
            self._answer("open_failed", "memory", "it needs more memory than a process may have")
            os._exit(1)
        except BaseException as error:
            # Also SystemExit: whatever a plug-in does at import must not end the child without a word.
            problem, reason = _open_problem(error)
            self._answer("open_failed", "confined" if self._closed_in and problem == "other" else problem, reason)
            return
        self._close_in()
        self._answer("opened")
        for index, pickled in enumerate(task.items):
            self._item(extract, index, pickled)
            self._clear()

    def _close_in(self) -> None:
        """From here on strangers' files are opened."""
        if self._settings.confined and not self._closed_in:
            home, settings = Path(self._settings.home), self._settings.model_settings
            restrict_files(readable(settings.models_dir, home), _writable(home), scope=False)
            restrict_calls(network=bool(settings.remote_url), processes=True)
            resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
            self._closed_in = True

    def _item(self, extract: Extract, index: int, pickled: bytes) -> None:
        phase = "extract"
        try:
            made, times = self._made(extract, pickle.loads(pickled))  # noqa: S301 (from our own parent)
            phase = "result"
            dropped = encode_dropped([each for each in made if isinstance(each, Dropped)])
            rows = encode_rows([each for each in made if not isinstance(each, Dropped)], self._outbox)
            answer = dump_answer(("rows", index, rows, dropped, times))
        except MemoryError:
            self._answer("memory", index)
            # What is left of the memory is nothing to work with; the parent starts a fresh child.
            os._exit(1)
        except BaseException as error:
            trace = "" if isinstance(error, ItemError) else traceback.format_exc()[-_MAX_TRACE:]
            self._answer("failed", index, _reason(error), phase, _is_permanent(error), trace)
        else:
            self._send(answer)

    def _made(self, extract: Extract, item: Item) -> tuple[list[Row | Dropped], dict[str, float]]:
        self._watch.take()
        self._beaten = started = time.perf_counter()
        made = list(extract(item))
        return made, {**self._watch.take(), "item": time.perf_counter() - started}

    def _beat(self, done: float) -> None:
        now = time.perf_counter()
        if now - self._beaten >= _BEAT_S:
            self._beaten = now
            self._answer("beat", float(done))

    def _clear(self) -> None:
        """The scratch folder is each item's own."""
        for entry in os.scandir(self._scratch):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)

    def _extract(self, task: Task) -> Extract:
        if task.key in self._open:
            self._open.move_to_end(task.key)
            return self._open[task.key]
        extractor = self._find(task.extractor_id)
        context = ExtractContext(self._catalog(), self._scratch, self.desk, self._beat, self._watch)
        params = extractor.params.model_validate(task.params)
        if task.query:
            opened = query_extract(extractor, params, task.query, context)
        else:
            opened = extractor.open(params, context)
        self._open[task.key] = opened
        if len(self._open) > _KEPT_OPEN:
            self._open.popitem(last=False)
        return opened

    def _find(self, extractor_id: str) -> Extractor:
        if self._extractors is None:
            self._extractors = {extractor.extractor_id: extractor for extractor in self._all()}
        if extractor_id not in self._extractors:
            raise NotFoundError("extractor", extractor_id)
        return self._extractors[extractor_id]

    def _all(self) -> Iterator[Extractor]:
        if self._settings.archive:
            yield load_archive(Path(self._settings.archive))
            return
        yield from discover("mediatheca.extractors", Extractor, ENTRY_POINTS)
        for package in self._settings.plugins:
            yield from discover(package, Extractor)

    def _catalog(self) -> Models:
        if self._models is None:
            from mediatheca.providers._catalog import ModelCatalog

            providers = find_providers(self._settings.plugins)
            self._models = ModelCatalog(self._settings.model_settings, providers)
        return self._models

    def _answer(self, *answer: object) -> None:
        self._send(dump_answer(answer))

    def _send(self, frame: bytes) -> None:
        with self._sending:
            send_frame(self._connection, frame)


def query_extract(extractor: Extractor, params: Any, output: str, context: ExtractContext) -> Extract:
    """What gives, for an item whose only source is the file of a query, one row with the vector of an output; or one
    for each piece, where the item asks for pieces and the file has some."""
    if extractor.query is None:
        return extractor.open(params, context)
    embed = extractor.query(params, output, context)

    def extract(item: Item) -> Iterator[Row]:
        source, how = next(iter(item.inputs.values()))[0], item.fields.get(CUTTING)
        pieces = embed.pieces(source, how) if how is not None and isinstance(embed, CutFile) else iter(())
        first = next(pieces, None)
        if first is None:
            yield Row({}, {output: embed(source)})
            return
        yield first
        yield from pieces

    return extract


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
    if isinstance(error, TimeoutError | ConnectionError):
        return False
    return not isinstance(error, OSError) or error.errno is None  # decoders raise OSErrors of their own for bad bytes


def _open_problem(error: BaseException) -> tuple[str, str]:
    """What kind of problem it is, and what to say of it."""
    import pydantic

    if isinstance(error, pydantic.ValidationError):
        details = [f"{'.'.join(map(str, each['loc'])) or 'params'}: {each['msg']}" for each in error.errors()]
        return "params", "; ".join(details)[:_MAX_REASON]
    if isinstance(error, ValidationError):
        return "params", _reason(error)
    return "unknown" if isinstance(error, NotFoundError) else "other", _reason(error)


class Mail:
    """Reads what the parent sends on a thread of its own: answers to questions reach who asked while it works."""

    def __init__(self, connection: socket.socket) -> None:
        self._reader = FrameReader(connection)
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._early: list[bytes] = []

    def first(self) -> Any:
        """The first message; None when the parent has gone."""
        while not self._early:
            try:
                self._early = self._reader.receive()
            except (EOFError, ConnectionError):
                return None
        return pickle.loads(self._early.pop(0))  # noqa: S301 (from our own parent)

    def sort(self, desk: AskingDesk) -> None:
        """Until the parent has gone."""
        frames, self._early = self._early, []
        while True:
            for frame in frames:
                message = pickle.loads(frame)  # noqa: S301 (from our own parent)
                if isinstance(message, Task):
                    self._tasks.put(message)
                else:
                    _, number, good, payload = message
                    desk.answered(number, good, payload)
            try:
                frames = self._reader.receive()
            except (EOFError, OSError):
                break
        desk.close()
        self._tasks.put(None)

    def tasks(self) -> Iterator[Task]:
        while (task := self._tasks.get()) is not None:
            yield task


def _writable(home: Path) -> list[Path]:
    return [home / name for name in WRITABLE]


def _confine_from_the_start(settings: ChildSettings) -> None:
    """Before there are other threads: files are each thread's own affair.

    Raises:
        UnavailableError: a stranger's code cannot be confined by this kernel, so it does not run.
    """
    home, models = Path(settings.home), settings.model_settings.models_dir
    if settings.archive:
        confine_uploaded(Path(settings.archive), home, _writable(home))
    elif settings.confined:
        models.mkdir(parents=True, exist_ok=True)
        restrict_files(readable(models, home), [*_writable(home), models])


def main(arguments: Sequence[str]) -> None:
    """Serve tasks until the parent closes the socket."""
    descriptor, life = map(int, arguments)
    end_with_parent(life)
    connection = socket.socket(fileno=descriptor)
    mail = Mail(connection)
    settings: ChildSettings | None = mail.first()
    if settings is None:
        return
    limit_memory(settings.memory_limit_mb)
    _confine_from_the_start(settings)
    child = Child(connection, settings)
    threading.Thread(target=mail.sort, args=(child.desk,), name="mail", daemon=True).start()
    for task in mail.tasks():
        child.work(task)


if __name__ == "__main__":
    # Under its own name, so that messages unpickle to these classes and not to those of `__main__`.
    from mediatheca.jobs.runner_child import main as real_main

    real_main(sys.argv[1:])
