"""Where the time of a piece of work goes: seconds by what was done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds spent in named parts. Of nested parts only the inner one runs. For one thread."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Counts the block as `what`."""
        self._turn()
        self._running.append(what)
        try:
            yield
        finally:
            self._turn()
            self._running.pop()

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._running:
            what = self._running[-1]
            self._spent[what] = self._spent.get(what, 0.0) + now - self._since
        self._since = now

    def take(self) -> dict[str, float]:
        """What was spent since the last call."""
        spent, self._spent = self._spent, {}
        return spent
