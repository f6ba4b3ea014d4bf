"""Threads that claim jobs and run their handlers, one heartbeat for all of them."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from mediatheca.jobs.queue import Job, JobQueue
from mediatheca.kernel.errors import MediathecaError

log = structlog.get_logger()


class JobCancelledError(Exception):
    """Raised by `Run.check` when the job was cancelled or its lease lost; nothing may be written after it."""


class PermanentJobError(Exception):
    """The job can never succeed: no retry."""


@dataclass(frozen=True, slots=True)
class Run:
    """A job being run."""

    job: Job
    stop: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Call between steps."""
        if self.stop.is_set():
            raise JobCancelledError(self.job.job_id)


Handler = Callable[[Run], None]
"""Does the work and finishes the job inside its last transaction (`Tx.finish_job`)."""


class WorkerPool:
    """Runs jobs of the kinds in `handlers` on `threads` threads until `close`.

    `long`: kinds that may take an hour. One thread of several takes none of them, so that the others' turn comes.
    """

    def __init__(
        self,
        queue: JobQueue,
        handlers: Mapping[str, Handler],
        threads: int,
        *,
        poll_s: float = 0.5,
        on_dead: Callable[[Job, str], None] | None = None,
        long: Collection[str] = (),
        buries: Collection[str] = (),
    ) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._queue = queue
        self._handlers = dict(handlers)
        self._poll_s = poll_s
        self._on_dead = on_dead
        self._buries = [*{*handlers, *buries}]
        self._wake = threading.Condition()
        self._pending = False
        self._closing = threading.Event()
        self._ended = threading.Event()
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()
        self._burying = threading.Lock()
        kinds = [[*handlers]] * threads
        if threads > 1:
            kinds[0] = [kind for kind in handlers if kind not in long]
        self._threads = [
            threading.Thread(target=self._loop, args=(own,), name=f"worker-{n}", daemon=True)
            for n, own in enumerate(kinds)
        ]
        self._keeper = threading.Thread(target=self._keep, name="worker-heartbeat", daemon=True)

    def start(self) -> None:
        for thread in (*self._threads, self._keeper):
            thread.start()

    def wake(self, topics: set[str]) -> None:
        """A listener of the database: look for work now instead of at the next poll."""
        if "jobs" in topics:
            with self._wake:
                self._pending = True
                self._wake.notify_all()

    def close(self, grace_s: float = 10) -> None:
        """Stop claiming, let running jobs finish for `grace_s`, hand the rest back."""
        self._closing.set()
        with self._wake:
            self._wake.notify_all()
        _join(self._threads, grace_s)
        with self._lock:
            left = list(self._runs.values())
        for run in left:
            run.stop.set()
            self._hand_back(run.job)
        self._ended.set()
        _join([*self._threads, self._keeper], 1)

    def _hand_back(self, job: Job) -> None:
        try:
            self._queue.release(job)
        except MediathecaError as error:  # it comes back when its lease has run out
            log.error("job.not_handed_back", job=job.job_id, error=error.message)

    def _loop(self, kinds: Sequence[str]) -> None:
        while not self._closing.is_set():
            with self._wake:
                self._pending = False
            try:
                jobs = self._queue.claim(kinds, self.name)
            except Exception as error:  # this thread must outlive whatever the database does
                log.error("jobs.claim_failed", error=_message(error))
                jobs = []
                self._closing.wait(2)
            for job in jobs:
                self._run(job)
            if not jobs:
                with self._wake:
                    if not self._pending and not self._closing.is_set():
                        self._wake.wait(self._poll_s)

    def _run(self, job: Job) -> None:
        run = Run(job)
        with self._lock:
            self._runs[job.job_id] = run
        try:
            self._handlers[job.kind](run)
        except JobCancelledError:
            log.info("job.stopped", job=job.job_id, kind=job.kind)
        except Exception as error:
            self._failed(job, error)
        finally:
            with self._lock:
                self._runs.pop(job.job_id, None)

    def _failed(self, job: Job, error: Exception) -> None:
        message = _message(error)
        log.error("job.failed", job=job.job_id, kind=job.kind, attempt=job.attempts, error=message, exc_info=error)
        try:
            if self._queue.fail(job, message, permanent=isinstance(error, PermanentJobError)) == "dead":
                self._bury()
        except Exception as trouble:  # the lease will run out and the job comes back by itself
            log.error("job.fail_not_recorded", job=job.job_id, error=_message(trouble))

    def _bury(self) -> None:
        """See to what dead jobs leave behind, also those of other processes: of our kinds, and of `buries`. One thread
        at a time: each of our own dead is seen to once."""
        if self._on_dead is None:
            return
        with self._burying:
            for job, message in self._queue.unburied(self._buries):
                self._on_dead(job, message)
                self._queue.bury(job)

    def _keep(self) -> None:
        """Renew leases three times per lease, also while closing; stop runs whose job was cancelled or taken over. Ours
        are renewed before those that ran out are taken away: after this machine has slept, nobody else has them."""
        while not self._ended.wait(self._queue.lease_us / 3e6):
            with self._lock:
                runs = dict(self._runs)
            try:
                self._renew(runs)
                self._queue.reap()
                self._bury()
            except Exception as error:
                log.error("jobs.heartbeat_failed", error=_message(error))

    def _renew(self, runs: Mapping[str, Run]) -> None:
        alive = self._queue.heartbeat([run.job for run in runs.values()]) if runs else set()
        for job_id, run in runs.items():
            if job_id not in alive and job_id in self._runs:
                run.stop.set()


def _message(error: Exception) -> str:
    return error.message if isinstance(error, MediathecaError) else f"{type(error).__name__}: {error}"


def _join(threads: Sequence[threading.Thread], seconds: float) -> None:
    """Wait for all of them, so long in all."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        if thread.is_alive():
            thread.join(max(0.0, deadline - time.monotonic()))
