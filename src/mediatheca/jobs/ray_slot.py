"""One place of work on a Ray cluster: an actor around a runner with one child of its own.

The same limits and kills as on one machine: the child opens strangers' files, the actor only minds it. Whoever started
the work reads what happens with `events`, again and again: results, questions to the desk, the end. Nothing here
imports Ray; an actor is made of `Slot` by `ray_runner`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import queue
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import mediatheca
from mediatheca.extractors import Artifact, Item, Row, Source
from mediatheca.jobs.runner import LocalRunner
from mediatheca.jobs.runner_asks import AskingDesk
from mediatheca.jobs.runner_pool import ScratchRoot
from mediatheca.jobs.runner_results import ItemResult, ItemRows
from mediatheca.jobs.runner_supply import with_sources
from mediatheca.kernel.errors import MediathecaError, UnavailableError
from mediatheca.providers import ModelSettings

PIECE_BYTES = 16 << 20
"""Files travel in pieces of this size."""
LISTEN_S = 5.0
"""`events` answers at least this often, so that its silence says that the node is gone."""
_ANSWER_BYTES = 64 << 20
_WAITING_EVENTS = 16
"""What is not fetched holds up the work: a slow reader costs no memory here."""

Event: TypeAlias = tuple[Any, ...]
"""("result", ItemResult) · ("file", name, offset, piece) · ("ask", number, name, payload) · ("error", packed error) ·
("done",)"""


@dataclass(frozen=True, slots=True)
class SlotSettings:
    """How the runner of a slot is made; see `LocalRunner`."""

    memory_limit_mb: int
    item_timeout_s: float
    open_timeout_s: float
    model_settings: ModelSettings
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """Items (each pickled by itself) for one extractor. Sources whose path is in `files` were sent with `store`."""

    extractor_id: str
    params: dict[str, Any]
    items: tuple[bytes, ...]
    files: frozenset[str]
    query: str = ""


class Slot:
    """The actor. `work` is called by one thread at a time; `events`, `answer` and `store` beside it."""

    def __init__(self, settings: SlotSettings) -> None:
        root = ScratchRoot(_own_folder())
        self._runner = LocalRunner(
            1,
            settings.memory_limit_mb,
            settings.item_timeout_s,
            settings.model_settings,
            settings.plugins,
            open_timeout_s=settings.open_timeout_s,
            scratch=root.folder,
        )
        self._folder = root.new()
        self._events: queue.Queue[Event] = queue.Queue(_WAITING_EVENTS)
        self._desk = AskingDesk(self._events.put)
        self._names = itertools.count()

    def hello(self) -> str:
        """What the code here is: a cluster of several versions gives results of several versions."""
        return versions()

    def store(self, name: str, offset: int, piece: bytes) -> None:
        """A piece of a file of the next part."""
        with open(self._folder / name, "r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(piece)

    def work(self, part: Part) -> None:
        """Do a part. What comes of it is in `events`, `done` at the end."""
        try:
            items = [self._item(pickled, part.files) for pickled in part.items]
            results = self._runner.map(part.extractor_id, part.params, items, self._desk, query=part.query)
            for result in results:
                self._events.put(("result", self._sent(result)))
        except MediathecaError as error:
            self._events.put(("error", packed_error(error)))
        except Exception as error:
            problem = UnavailableError(f"a worker of the Ray cluster failed: {type(error).__name__}: {error}")
            self._events.put(("error", packed_error(problem)))
        finally:
            for name in part.files:
                (self._folder / name).unlink(missing_ok=True)
            self._events.put(("done",))

    def events(self) -> bytes:
        """A pickled list of events in their order; waits for the first, for `LISTEN_S` at most."""
        found: list[Event] = []
        size = 0
        with contextlib.suppress(queue.Empty):
            found.append(self._events.get(timeout=LISTEN_S))
            while size < _ANSWER_BYTES:
                size += _size(found[-1])
                found.append(self._events.get_nowait())
        return pickle.dumps(found, protocol=5)

    def answer(self, number: int, good: bool, payload: Any) -> None:
        """What the desk said to a question, as `Question.put` gives it."""
        self._desk.answered(number, good, payload)

    def _item(self, pickled: bytes, files: frozenset[str]) -> Item:
        item: Item = pickle.loads(pickled)  # noqa: S301 (from our own server)
        return with_sources(item, lambda source: self._placed(source, files)) if files else item

    def _placed(self, source: Source, files: frozenset[str]) -> Source:
        return replace(source, path=str(self._folder / source.path)) if source.path in files else source

    def _sent(self, result: ItemResult) -> ItemResult:
        """The result, after its files: their paths become names."""
        if isinstance(result, ItemRows):
            sent: dict[str, str] = {}
            for row in result.rows:
                row.artifacts = {key: self._sent_file(artifact, sent) for key, artifact in row.artifacts.items()}
        return result

    def _sent_file(self, artifact: Artifact, sent: dict[str, str]) -> Artifact:
        if artifact.path is None:
            return artifact
        if artifact.path not in sent:  # several rows may name one file
            sent[artifact.path] = f"{next(self._names)}"
            for offset, piece in pieces(artifact.path):
                self._events.put(("file", sent[artifact.path], offset, piece))
        return replace(artifact, path=sent[artifact.path])


def _own_folder() -> Path:
    """A folder of this user on this node. Actors are killed, not closed: the next one sweeps what is old there.

    Raises:
        UnavailableError: somebody else has made it.
    """
    folder = Path(tempfile.gettempdir()) / f"mediatheca-slots-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077 or not stat.S_ISDIR(found.st_mode):
        raise UnavailableError(f"'{folder}' must be a folder that belongs to us alone; remove it")
    return folder


def versions() -> str:
    """Of ours and of Python."""
    return f"mediatheca {mediatheca.__version__}, Python {sys.version_info.major}.{sys.version_info.minor}"


def pieces(path: str) -> Iterator[tuple[int, bytes]]:
    """A file in pieces with their offsets; one piece where it is empty."""
    offset = 0
    with open(path, "rb") as file:
        while (piece := file.read(PIECE_BYTES)) or not offset:
            yield offset, piece
            if not piece:
                return
            offset += len(piece)


def packed_error(error: MediathecaError) -> tuple[type[MediathecaError], str, dict[str, Any]]:
    """An error as it can be pickled: its class may want other arguments than its message."""
    return type(error), str(error), dict(vars(error))


def unpacked_error(packed: tuple[type[MediathecaError], str, dict[str, Any]]) -> MediathecaError:
    kind, message, values = packed
    error = kind.__new__(kind, message)
    vars(error).update(values)
    return error


def _size(event: Event) -> int:
    """Bytes of an event, roughly: what is large in it."""
    if event[0] == "file":
        return len(event[3])
    if event[0] == "result" and isinstance(event[1], ItemRows):
        return sum(_row_size(row) for row in event[1].rows)
    return 0


def _row_size(row: Row) -> int:
    return sum(len(each.data) for each in row.artifacts.values()) + sum(v.nbytes for v in row.vectors.values())
