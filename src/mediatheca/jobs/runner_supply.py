"""The files of items, brought to this machine as a runner takes the items: those it works on, and a few ahead."""

from __future__ import annotations

import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import TypeAlias

from mediatheca.extractors import Item, ItemError, Source

AHEAD = 8
"""Items whose files may be here, or on their way, before anybody works on them."""
AHEAD_BYTES = 256 << 20
"""Of files that wait so; beyond it only those of the very next item are brought."""
_THREADS = 8
_UNKNOWN_BYTES = AHEAD_BYTES // AHEAD
"""What a file counts whose size nobody knows before it is here."""


@dataclass(frozen=True, slots=True)
class Awaited(Source):
    """A file that is not on this machine yet: in the blob store (`store_key`), or at an address (`url`)."""

    store_key: str = ""
    url: str = ""
    size: int = 0
    """Bytes, where that is known."""


Bring: TypeAlias = Callable[[Awaited, Path], Source]
"""Writes a file to the path, and gives the source that it is then. Raises ItemError: this item cannot have its file,
and why; whatever else it raises ends the call of the runner. Called on several threads."""


def awaited(item: Item) -> Iterable[Awaited]:
    """The files that an item lacks."""
    return (source for given in item.inputs.values() for source in given if isinstance(source, Awaited))


def _expected(item: Item) -> int:
    return sum(source.size or _UNKNOWN_BYTES for source in awaited(item))


def with_sources(item: Item, change: Callable[[Source], Source]) -> Item:
    """The item with every source changed."""
    return replace(item, inputs={name: [change(source) for source in given] for name, given in item.inputs.items()})


@dataclass(slots=True, eq=False)
class _Held:
    """An item whose files are here, or on their way. `outcome`: the whole item, or why there is none."""

    folder: Path | None = None
    outcome: Item | Exception | None = None
    size: int = 0
    given: bool = False


class Supply:
    """The items of one call of a runner, whole when it is their turn.

    An item that lacks files is brought after `ask`, taken once it is `ready`, and its files are removed by `release`;
    then it may be asked for again. The call itself is one thread; `bring` runs on others. `folder` makes an empty one.
    """

    def __init__(self, items: Sequence[Item], bring: Bring | None, folder: Callable[[], Path]) -> None:
        self._items, self._bring, self._new_folder = items, bring, folder
        self._lacking = frozenset(n for n, item in enumerate(items) if any(True for _ in awaited(item)))
        if self._lacking and bring is None:
            raise ValueError("items lack files, and nothing is given that brings them")
        self._changed = threading.Condition()
        self._held: dict[int, _Held] = {}
        self._orders: deque[tuple[int, _Held]] = deque()
        self._threads = 0
        self._closed = False

    def lacks(self, index: int) -> bool:
        """Whether this item has files that must be brought."""
        return index in self._lacking

    def ask(self, upcoming: Iterable[int]) -> None:
        """Begin to bring what comes next, as far as there is room."""
        if not self._lacking:
            return
        with self._changed:
            ahead = [held for held in self._held.values() if not held.given]
            room, size = AHEAD - len(ahead), sum(held.size for held in ahead)
            for place, index in enumerate(islice(filter(self.lacks, upcoming), AHEAD)):
                if index in self._held:
                    continue
                size += (own := _expected(self._items[index]))
                if place and (room <= 0 or size > AHEAD_BYTES):
                    return
                room -= 1
                self._order(index, own)

    def ready(self, index: int) -> bool:
        """Whether `take` answers at once.

        Raises:
            Exception: what `bring` raised, if it was no ItemError.
        """
        if index not in self._lacking:
            return True
        with self._changed:
            held = self._held.get(index)
            outcome = None if held is None else held.outcome
        if isinstance(outcome, Exception) and not isinstance(outcome, ItemError):
            raise outcome
        return outcome is not None

    def take(self, index: int) -> Item:
        """An item that is ready. Raises ItemError: it cannot have its files."""
        if index not in self._lacking:
            return self._items[index]
        with self._changed:
            held = self._held[index]
            held.given = True
        if isinstance(held.outcome, Item):
            return held.outcome
        assert held.outcome is not None, "taken before it was ready"
        raise held.outcome

    def release(self, index: int) -> None:
        """Nobody works on the item any more."""
        with self._changed:
            held = self._held.pop(index, None)
        if held is not None and held.folder is not None:
            shutil.rmtree(held.folder, ignore_errors=True)

    def wait(self, timeout_s: float) -> None:
        """Until something has arrived."""
        with self._changed:
            self._changed.wait(timeout_s)

    def close(self) -> None:
        """Remove everything; what is still on its way is removed when it comes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for index in list(self._held):
            self.release(index)

    # On other threads

    def _order(self, index: int, size: int) -> None:
        held = self._held[index] = _Held(size=size)
        self._orders.append((index, held))
        if self._threads < min(_THREADS, len(self._held)):
            self._threads += 1
            # A daemon: the end of the process waits for no slow server.
            threading.Thread(target=self._work, name="runner-files", daemon=True).start()
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._orders and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                index, held = self._orders.popleft()
            self._fill(self._items[index], held)

    def _fill(self, item: Item, held: _Held) -> None:
        outcome: Item | Exception
        folder, size = None, 0
        try:
            folder = self._new_folder()
            outcome = self._whole(item, folder)
            size = sum(path.stat().st_size for path in folder.iterdir())
        except Exception as error:
            outcome = error
        failed = isinstance(outcome, Exception)
        with self._changed:
            held.folder, held.outcome, held.size = folder, outcome, size
            late = self._closed
            self._changed.notify_all()
        if folder is not None and (failed or late):
            shutil.rmtree(folder, ignore_errors=True)

    def _whole(self, item: Item, folder: Path) -> Item:
        names = count()

        def brought(source: Source) -> Source:
            if not isinstance(source, Awaited) or self._bring is None:
                return source
            return self._bring(source, folder / str(next(names)))

        return with_sources(item, brought)
