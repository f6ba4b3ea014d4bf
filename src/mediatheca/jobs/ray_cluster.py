"""The Ray cluster of this process: how it is entered and left, and the workers it lends. Only here Ray is imported."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mediatheca.jobs.ray_slot import Slot, SlotSettings, versions
from mediatheca.jobs.runner_pool import RunnerClosedError
from mediatheca.kernel.errors import UnavailableError

_TICK_S = 0.2
_ACTOR = {"num_cpus": 1, "max_concurrency": 5, "max_restarts": 0, "max_task_retries": 0}
_LOCAL_STORE_BYTES = 256 << 20
_ATTEMPTS = 3
_CONNECTING = threading.Lock()


class RayCluster:
    """This process's membership in a cluster; entered when it is first needed."""

    def __init__(self, url: str, processes: int) -> None:
        self.place = url.removeprefix("ray://")
        if not url.startswith("ray://") or not self.place:
            raise UnavailableError(f"MEDIATHECA_RUNNER_URL: '{url}' is not ray://host:port, ray://auto or ray://local")
        self._processes = processes
        self._keeper: ThreadPoolExecutor | None = None
        """Of a cluster that we have entered ourselves."""

    @property
    def shares_files(self) -> bool:
        """Whether paths of this machine are those of the workers."""
        return self.place == "local"

    def enter(self) -> None:
        """Connect, unless this process is connected already.

        Raises:
            UnavailableError: nobody answers there, or with another version of Ray or Python.
        """
        import ray

        with _CONNECTING:
            if ray.is_initialized():
                return
            if self._keeper is not None:  # of a connection that was lost
                self._keeper.shutdown()
            # Of the head only; it would tell its makers how it is used.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            # In a thread of its own: in the main one Ray would take over how we end (SIGTERM). The thread must stay:
            # the kernel ends Ray's own processes when the thread that has started them ends.
            keeper = ThreadPoolExecutor(1, thread_name_prefix="ray-keeper")
            try:
                keeper.submit(self._init).result()
            except Exception as error:
                keeper.shutdown()
                raise UnavailableError(
                    f"MEDIATHECA_RUNNER_URL: the Ray cluster at '{self.place}' does not let us in: {first_line(error)}"
                ) from error
            self._keeper = keeper

    def _init(self) -> None:
        """A busy head may take longer to start our server there than it allows itself: then once more."""
        import ray

        for attempt in range(1, _ATTEMPTS + 1):
            try:
                ray.init(**self._options())
                return
            except ConnectionAbortedError:
                ray.shutdown()
                if attempt == _ATTEMPTS:
                    raise

    def _options(self) -> dict[str, Any]:
        quiet = {"logging_level": "error", "log_to_driver": False}
        if self.place == "auto":
            return {"address": "auto", **quiet}
        if self.place != "local":
            return {"address": f"ray://{self.place}", "logging_level": "error"}
        alone = {"include_dashboard": False, "object_store_memory": _LOCAL_STORE_BYTES}
        return {"address": "local", "num_cpus": self._processes, **alone, **quiet}

    def actor(self, settings: SlotSettings) -> Any:
        """A new worker, perhaps not started yet."""
        import ray

        made: Any = ray.remote(Slot)
        return made.options(**_ACTOR, scheduling_strategy="SPREAD").remote(settings)

    def kill(self, actor: Any) -> None:
        """Also where the cluster is gone."""
        import ray

        with suppress(Exception):
            ray.kill(actor, no_restart=True)

    def leave(self) -> None:
        import ray

        with _CONNECTING:
            if self._keeper is None:
                return
            if ray.is_initialized():
                ray.shutdown()
            self._keeper.shutdown()
            self._keeper = None


@dataclass(slots=True, eq=False)
class RayWorker:
    """An actor as we know it. `ready` gives its versions when it runs."""

    actor: Any
    ready: Future[str]
    since: float
    opened: str = ""
    """The task it worked on last: it has models loaded for it."""


class RayPool:
    """At most `size` workers, started when needed, kept when idle."""

    def __init__(self, cluster: RayCluster, size: int, settings: SlotSettings) -> None:
        self._cluster, self._size, self._settings = cluster, size, settings
        self._changed = threading.Condition()
        self._starting: list[RayWorker] = []
        self._idle: list[RayWorker] = []
        self._lent: set[RayWorker] = set()
        self.closed = False

    def take(self, key: str, *, wait: bool) -> RayWorker | None:
        """A worker, best one that did `key` last; None when there is none just now, and `wait` is not set.

        Raises:
            RunnerClosedError: the pool was closed.
            UnavailableError: no worker can be started; the message says what to look at.
        """
        deadline = time.monotonic() + self._settings.open_timeout_s
        with self._changed:
            while True:
                self.check_open()
                worker = self._pick(key, wait)
                if worker is not None:
                    self._lent.add(worker)
                    return worker
                self._hire()
                if not wait:
                    return None
                if not self._lent and time.monotonic() > deadline:
                    raise UnavailableError(
                        f"the Ray cluster at '{self._cluster.place}' has not started a worker for "
                        f"{self._settings.open_timeout_s:g} seconds: each needs one free CPU"
                    )
                self._changed.wait(_TICK_S)

    def check_open(self) -> None:
        if self.closed:
            raise RunnerClosedError("the runner was closed; the work is taken up again after the restart")

    def _pick(self, key: str, must: bool) -> RayWorker | None:
        for worker in [worker for worker in self._starting if worker.ready.done()]:
            self._starting.remove(worker)
            problem = _unfit(worker.ready)
            if not problem:
                self._idle.append(worker)
                continue
            self._cluster.kill(worker.actor)
            if must and not self._idle and not self._lent:
                raise UnavailableError(f"a worker of the Ray cluster cannot be used: {problem}")
        if not self._idle:
            return None
        best = next((worker for worker in self._idle if worker.opened == key), self._idle[-1])
        self._idle.remove(best)
        best.opened = key
        return best

    def _hire(self) -> None:
        """Ask for one more worker, if there may be one more. It starts while others work."""
        if len(self._starting) + len(self._idle) + len(self._lent) >= self._size:
            return
        self._cluster.enter()
        try:
            actor = self._cluster.actor(self._settings)
            self._starting.append(RayWorker(actor, actor.hello.remote().future(), time.monotonic()))
        except Exception as error:
            self._cluster.leave()  # a broken connection is made anew by the next attempt
            raise UnavailableError(f"the Ray cluster takes no work: {first_line(error)}") from error

    def give(self, worker: RayWorker) -> None:
        """Take a worker back for others to use."""
        with self._changed:
            self._lent.discard(worker)
            self._idle.append(worker)
            self._changed.notify_all()
        if self.closed:
            self.close()

    def discard(self, worker: RayWorker) -> None:
        """Kill a worker and free its place."""
        self._cluster.kill(worker.actor)
        with self._changed:
            self._lent.discard(worker)
            self._changed.notify_all()

    def close(self) -> None:
        """Kill all workers; whoever works with one sees its end."""
        with self._changed:
            self.closed = True
            workers = [*self._starting, *self._idle, *self._lent]
            self._starting, self._idle = [], []
            self._changed.notify_all()
        for worker in workers:
            self._cluster.kill(worker.actor)


def _unfit(ready: Future[str]) -> str:
    """Why a worker that has started, or failed to, is not used; empty where it is."""
    try:
        theirs = ready.result()
    except Exception as error:
        return first_line(error)
    return "" if theirs == versions() else f"it runs {theirs}, this server {versions()}"


def first_line(error: BaseException) -> str:
    """What an error says, on one line: errors of Ray carry traces of other machines."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
