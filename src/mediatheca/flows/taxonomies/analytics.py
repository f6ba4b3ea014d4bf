"""What a taxonomy has said: by hour, by label, by score; how much it covers, and whether it drifts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from mediatheca.flows.services import Services
from mediatheca.flows.taxonomies.applications import attached
from mediatheca.flows.taxonomies.nodes import body_of
from mediatheca.flows.taxonomies.stats import BUCKETS, hour_of
from mediatheca.kernel import clock
from mediatheca.kernel.assignments import prefix_of
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import NotFoundError, ValidationError
from mediatheca.kernel.filters import Leaf
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Cmp, ReadTx, Record, Row

GROUPS: Mapping[str, int] = {"hour": 1, "day": 24, "week": 168}
"""Hours of a time bucket."""
MAX_DAYS = 366
LOW = 0.5
DRIFTED = 0.1
"""A Jensen–Shannon distance of which the base is two: 0 the same labels, 1 none in common."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which hours are looked at."""

    start: datetime
    end: datetime
    group: Literal["hour", "day", "week"] = "day"
    collection_id: str = ""
    version: int | None = None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Window:
        """From the query string: `hours` or `days`, or `start` and `end`; `group_by`.

        Raises:
            ValidationError: a time that is none, or more than a year.
        """
        end = _time(query, "end", "end_date") or clock.now()
        start = _time(query, "start", "start_date")
        if start is None:
            hours = _number(query, "hours", 1, MAX_DAYS * 24) or 24 * (_number(query, "days", 1, MAX_DAYS) or 30)
            start = end - timedelta(hours=hours)
        if start > end or end - start > timedelta(days=MAX_DAYS):
            raise ValidationError.at(("query", "start"), f"must be before end, by at most {MAX_DAYS} days", "range")
        group = query.get("group_by") or query.get("granularity") or "day"
        if group not in GROUPS:
            raise ValidationError.at(("query", "group_by"), f"must be hour, day or week, got '{group[:40]}'", "enum")
        version = _number(query, "version", 1, 2**31)
        return cls(start, end, group, query.get("collection_id") or "", version)  # type: ignore[arg-type]

    def shown(self) -> dict[str, Any]:
        return {"start": wire_time(self.start), "end": wire_time(self.end), "group_by": self.group}


def _time(query: Mapping[str, str], *names: str) -> datetime | None:
    for name in names:
        given = query.get(name)
        if given:
            try:
                found = datetime.fromisoformat(given)
            except ValueError as error:
                message = f"must be a date and time such as 2026-01-31T12:00:00Z, got '{given[:40]}'"
                raise ValidationError.at(("query", name), message, "datetime") from error
            return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return None


def _number(query: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    given = query.get(name)
    if given in (None, ""):
        return None
    text = str(given)
    if not (text.isascii() and text.isdigit() and len(text) <= 12) or not low <= int(text) <= high:
        raise ValidationError.at(("query", name), f"must be a number from {low} to {high}, got '{text[:40]}'", "int")
    return int(text)


def read_stats(tx: ReadTx, taxonomy: Record, window: Window) -> list[Row]:
    """The counts of the window, hour by hour.

    Raises:
        NotFoundError: the collection is none, nor one that was labelled before it was deleted; or no such version.
    """
    where: dict[str, Any] = {"taxonomy_id": taxonomy.id}
    if window.collection_id:
        found = tx.find("collection", window.collection_id)
        where["collection_id"] = found.id if found else window.collection_id
        if found is None and not tx.count("taxonomy_stats", where):
            raise NotFoundError("collection", window.collection_id)
    if window.version is not None:
        where["version"] = body_of(tx, taxonomy, window.version)["version"]
    where["hour"] = Cmp(">=", hour_of(window.start))
    last = hour_of(window.end)
    return [row for row in tx.rows("taxonomy_stats", where, order=("hour",)) if row["hour"] <= last]


def assignments(rows: Sequence[Row], window: Window) -> list[dict[str, Any]]:
    """Labels given in each bucket of time."""
    found = []
    for start, own in _by_time([row for row in rows if row["label"]], window):
        count = sum(row["count"] for row in own)
        total = sum(row["sum_score"] for row in own)
        found.append(
            {
                "time_bucket": start,
                "assignment_count": count,
                "avg_confidence": total / count if count else 0.0,
                "unique_labels": len({row["label"] for row in own}),
            }
        )
    return found


def enrichments(rows: Sequence[Row], window: Window) -> list[dict[str, Any]]:
    """Documents evaluated in each bucket of time. Latencies are not kept: many documents are compared at once."""
    found = []
    for start, own in _by_time([row for row in rows if not row["label"]], window):
        evaluated, failed = sum(row["evaluated"] for row in own), sum(row["failed"] for row in own)
        total = evaluated + failed
        found.append(
            {
                "time_bucket": start,
                "enrichment_count": total,
                "success_count": evaluated,
                "failure_count": failed,
                "avg_latency_ms": 0.0,
                "success_rate": evaluated / total if total else 0.0,
            }
        )
    return found


def _by_time(rows: Iterable[Row], window: Window) -> list[tuple[datetime, list[Row]]]:
    hours = GROUPS[window.group]
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["hour"] // hours, []).append(row)
    return [(datetime.fromtimestamp(number * hours * 3600, UTC), groups[number]) for number in sorted(groups)]


def labels(rows: Sequence[Row], limit: int) -> dict[str, Any]:
    """How often each label was given; shares are of all assignments, not of those shown."""
    counts, scores = Counter[str](), Counter[str]()
    for row in rows:
        if row["label"]:
            counts[row["label"]] += row["count"]
            scores[row["label"]] += row["sum_score"]
    total = sum(counts.values())
    shown = [
        {
            "label": label,
            "count": count,
            "assignment_count": count,
            "percentage": 100 * count / total,
            "avg_confidence": scores[label] / count,
        }
        for label, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:limit]
    ]
    return {
        "labels": shown,
        "total_labels": len(counts),
        "labels_returned": len(shown),
        "total_assignments": total,
        "truncated": len(shown) < len(counts),
    }


