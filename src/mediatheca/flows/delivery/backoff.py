"""When a delivery that failed is tried again, and when a receiver that keeps failing is left alone for a while."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

BACKOFF_S = (5.0, 30.0, 120.0, 600.0, 3600.0, 3 * 3600.0, 8 * 3600.0, 12 * 3600.0, 24 * 3600.0)
"""Waiting time after the first failed attempt, the second, …: ten attempts in two days."""
JITTER = 0.2
LONGEST_S = 24 * 3600.0
BREAK_AFTER = 20
"""Failures in a row, of one channel, until only single probes are sent."""
PROBE_S = (5.0, 30.0, 120.0, 600.0)
_random = random.Random()


def next_delay(failures: int, backoff: Sequence[float], told: float | None) -> float | None:
    """Seconds until the next attempt after so many failed ones; None: it was the last. `told`: what the receiver
    asked for, which counts where it is longer."""
    if failures > len(backoff):
        return None
    usual = backoff[failures - 1] * _random.uniform(1 - JITTER, 1 + JITTER)
    return min(max(usual, told or 0.0), max(LONGEST_S, usual))


@dataclass(slots=True)
class Breaker:
    """What the last attempts to reach a channel say about the next ones."""

    failures: int = 0
    probes: int = 0
    open_until: float = 0.0

    def allowed(self, now: float, most: int) -> int:
        """How many may be on their way at once."""
        if self.failures < BREAK_AFTER:
            return most
        return 1 if now >= self.open_until else 0

    def note(self, arrived: bool, now: float, pauses: Sequence[float]) -> None:
        """An attempt has ended."""
        if arrived:
            self.failures = self.probes = 0
            self.open_until = 0.0
            return
        self.failures += 1
        if self.failures >= BREAK_AFTER and now >= self.open_until:
            self.open_until = now + pauses[min(self.probes, len(pauses) - 1)]
            self.probes += 1
