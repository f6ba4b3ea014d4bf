"""The uploaded extractors of this process: which a namespace has, their archives unpacked, a confined runner each."""

from __future__ import annotations

import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from mediatheca.extractors import Extractor, Item
from mediatheca.extractors._uploaded import read_manifest, uploaded_extractor
from mediatheca.flows.plugins.uploads import place
from mediatheca.jobs.confine import confinable
from mediatheca.jobs.runner import ItemResult, LocalRunner
from mediatheca.jobs.runner_pool import RunnerClosedError
from mediatheca.jobs.runner_supply import Bring
from mediatheca.kernel.errors import NotFoundError, UnavailableError
from mediatheca.kernel.scope import Scope
from mediatheca.providers import ModelSettings
from mediatheca.settings import Settings
from mediatheca.stores.blobs.base import BlobStore
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import ReadTx, Record

KIND = "plugin"
MAX_RUNNERS = 4
"""Plug-ins whose processes are kept; another one waits until one of them is idle."""
TTL_S = 5.0
"""How long a change made by another process may stay unseen."""
_WAIT_S = 60.0
QUERY_S = 20.0
"""What a query may take, and how long it waits for a place."""
_OPEN_S = 120.0
_OPEN_FOR_QUERY_S = 40.0
_GIGABYTE = 1024


_Key: TypeAlias = tuple[Scope, str, bool]
"""Namespace, archive, and whether it answers queries, which wait for no batch."""


@dataclass(slots=True)
class _Held:
    runner: LocalRunner
    users: int = 0


