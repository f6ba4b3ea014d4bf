"""How many requests a tenant sends to one host: sliding windows in memory, shared by all executions of a process."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from mediatheca.kernel.errors import TooManyRequestsError

MAX_REMEMBERED = 10_000
_MINUTE, _HOUR = 60.0, 3600.0


class Rates:
    """Counts requests by tenant and host. Thread-safe. Each process counts for itself."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._sent: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def take(self, tenant: str, host: str, per_minute: int, per_hour: int) -> float:
        """Count one request, or say in how many seconds it may be sent; 0.0 when it was counted."""
        if not per_minute and not per_hour:
            return 0.0
        with self._lock:
            now = self._now()
            sent = self._sent.setdefault((tenant, host), deque())
            self._sent.move_to_end((tenant, host))
            while sent and now - sent[0] >= _HOUR:
                sent.popleft()
            wait = max(_wait(sent, now, per_minute, _MINUTE), _wait(sent, now, per_hour, _HOUR))
            if wait == 0.0:
                sent.append(now)
            if len(self._sent) > MAX_REMEMBERED:
                self._sent.popitem(last=False)
            return wait

    def refuse(self, host: str, wait_s: float) -> TooManyRequestsError:
        """The error for a request that would have to wait too long."""
        return TooManyRequestsError(
            f"the rate_limit for '{host}' is used up; the next request may be sent in {wait_s:.0f} seconds", wait_s
        )


def _wait(sent: deque[float], now: float, most: int, window: float) -> float:
    """Until when the window holds fewer than `most`; the oldest of the last `most` must leave it first."""
    if not most or len(sent) < most:
        return 0.0
    return max(0.0, sent[-most] + window - now)
