"""How much room standing queries have before their `top_k` cuts, so that a match need not be asked for.

A query that gives its best `k` is in one of three states:

* unknown: it must be asked once;
* room: at most `above` documents pass its floor, no more than `k`: whatever passes the floor is in the answer. The
  count may be too high (documents that were deleted, or that its filter hides), never too low;
* full: its best `k` are known, and a document must beat the worst of them. When one of them is deleted or written
  again nobody knows who follows it: the state is unknown again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt

UNKNOWN, ROOM, FULL = 0, 1, 2
_SAME = 1e-6
"""Scores of two ways to compute them: nearer than this is not worse."""


class Ranks:
    """The state of many queries, by number. Not thread-safe.

    Args:
        sizes: the `k` of each query.
        floors: the least score of each; -inf where it has none.
    """

    def __init__(self, sizes: Sequence[int], floors: Sequence[float]) -> None:
        count = len(sizes)
        self._k = np.asarray(sizes, np.int64)
        self._least = np.asarray(floors, np.float32)
        self._state = np.zeros(count, np.int8)
        self._above = np.zeros(count, np.int64)
        self._best: dict[int, list[tuple[float, str]]] = {}
        """Of the full ones: (score, document), best first."""
        self._holders: dict[str, set[int]] = {}
        """Document → the full queries that it is one of the best of."""

    def __len__(self) -> int:
        return len(self._k)

    def states(self) -> npt.NDArray[np.int8]:
        return self._state

    def floors(self) -> npt.NDArray[np.float32]:
        """What a document must reach to be a match, or to be worth asking for, of each query."""
        floors = self._least.copy()
        for query, best in self._best.items():
            if len(best) >= self._k[query]:
                floors[query] = max(floors[query], best[-1][0])
        return floors

    def unbounded(self) -> npt.NDArray[np.int64]:
        """The queries of which nothing is known, not even a floor: every document would have to be looked at."""
        return np.flatnonzero((self._state == UNKNOWN) & np.isneginf(self._least))

    def give_room(self, query: int, above: int) -> None:
        """So many documents at most pass its floor.

        Raises:
            ValueError: more than it gives: its best must be known instead.
        """
        if above > self._k[query]:
            raise ValueError(f"{above} documents pass the floor of a query for {self._k[query]}")
        self._drop(query)
        self._state[query], self._above[query] = ROOM, above

    def give_best(self, query: int, found: Iterable[tuple[str, float]]) -> None:
        """Its answer right now."""
        self._drop(query)
        best = sorted(((score, ident) for ident, score in found), key=_order)[: int(self._k[query])]
        self._best[query] = best
        for _, ident in best:
            self._holders.setdefault(ident, set()).add(query)
        self._state[query] = FULL

    def admit(self, query: int, found: Sequence[tuple[str, float]]) -> list[int] | None:
        """Which of these new documents, all above `floors()`, are in its answer now: places in `found`. None: only
        asking tells. Documents that it knows already count once."""
        state = self._state[query]
        if state == ROOM:
            self._above[query] += len(found)
            if self._above[query] <= self._k[query]:
                return list(range(len(found)))
            self._state[query] = UNKNOWN
        return self._merged(query, found) if state == FULL else None

    def among(self, query: int, found: Sequence[tuple[str, float]]) -> list[int]:
        """`admit` for documents that were there when the query was asked: they are counted already."""
        return list(range(len(found))) if self._state[query] == ROOM else self._merged(query, found)

    def _merged(self, query: int, found: Sequence[tuple[str, float]]) -> list[int]:
        held = {ident for _, ident in self._best[query]}
        fresh = [(score, ident) for ident, score in found if ident not in held]
        kept = sorted([*self._best[query], *fresh], key=_order)
        size = int(self._k[query])
        worst = kept[size - 1][0] if len(kept) >= size else -np.inf
        for _, ident in kept[size:]:
            self._leave(ident, query)
        self._best[query] = kept[:size]
        for _, ident in kept[:size]:
            self._holders.setdefault(ident, set()).add(query)
        return [place for place, (_, score) in enumerate(found) if score >= worst - _SAME]

    def forget(self, changed: Collection[str] | None) -> None:
        """These documents were deleted or written again; None: any may have been."""
        if changed is None:
            for query in list(self._best):
                self._drop(query)
            return
        for ident in changed:
            for query in list(self._holders.get(ident, ())):
                self._drop(query)

    def take(self, query: int, other: Ranks, number: int) -> None:
        """Take over what another one knows of the same query."""
        state = other._state[number]
        if state == ROOM:
            self.give_room(query, int(other._above[number]))
        elif state == FULL:
            self.give_best(query, [(ident, score) for score, ident in other._best[number]])

    def _drop(self, query: int) -> None:
        for _, ident in self._best.pop(query, ()):
            self._leave(ident, query)
        self._state[query] = UNKNOWN

    def _leave(self, ident: str, query: int) -> None:
        holders = self._holders.get(ident)
        if holders is not None:
            holders.discard(query)
            if not holders:
                del self._holders[ident]


def _order(entry: tuple[float, str]) -> tuple[float, str]:
    return (-entry[0], entry[1])
