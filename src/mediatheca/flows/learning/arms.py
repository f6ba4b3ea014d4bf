"""The counts behind learned weights: one row per retriever, context and search, faded to the time they were changed.

They are a sum over interactions, so an interaction that is deleted is taken out again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from mediatheca.kernel import clock
from mediatheca.kernel.bandit import Arm, Tuning, faded
from mediatheca.kernel.errors import ConflictError
from mediatheca.stores.db.tx import ReadTx, Row, Tx

Credit = Mapping[str, Sequence[float]]
"""Arm → (success, failure)."""


def read_arms(tx: ReadTx, retriever_id: str, keys: Sequence[str], tuning: Tuning) -> dict[str, dict[str, Arm]]:
    """Context key → search → what was counted, as of now."""
    now = clock.now()
    found: dict[str, dict[str, Arm]] = {key: {} for key in keys}
    for row in tx.rows("fusion_arms", {"retriever_id": retriever_id, "context_key": list(keys)}):
        found[row["context_key"]][row["feature_uri"]] = _as_arm(row, now, tuning)
    return found


def _as_arm(row: Row, now: datetime, tuning: Tuning) -> Arm:
    then = row["updated_at"]
    return Arm(faded(row["successes"], then, now, tuning), faded(row["failures"], then, now, tuning), row["trials"])


class Ledger:
    """Collects what interactions change and writes each row once. `sign` -1 takes them out again."""

    def __init__(self, sign: int = 1) -> None:
        self._sign = sign
        self._now = clock.now()
        self._sums: dict[tuple[str, str], dict[str, list[float]]] = {}
        self._tunings: dict[str, Tuning] = {}

    def add(self, retriever_id: str, keys: Sequence[str], credit: Credit, moment: datetime, tuning: Tuning) -> None:
        self._tunings[retriever_id] = tuning
        for key in keys:
            sums = self._sums.setdefault((retriever_id, key), {})
            for arm, (success, failure) in credit.items():
                entry = sums.setdefault(arm, [0.0, 0.0, 0])
                entry[0] += faded(success, moment, self._now, tuning)
                entry[1] += faded(failure, moment, self._now, tuning)
                entry[2] += 1

    def write(self, tx: Tx) -> set[str]:
        """Apply the sums; gives the retrievers that changed."""
        for (retriever_id, key), sums in sorted(self._sums.items()):
            where = {"retriever_id": retriever_id, "context_key": key}
            rows = tx.rows("fusion_arms", where, order=("feature_uri",), hold="update")
            held = {row["feature_uri"]: row for row in rows}
            for arm in sorted(sums):
                self._put(tx, {**where, "feature_uri": arm}, sums[arm], held.get(arm))
        return {retriever_id for retriever_id, _ in self._sums}

    def _put(self, tx: Tx, where: dict[str, Any], sums: Sequence[float], row: Row | None) -> None:
        if row is None and self._sign < 0:
            return
        if row is None:
            try:
                tx.insert("fusion_arms", [{**where, **self._values(where["retriever_id"], sums, None)}])
                return
            except ConflictError:  # another request was the first to learn in this context
                row = tx.rows("fusion_arms", where, hold="update")[0]
        tx.update("fusion_arms", where, self._values(where["retriever_id"], sums, row))

    def _values(self, retriever_id: str, sums: Sequence[float], row: Row | None) -> dict[str, Any]:
        old = Arm() if row is None else _as_arm(row, self._now, self._tunings[retriever_id])
        return {
            "successes": max(0.0, old.successes + self._sign * sums[0]),
            "failures": max(0.0, old.failures + self._sign * sums[1]),
            "trials": max(0, old.trials + self._sign * int(sums[2])),
            "updated_at": self._now,
        }
