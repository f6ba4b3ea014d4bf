"""Open Edge shards: opened when first used, closed when others are used more, swapped under running queries."""

from __future__ import annotations

import shutil
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from mediatheca.kernel.errors import NotFoundError, UnavailableError
from mediatheca.stores.index.base import IndexSpec
from mediatheca.stores.index.edge_shard import EdgeShard
from mediatheca.stores.index.shard_files import (
    CollectionFiles,
    read_spec,
    read_watermark,
    require_space,
    write_spec,
)

_log = structlog.get_logger(__name__)
_ENVIRONMENT = (
    "WouldBlock",
    "os error 11)",
    "os error 12)",
    "os error 13)",
    "os error 23)",
    "os error 24)",
    "os error 28)",
)
"""Marks of errors that say nothing about the files: lock, memory, permission, descriptors, disk full."""


@dataclass(slots=True, eq=False)
class Held:
    """An open shard. `pins` counts the calls inside it; a retired one is closed when the last leaves."""

    collection_id: str
    shard: EdgeShard
    generation: Path
    watermark: int
    pins: int = 0
    dirty: bool = False
    retired: bool = False
    remove: bool = False


@contextmanager
def _translated(collection_id: str) -> Iterator[None]:
    """Engine and file errors as ours. The engine raises plain `Exception`, and panics past `Exception`."""
    try:
        yield
    except BaseException as error:
        if type(error) is Exception or isinstance(error, OSError) or type(error).__name__ == "PanicException":
            raise UnavailableError(
                f"search index of collection '{collection_id}' failed: {error}. Check free disk space and memory."
            ) from error
        raise


class ShardPool:
    """Thread-safe. At most `limit` shards stay open, more only while calls are inside them."""

    def __init__(self, root: Path, limit: int) -> None:
        self._root = root
        self._limit = max(1, limit)
        self._lock = threading.RLock()
        self._open: OrderedDict[str, Held] = OrderedDict()
        self._writers: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._cleaned: set[str] = set()
        self._closed = False

    def files(self, collection_id: str) -> CollectionFiles:
        return CollectionFiles(self._root, collection_id)

    @contextmanager
    def reading(self, collection_id: str) -> Iterator[Held]:
        """The shard of a collection, which stays open inside.

        Raises:
            NotFoundError: the collection has no index: `ensure` makes one.
            UnavailableError: the engine failed.
        """
        with _translated(collection_id):
            held = self._pin(collection_id)
            try:
                yield held
            finally:
                self._unpin(held)

    @contextmanager
    def writing(self, collection_id: str) -> Iterator[Held]:
        """As `reading`, one writer at a time; a swap waits for it, so no write lands in a shard swapped away."""
        require_space(self._root)
        with self.writer(collection_id), self.reading(collection_id) as held:
            held.dirty = True
            yield held

    def writer(self, collection_id: str) -> threading.RLock:
        with self._lock:
            return self._writers[collection_id]

    def _pin(self, collection_id: str) -> Held:
        with self._lock:
            held = self._open.get(collection_id)
            if held is None:
                held = self._load(collection_id)
                self._put(held)
            else:
                self._open.move_to_end(collection_id)
            held.pins += 1
            return held

    def _unpin(self, held: Held) -> None:
        with self._lock:
            held.pins -= 1
            if held.retired and not held.pins:
                self._close(held)

    def _put(self, held: Held) -> None:
        self._open[held.collection_id] = held
        idle = [other for other in self._open.values() if not other.pins and other is not held]
        for other in idle[: max(0, len(self._open) - self._limit)]:
            self._retire(other)

    def _retire(self, held: Held, *, remove: bool = False) -> None:
        if self._open.get(held.collection_id) is held:
            del self._open[held.collection_id]
        held.retired, held.remove = True, remove
        if not held.pins:
            self._close(held)

    def _close(self, held: Held) -> None:
        try:
            if held.dirty and not held.remove:
                held.shard.flush()
            held.shard.close()
        except Exception as error:
            _log.error("index_close_failed", collection_id=held.collection_id, error=str(error))
        if held.remove:
            shutil.rmtree(held.generation, ignore_errors=True)

    def _load(self, collection_id: str) -> Held:
        if self._closed:
            raise UnavailableError("the search index is closed: the server is stopping")
        require_space(self._root)
        files = self.files(collection_id)
        self.clean(collection_id)
        generation = files.current()
        if generation is None:
            raise NotFoundError("search index of collection", collection_id)
        spec: IndexSpec | None = None
        try:
            spec = read_spec(generation)
            shard = EdgeShard.load(generation / "shard", spec)
            return Held(collection_id, shard, generation, read_watermark(generation))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            return self._recover(collection_id, generation, spec, error)

    def _recover(self, collection_id: str, generation: Path, spec: IndexSpec | None, error: BaseException) -> Held:
        """A damaged shard is moved aside; an empty one at watermark 0 takes its place and is filled by replay."""
        if any(mark in str(error) for mark in _ENVIRONMENT):
            raise UnavailableError(
                f"search index of collection '{collection_id}' cannot be opened: {error}. "
                "Check permissions, free disk space, memory and the limit of open files."
            ) from error
        aside = self.files(collection_id).set_aside(generation)
        _log.error("index_damaged", collection_id=collection_id, error=str(error), moved_to=str(aside))
        if spec is None:
            raise NotFoundError("search index of collection", collection_id) from error
        return self.fresh(spec)

    def clean(self, collection_id: str) -> None:
        """Remove leftovers of an earlier process, once: later ones belong to running rebuilds."""
        with self._lock:
            if collection_id not in self._cleaned:
                self.files(collection_id).clean()
                self._cleaned.add(collection_id)

    def fresh(self, spec: IndexSpec) -> Held:
        """Make an empty current generation."""
        require_space(self._root)
        files = self.files(spec.collection_id)
        generation = files.new_generation()
        shard = EdgeShard.create(generation / "shard", spec)
        shard.flush()
        write_spec(generation, spec)
        files.make_current(generation)
        return Held(spec.collection_id, shard, generation, 0)

    def ensure(self, spec: IndexSpec) -> None:
        with self.writer(spec.collection_id), self._lock, _translated(spec.collection_id):
            try:
                held = self._pin(spec.collection_id)
            except NotFoundError:
                self._put(self.fresh(spec))
                return
            try:
                if held.shard.extend(spec):
                    held.shard.flush()
                    write_spec(held.generation, held.shard.spec(spec.collection_id))
            finally:
                self._unpin(held)

    def swap(self, spec: IndexSpec, generation: Path, watermark: int) -> None:
        """Let a finished generation answer; the old one is removed when the last call has left it."""
        collection_id = spec.collection_id
        shard = EdgeShard.load(generation / "shard", spec)
        with self.writer(collection_id), self._lock:
            try:
                previous = self.files(collection_id).current()
                self.files(collection_id).make_current(generation)
            except OSError as error:
                shard.close()
                raise UnavailableError(
                    f"rebuilt index of collection '{collection_id}' cannot be swapped in: {error}. "
                    "Was the collection dropped meanwhile, or is the disk full?"
                ) from error
            old = self._open.pop(collection_id, None)
            self._put(Held(collection_id, shard, generation, watermark))
            if old is not None:
                self._retire(old, remove=True)
            elif previous is not None:
                shutil.rmtree(previous, ignore_errors=True)

    def drop(self, collection_id: str) -> None:
        with self.writer(collection_id), self._lock:
            held = self._open.pop(collection_id, None)
            if held is not None:
                self._retire(held, remove=True)
            self.files(collection_id).drop()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for held in list(self._open.values()):
                self._retire(held)