class PluginHost:
    """One for a process. Thread-safe."""

    def __init__(self, settings: Settings, database: Database, blobs: BlobStore, models: ModelSettings) -> None:
        self._settings, self._db, self._blobs = settings, database, blobs
        self._models = replace(models, hub=False, remote_url="", remote_key="")  # a stranger's code has no network
        self._root = settings.data_dir / "plugins"
        self._lock = threading.Condition()
        self._runners: OrderedDict[_Key, _Held] = OrderedDict()
        """What a process has seen of one namespace, no other gets to know."""
        self._known: dict[Scope, tuple[float, dict[str, Extractor]]] = {}
        self._closed = False
        database.listen(self._forget)

    def _forget(self, topics: set[str]) -> None:
        if "resource:plugin" in topics:
            self._known = {}

    # ---- which there are

    def all(self, scope: Scope) -> Mapping[str, Extractor]:
        """The deployed extractors of a namespace, by id."""
        held = self._known.get(scope)
        if held is not None and held[0] > time.monotonic():
            return held[1]
        known = self._known  # of before the look-up: a change that commits meanwhile replaces it
        with self._db.read(scope) as tx:
            found = {plugin.name: extractor_of(plugin) for plugin in active(tx)}
        known[scope] = (time.monotonic() + TTL_S, found)
        return found

    def find(self, scope: Scope, extractor_id: str) -> Extractor | None:
        """A deployed extractor of a namespace."""
        return self.all(scope).get(extractor_id)

    # ---- running them

    def runner(self, scope: Scope, extractor: Extractor, *, queries: bool = False) -> BoundRunner:
        """What runs an uploaded extractor, in processes of its own; others for `queries`.

        Raises:
            UnavailableError: this system cannot confine a process, or plug-ins are not allowed here.
        """
        self.need_confinement()
        return BoundRunner(self, scope, extractor, queries)

    def need_confinement(self) -> None:
        """Raises UnavailableError: nobody's code is run here, or nothing would hold it."""
        if not self._settings.allow_code:
            raise UnavailableError("uploaded plug-ins are switched off here; set MEDIATHECA_ALLOW_CODE=true")
        found = confinable()
        if not (found.landlock_abi and found.seccomp):
            raise UnavailableError(f"uploaded plug-ins need a Linux kernel with Landlock and seccomp; here is {found}")

    @contextmanager
    def lend(self, scope: Scope, extractor: Extractor, queries: bool) -> Iterator[LocalRunner]:
        """The runner of an archive, kept while others want fewer than there is room for."""
        key = (scope, extractor.archive, queries)
        with self._lock:
            held = self._take(key, extractor)
            held.users += 1
        try:
            yield held.runner
        finally:
            with self._lock:
                held.users -= 1
                self._lock.notify_all()

    def _take(self, key: _Key, extractor: Extractor) -> _Held:
        scope, _, queries = key
        deadline = time.monotonic() + (QUERY_S if queries else _WAIT_S)
        while True:
            if self._closed:
                raise RunnerClosedError("the server is stopping; the work is taken up again after the restart")
            held = self._runners.get(key)
            if held is not None:
                self._runners.move_to_end(key)
                return held
            if self._room():
                made = self._runners[key] = _Held(self._made(scope, extractor, queries))
                return made
            if not self._lock.wait(max(0.0, deadline - time.monotonic())):
                raise UnavailableError("all places for uploaded plug-ins are busy; try again")

    def _room(self) -> bool:
        """Whether there is a place, made by closing an idle runner where it must be."""
        if len(self._runners) < MAX_RUNNERS:
            return True
        idle = next((key for key, held in self._runners.items() if not held.users), None)
        if idle is None:
            return False
        self._runners.pop(idle).runner.close()
        return True

    def _made(self, scope: Scope, extractor: Extractor, queries: bool) -> LocalRunner:
        with self._db.read(scope) as tx:
            record = next((plugin for plugin in active(tx) if plugin.body["sha256"] == extractor.archive), None)
        if record is None:
            raise NotFoundError("plugin", extractor.extractor_id)
        return self.new_runner(scope, record, queries=queries)

    def new_runner(self, scope: Scope, record: Record, *, queries: bool = False) -> LocalRunner:
        """A runner of an archive; whoever asks closes it."""
        self.need_confinement()
        settings = self._settings
        wanted = record.body["manifest"].get("compute", {}).get("actor_memory_gb")
        asked = int(wanted * _GIGABYTE) if isinstance(wanted, int | float) and wanted > 0 else 2 * _GIGABYTE
        return LocalRunner(
            processes=1,
            memory_limit_mb=max(256, min(asked, settings.worker_memory_mb)),
            item_timeout_s=min(QUERY_S, settings.item_timeout_s) if queries else settings.item_timeout_s,
            model_settings=self._models,
            open_timeout_s=_OPEN_FOR_QUERY_S if queries else _OPEN_S,
            scratch=settings.data_dir / "scratch",
            archive=self.folder(scope, record),
        )

    def _place(self, scope: Scope, digest: str) -> Path:
        """Each namespace's own, so that whoever deletes a plug-in takes nothing from others that sent the same."""
        return self._root / scope.organization_id / (scope.namespace_id or "-") / digest

    def folder(self, scope: Scope, record: Record) -> Path:
        """Where an archive lies unpacked; unpacked once for all processes of this machine.

        Raises:
            UnavailableError: the file is not what was confirmed.
        """
        changed = UnavailableError(f"the archive of plug-in '{record.name}' is not the one that was confirmed")
        target = self._place(scope, str(record.body["sha256"]))
        return place(self._blobs, record, target, self._root, changed)

    def forget(self, scope: Scope, digest: str) -> None:
        """Close a namespace's runners of an archive and remove its files."""
        with self._lock:
            gone = [self._runners.pop((scope, digest, queries), None) for queries in (False, True)]
        for held in gone:
            if held is not None:
                held.runner.close()
        shutil.rmtree(self._place(scope, digest), ignore_errors=True)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for held in self._runners.values():
                held.runner.close()
            self._runners.clear()
            self._lock.notify_all()


@dataclass(frozen=True, slots=True)
class BoundRunner:
    """Runs one uploaded extractor: what `Runner.map` is for the others."""

    host: PluginHost
    scope: Scope
    extractor: Extractor
    queries: bool = False

    def map(
        self,
        extractor_id: str,
        params: Mapping[str, Any],
        items: Sequence[Item],
        *rest: Any,
        bring: Bring | None = None,
        **named: Any,
    ) -> Iterator[ItemResult]:
        """As `Runner.map`. The desk is not passed on: nothing outside is fetched for a stranger's code."""
        with self.host.lend(self.scope, self.extractor, self.queries) as runner:
            yield from runner.map(extractor_id, params, items, bring=bring)


def active(tx: ReadTx) -> list[Record]:
    """The plug-ins that collections of this namespace may use."""
    return [plugin for plugin in tx.resources(KIND) if plugin.body.get("active")]


def extractor_of(record: Record) -> Extractor:
    """The extractor that a stored plug-in declares."""
    return uploaded_extractor(read_manifest(record.body["manifest_source"]), str(record.body["sha256"]))
