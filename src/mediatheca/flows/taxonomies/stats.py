"""Counts of what a taxonomy said, by hour: written with the progress of a run, read by the analytics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mediatheca.kernel import clock
from mediatheca.kernel.assignments import Assignment
from mediatheca.stores.db.tx import Row, Tx

BUCKETS = 20
"""Of a score from 0 to 1; what is below 0 is counted in the first."""
MAX_LABEL = 255
_AT_ONCE = 500


def hour_of(moment: datetime) -> int:
    """Hours since 1970."""
    return int(moment.timestamp()) // 3600


def bucket_of(score: float) -> int:
    return min(BUCKETS - 1, max(0, int(score * BUCKETS)))


@dataclass(slots=True)
class _Counted:
    count: int = 0
    sum_score: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)


@dataclass(slots=True)
class Tally:
    """What was said since the last time it was written. The best label of a document counts."""

    labels: dict[str, _Counted] = field(default_factory=dict)
    evaluated: int = 0
    failed: int = 0

    def add(self, assignments: Sequence[Assignment]) -> None:
        self.evaluated += 1
        if assignments:
            best = assignments[0].node
            self.note(best.label, best.score)

    def note(self, label: str, score: float) -> None:
        held = self.labels.setdefault(label[:MAX_LABEL] or "?", _Counted())
        held.count += 1
        held.sum_score += score
        held.buckets[bucket_of(score)] += 1

    def as_dict(self) -> dict[str, Any]:
        """As it is kept with the progress of a run."""
        labels = {name: [held.count, held.sum_score, held.buckets] for name, held in self.labels.items()}
        return {"labels": labels, "evaluated": self.evaluated, "failed": self.failed}

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Tally:
        labels = {name: _Counted(*held) for name, held in (raw.get("labels") or {}).items()}
        return cls(labels, raw.get("evaluated", 0), raw.get("failed", 0))

    def flush(self, tx: Tx, taxonomy_id: str, version: int, collection_id: str) -> None:
        """Add to the counts of this hour; the tally is empty then."""
        if not self.evaluated and not self.failed:
            return
        tx.rows("resources", {"kind": "taxonomy", "id": taxonomy_id}, columns=("id",), hold="update")  # one at a time
        where = {"taxonomy_id": taxonomy_id, "version": version, "collection_id": collection_id}
        where |= {"hour": hour_of(clock.now())}
        _add(tx, where, {"": _Counted()}, self.evaluated, self.failed)
        names = list(self.labels)
        for start in range(0, len(names), _AT_ONCE):
            _add(tx, where, {name: self.labels[name] for name in names[start : start + _AT_ONCE]}, 0, 0)
        self.labels, self.evaluated, self.failed = {}, 0, 0


def _add(tx: Tx, where: dict[str, Any], counted: dict[str, _Counted], evaluated: int, failed: int) -> None:
    """Rows that are there are taken out and written again: two statements, however many labels."""
    own = {**where, "label": list(counted)}
    held = {row["label"]: row for row in tx.rows("taxonomy_stats", own)}
    if held:
        tx.delete("taxonomy_stats", own)
    tx.insert(
        "taxonomy_stats", [_sum(where, name, more, held.get(name), evaluated, failed) for name, more in counted.items()]
    )


def _sum(
    where: dict[str, Any], label: str, more: _Counted, row: Row | None, evaluated: int, failed: int
) -> dict[str, Any]:
    old = row or {"count": 0, "sum_score": 0.0, "buckets": [0] * BUCKETS, "evaluated": 0, "failed": 0}
    return {
        **where,
        "label": label,
        "count": old["count"] + more.count,
        "sum_score": old["sum_score"] + more.sum_score,
        "buckets": [before + now for before, now in zip(old["buckets"], more.buckets, strict=True)],
        "evaluated": old["evaluated"] + evaluated,
        "failed": old["failed"] + failed,
    }
