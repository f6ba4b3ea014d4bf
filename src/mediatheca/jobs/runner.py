"""Runs extractors over items in child processes of this machine, so that a bad item costs itself and nothing else.

An item may raise, crash the interpreter, hang, or eat memory: the child dies or is killed, a fresh one goes on with
the other items, and the item is tried once more at the end. The second time it is given up for good. Children answer
item by item, so the one at fault is known: the first without an answer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from mediatheca.extractors import Extractor, Item
from mediatheca.jobs.runner_child import ChildSettings, find_providers
from mediatheca.jobs.runner_pool import Pool, ScratchRoot
from mediatheca.jobs.runner_results import ItemFailure, ItemProgress, ItemResult, ItemRows
from mediatheca.jobs.runner_supply import Bring, Supply
from mediatheca.jobs.runner_work import Work
from mediatheca.kernel.desk import NO_DESK, Desk
from mediatheca.kernel.discovery import discover
from mediatheca.providers import ModelSettings

__all__ = ["ItemFailure", "ItemProgress", "ItemResult", "ItemRows", "LocalRunner", "Runner", "RunnerInfo"]

_OURS = "mediatheca."
_ASKS_PER_CHILD = 4


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """What a runner is."""

    processes: int
    """How many items it works on at the same time."""
    kind: str
    """`local` or `ray`. Only a local one reads paths of this machine."""


class Runner(Protocol):
    """Executes extractors; holds no state that matters. Thread-safe."""

    def map(
        self,
        extractor_id: str,
        params: Mapping[str, Any],
        items: Sequence[Item],
        desk: Desk = NO_DESK,
        *,
        query: str = "",
        bring: Bring | None = None,
    ) -> Iterator[ItemResult]:
        """One `ItemRows` or `ItemFailure` for every item, in the order they are done; between them `ItemProgress` of
        those that take long. `desk` answers what the extractor asks. With `query`, the items are files of queries, one
        source each, and the rows hold the vector of that output. `bring` writes the files that items lack (`Awaited`)
        to this machine: of those that are worked on and a few more, until each is done; where it cannot, the item
        fails in phase `fetch`.

        Closing the iterator early stops the work.

        Raises:
            Exception: whatever `bring` raises that is no ItemError.
            NotFoundError: no such extractor.
            ValidationError: it does not take these params.
            UnavailableError: it cannot be opened (a missing model), or no process can be started.
            RunnerClosedError: the runner was closed meanwhile.
        """

    def describe(self) -> RunnerInfo: ...

    def close(self) -> None:
        """Stop all work."""


class LocalRunner:
    """A `Runner` with at most `processes` children on this machine.

    `memory_limit_mb` is for each child, models included; `item_timeout_s` for each item, from its last beat;
    `open_timeout_s` for loading an extractor. `plugins` are packages scanned for extractors besides the built-in and
    installed ones. `scratch` is where children have their folders, best on the file system of the blobs. Our own
    extractors run `confined`; those of the operator's plug-ins may need what we do not know of. With `archive`, a
    folder that a stranger uploaded, its extractor is the only one, and children confine themselves before they import
    it.
    """

    def __init__(
        self,
        processes: int,
        memory_limit_mb: int,
        item_timeout_s: float,
        model_settings: ModelSettings,
        plugins: Sequence[str] = (),
        *,
        open_timeout_s: float = 300.0,
        scratch: Path | None = None,
        confined: bool = True,
        archive: Path | None = None,
    ) -> None:
        if processes < 1:
            raise ValueError(f"a runner needs at least one process, got {processes}")
        uploaded = "" if archive is None else str(archive.absolute())
        settings = ChildSettings(memory_limit_mb, model_settings, tuple(plugins), archive=uploaded)
        self.processes = processes
        self.item_timeout_s, self.open_timeout_s = item_timeout_s, open_timeout_s
        self.memory_limit = memory_limit_mb << 20
        self.scratch = ScratchRoot(scratch)
        self.pool = Pool(processes, settings, item_timeout_s, self.scratch)
        self._confined, self._archive, self._threads_lock = confined, archive, threading.Lock()
        self._plugins = tuple(plugins)
        self._threads: ThreadPoolExecutor | None = None

    def map(
        self,
        extractor_id: str,
        params: Mapping[str, Any],
        items: Sequence[Item],
        desk: Desk = NO_DESK,
        *,
        query: str = "",
        bring: Bring | None = None,
    ) -> Iterator[ItemResult]:
        supply = Supply(items, bring, self.scratch.new)
        return Work(self, extractor_id, dict(params), items, desk, query, supply).run()

    def describe(self) -> RunnerInfo:
        return RunnerInfo(self.processes, "local")

    def confines(self, extractor_id: str) -> bool:
        """Whether an extractor runs confined."""
        return self._archive is not None or (self._confined and extractor_id in self._own)

    @cached_property
    def _own(self) -> frozenset[str]:
        """Extractors that need nothing but us: ours, unless models come from somebody else's code."""
        try:
            providers = find_providers(self._plugins)
        except ImportError:  # the child says which package there is not
            return frozenset()
        if not all(provider.load.__module__.startswith(_OURS) for provider in providers):
            return frozenset()
        return frozenset(found.extractor_id for found in discover("mediatheca.extractors", Extractor))

    @property
    def asks(self) -> ThreadPoolExecutor:
        """The threads that answer what children ask."""
        with self._threads_lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_ASKS_PER_CHILD * self.processes, "runner-asks")
            return self._threads

    def close(self) -> None:
        self.pool.close()
        with self._threads_lock:
            if self._threads is not None:
                self._threads.shutdown(wait=False, cancel_futures=True)
        self.scratch.close()