def confidence(rows: Sequence[Row]) -> dict[str, Any]:
    """The distribution of scores in steps of a tenth."""
    buckets = [0] * BUCKETS
    total, sum_score = 0, 0.0
    for row in rows:
        if row["label"]:
            buckets = [old + new for old, new in zip(buckets, row["buckets"], strict=True)]
            total += row["count"]
            sum_score += row["sum_score"]
    tenths = [buckets[n] + buckets[n + 1] for n in range(0, BUCKETS, 2)]
    return {
        "distribution": [
            {
                "confidence_range": f"{n / 10:.1f}-{(n + 1) / 10:.1f}",
                "count": count,
                "percentage": 100 * count / total if total else 0.0,
            }
            for n, count in enumerate(tenths)
        ],
        "avg_confidence": sum_score / total if total else 0.0,
        "low_confidence_count": sum(buckets[: int(LOW * BUCKETS)]),
        "total_assignments": total,
    }


def coverage(services: Services, scope: Scope, taxonomy: Record, tx: ReadTx) -> list[dict[str, Any]]:
    """Of every collection it is applied to: documents, those that have a label, those that were evaluated at all."""
    prefix = prefix_of(taxonomy.id)
    found = []
    enriched = tx.find("collection", taxonomy.body["enriched"]) if taxonomy.body["enriched"] else None
    for collection in [*attached(tx, taxonomy), *([enriched] if enriched is not None else [])]:
        counts = [0, 0, 0]
        if not services.indexer.unwritten(collection.id):
            dead = services.indexer.tombstones(scope, collection.id)
            filters = (
                None,
                Leaf(f"_internal.{prefix}id", "exists", True),
                Leaf(f"_internal.{prefix}state.version", "exists", True),
            )
            counts = [services.documents.count(collection.id, keep, tombstones=dead) for keep in filters]
        documents, labelled, evaluated = counts
        found.append(
            {
                "collection_id": collection.id,
                "documents": documents,
                "labelled": labelled,
                "evaluated": evaluated,
                "coverage": labelled / documents if documents else 0.0,
            }
        )
    return found


def drift(tx: ReadTx, taxonomy: Record, rows: Sequence[Row], version: int | None) -> dict[str, Any]:
    """How far the labels of the window are from those of the version's first day (Jensen–Shannon, base 2).

    Lin, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37 (1991).
    """
    wanted = version or taxonomy.body["version"]
    own = tx.rows("taxonomy_stats", {"taxonomy_id": taxonomy.id, "version": wanted}, order=("hour",))
    given = [row for row in own if row["label"]]
    if not given:
        return {"version": wanted, "distance": None, "drifted": False, "reason": "nothing was labelled by it yet"}
    first = given[0]["hour"]
    before = _shares(row for row in given if row["hour"] < first + 24)
    now = _shares(row for row in rows if row["label"] and row["version"] == wanted and row["hour"] >= first + 24)
    if not now:
        return {"version": wanted, "distance": None, "drifted": False, "reason": "it is less than a day old"}
    distance = jensen_shannon(before, now)
    moved = sorted({*before, *now}, key=lambda label: -abs(now.get(label, 0.0) - before.get(label, 0.0)))[:10]
    changes = [{"label": label, "before": before.get(label, 0.0), "now": now.get(label, 0.0)} for label in moved]
    return {"version": wanted, "distance": distance, "drifted": distance > DRIFTED, "changes": changes}


def _shares(rows: Iterable[Row]) -> dict[str, float]:
    counts = Counter[str]()
    for row in rows:
        counts[row["label"]] += row["count"]
    total = sum(counts.values())
    return {label: count / total for label, count in counts.items()} if total else {}


def jensen_shannon(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """The divergence of two distributions, 0 to 1."""
    total = 0.0
    for label in {*one, *other}:
        p, q = one.get(label, 0.0), other.get(label, 0.0)
        middle = (p + q) / 2
        total += sum(share * math.log2(share / middle) for share in (p, q) if share)
    return min(1.0, max(0.0, total / 2))
