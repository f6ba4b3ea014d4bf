"""Where clips are cut: one at a time, in a process of their own, so that no query waits behind a film."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from mediatheca.jobs.runner import Runner
from mediatheca.kernel.errors import TooManyRequestsError

MOST = 4
"""Callers of this process that have a clip cut, or wait for their turn: each holds a thread of the API."""
MOST_OF_ORGANIZATION = 2
"""Of these, callers of one organization."""
RETRY_S = 10.0


class ClipRoom:
    """One for a process. Thread-safe. `runner` belongs to it."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._inside: Counter[str] = Counter()

    @contextmanager
    def turn(self, organization_id: str) -> Iterator[Runner]:
        """Wait for a turn to cut.

        Raises:
            TooManyRequestsError: too many wait already.
        """
        self._enter(organization_id)
        try:
            with self._turn:
                yield self._runner
        finally:
            with self._lock:
                self._inside[organization_id] -= 1
                self._inside += Counter()  # without those that have none left

    def _enter(self, organization_id: str) -> None:
        with self._lock:
            own, others = self._inside[organization_id] >= MOST_OF_ORGANIZATION, self._inside.total() >= MOST
            if own or others:
                whose = f"{MOST_OF_ORGANIZATION} clips of this organization" if own else f"{MOST} clips"
                raise TooManyRequestsError(f"{whose} are being cut already; ask again in a few seconds", RETRY_S)
            self._inside[organization_id] += 1

    def close(self) -> None:
        self._runner.close()
