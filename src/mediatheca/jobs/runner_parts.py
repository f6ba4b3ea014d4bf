"""What a call of the local runner has still to give out: in which order, and how much at a time."""

from __future__ import annotations

from collections import deque
from itertools import chain

from mediatheca.jobs.runner_supply import Supply

STRIKES = 2
"""How many children may die with an item in their hands before it is at fault."""
PART_ITEMS = 32


class Parts:
    """Items by their index, each in one part at a time. True while there are any.

    Args:
        count: items of the call.
        processes: children that may work at the same time.
        supply: brings the files of items.
    """

    def __init__(self, count: int, processes: int, supply: Supply) -> None:
        self._processes, self._supply = processes, supply
        self._fresh = deque(range(count))
        self._again: deque[deque[int]] = deque()
        """Parts whose child is gone: they go first."""
        self._suspects: deque[int] = deque()
        """Items that may have been the reason: each last, and alone."""
        self._strikes: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._again or self._fresh or self._suspects)

    def ready(self) -> bool:
        """Whether what is given out next is whole; what follows it is on its way. There must be something."""
        self._supply.ask(chain(*self._again, self._fresh, self._suspects))
        following = self._again[0] if self._again else self._fresh or self._suspects
        return self._supply.ready(following[0])

    def take(self) -> deque[int]:
        """The next part: smaller ones towards the end, so that the children end together."""
        if self._again:
            return self._again.popleft()
        if not self._fresh:
            return deque([self._suspects.popleft()])
        if self._supply.lacks(self._fresh[0]):  # alone: its files go as soon as it is done
            return deque([self._fresh.popleft()])
        share = -(-len(self._fresh) // (2 * self._processes)) if self._processes > 1 else PART_ITEMS
        part: deque[int] = deque()
        while len(part) < min(share, PART_ITEMS) and self._fresh and not self._supply.lacks(self._fresh[0]):
            part.append(self._fresh.popleft())
        return part

    def give_back(self, part: deque[int]) -> None:
        """A part, or its rest, that nobody works on any more."""
        self._again.appendleft(part)

    def strike(self, index: int) -> bool:
        """A child died with this item in its hands. Gives whether it is tried once more."""
        self._strikes[index] = self._strikes.get(index, 0) + 1
        if self._strikes[index] >= STRIKES:
            return False
        self._suspects.append(index)
        return True
