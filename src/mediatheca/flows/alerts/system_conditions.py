"""Conditions of the system that an alert can watch: each reads a few rows of one namespace and says whether it holds.

Every condition is a value of `CONDITIONS`: its parameters with their defaults and bounds, and a function that measures.
What cannot be measured (too few executions, no evaluation yet) does not hold, and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from mediatheca.flows.alerts.drift import drift_of
from mediatheca.flows.evaluation.evaluations import KIND as EVALUATION
from mediatheca.flows.services import Services
from mediatheca.kernel.errors import NotEnabledError, ValidationError
from mediatheca.kernel.statistics import percentile
from mediatheca.stores.db.tx import Cmp, ReadTx, Row

MOST = 10_000
"""Rows that one measurement reads."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Whether a condition holds, why, and the figures behind it."""

    holds: bool
    why: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """What a measurement may read: one namespace, now."""

    tx: ReadTx
    params: Mapping[str, Any]
    now: datetime
    services: Services

    def since(self, name: str, unit_s: float) -> datetime:
        return self.now - timedelta(seconds=float(self.params[name]) * unit_s)

    @property
    def only(self) -> Row:
        """The retriever that was named, as a condition on rows."""
        return {"retriever_id": self.params["retriever_id"]} if self.params.get("retriever_id") else {}


@dataclass(frozen=True, slots=True)
class Condition:
    """`numbers`: parameter → (default, least, most). `refers`: parameter → the kind of what it names, and whether it
    must be given."""

    measure: Callable[[Look], Measured]
    numbers: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    refers: Mapping[str, tuple[str, bool]] = field(default_factory=dict)


MINUTES, HOURS = 60.0, 3_600.0
_WINDOW = {"window_minutes": (60.0, 1.0, 10_080.0)}
_COLLECTION = {"collection_id": ("collection", True)}
_RETRIEVER = {"retriever_id": ("retriever", True)}
_ANY_RETRIEVER = {"retriever_id": ("retriever", False)}


def _empty(look: Look) -> Measured:
    found = look.tx.sums("derivations", {"collection_id": look.params["collection_id"]}, ["documents"])
    count = int(found[0]["documents"]) if found else 0
    return Measured(count == 0, f"the collection has {count} documents", {"documents": count})


def _stale(look: Look) -> Measured:
    where = {"collection_id": look.params["collection_id"]}
    newest = look.tx.rows("derivations", where, columns=("updated_at",), order=("-updated_at",), limit=1)
    if not newest:
        return Measured(True, "nothing was ever written to the collection")
    hours = (look.now - newest[0]["updated_at"]).total_seconds() / HOURS
    return Measured(hours > look.params["max_age_hours"], f"the last write was {hours:.1f} hours ago", {"hours": hours})


def _drift(look: Look) -> Measured:
    collection = look.tx.get("collection", look.params["collection_id"])
    found = drift_of(look.services, look.tx.scope, collection, look.since("window_hours", HOURS))
    if found is None:
        return Measured(False, "too few vectors in the window, or before it, to tell")
    return Measured(
        found.distance > look.params["threshold"],
        f"the mean of {found.recent} new vectors lies {found.distance:.4f} from that of {found.earlier} earlier ones",
        {"drift": found.distance, "recent": found.recent, "earlier": found.earlier},
    )


def _failed(look: Look) -> Measured:
    where = {"status": "FAILED", "updated_at": Cmp(">=", look.since("window_minutes", MINUTES))}
    rows = look.tx.rows("batches", where, columns=("batch_id",), limit=MOST)
    return Measured(bool(rows), f"{len(rows)} batches failed", {"batches": [row["batch_id"] for row in rows[:20]]})


def _stalled(look: Look) -> Measured:
    where = {"status": ["QUEUED", "PROCESSING"], "updated_at": Cmp("<", look.since("minutes", MINUTES))}
    rows = look.tx.rows("batches", where, columns=("batch_id",), limit=MOST)
    return Measured(
        bool(rows), f"{len(rows)} batches have not moved", {"batches": [row["batch_id"] for row in rows[:20]]}
    )


def _error_rate(look: Look) -> Measured:
    where = {"updated_at": Cmp(">=", look.since("window_minutes", MINUTES))}
    found = look.tx.sums("chunks", where, ["written", "failed", "fetched"])
    failed, fetched = (int(found[0][name]) if found else 0 for name in ("failed", "fetched"))
    total = max(fetched, failed)
    share = failed / total if total else 0.0
    enough = total >= look.params["min_objects"]
    why = f"{failed} of {total} objects failed" + ("" if enough else ", too few to tell")
    return Measured(enough and share > look.params["threshold"], why, {"error_rate": share, "objects": total})


def _ingest_stalled(look: Look) -> Measured:
    open_batches = look.tx.count("batches", {"status": ["QUEUED", "PROCESSING"]})
    since = look.since("minutes", MINUTES)
    written = look.tx.count("derivations", {"updated_at": Cmp(">=", since)})
    waiting = look.tx.count("batches", {"status": ["QUEUED", "PROCESSING"], "created_at": Cmp("<", since)})
    minutes = look.params["minutes"]
    why = f"{open_batches} batches are open, {written} objects were written in the last {minutes:g} minutes"
    return Measured(waiting > 0 and written == 0, why, {"open_batches": open_batches, "written": written})


def _executions(look: Look) -> list[Row]:
    where = {**look.only, "created_at": Cmp(">=", look.since("window_minutes", MINUTES))}
    return look.tx.rows("executions", where, columns=("status", "body"), order=("-created_at",), limit=MOST)


def _latency(look: Look) -> Measured:
    taken = [float(row["body"].get("execution_time") or 0) * 1_000 for row in _executions(look)]
    if len(taken) < look.params["min_executions"]:
        return Measured(False, f"{len(taken)} executions, too few to tell", {"executions": len(taken)})
    value = percentile(taken, look.params["percentile"]) or 0.0
    why = f"p{look.params['percentile']:g} of {len(taken)} executions is {value:.0f} ms"
    return Measured(value > look.params["threshold_ms"], why, {"latency_ms": value, "executions": len(taken)})


def _no_results(look: Look) -> Measured:
    rows = _executions(look)
    empty = sum(not row["body"].get("returned") for row in rows)
    share = empty / len(rows) if rows else 0.0
    enough = len(rows) >= look.params["min_executions"]
    why = f"{empty} of {len(rows)} executions found nothing" + ("" if enough else ", too few to tell")
    return Measured(enough and share > look.params["threshold"], why, {"share": share, "executions": len(rows)})


def _evaluations(look: Look) -> list[Row]:
    """Completed evaluations of the retriever, the newest first."""
    where = {"kind": EVALUATION, "parent": look.params["retriever_id"]}
    rows = look.tx.rows("resources", where, columns=("id", "body"), order=("-id",), limit=100)
    return [row for row in rows if row["body"].get("status") == "completed"]


def _accuracy(look: Look) -> Measured:
    metric, found = look.params["metric"], _evaluations(look)
    value = (found[0]["body"].get("overall_metrics") or {}).get(metric) if found else None
    if value is None:
        return Measured(False, f"no evaluation has measured {metric} yet")
    why = f"{metric} of the last evaluation is {value:.3f}"
    return Measured(value < look.params["threshold"], why, {"value": value, "evaluation_id": found[0]["id"]})


def _regression(look: Look) -> Measured:
    metric, found = look.params["metric"], _evaluations(look)
    last = found[0] if found else None
    before = next((r for r in found[1:] if last and r["body"]["dataset_id"] == last["body"]["dataset_id"]), None)
    both = [(row["body"].get("overall_metrics") or {}).get(metric) for row in (before, last) if row is not None]
    values = [float(value) for value in both if value is not None]
    if len(values) < 2:
        return Measured(False, f"there are no two evaluations of one data set that measured {metric}")
    drop = values[0] - values[1]
    why = f"{metric} went from {values[0]:.3f} to {values[1]:.3f}"
    return Measured(drop > look.params["tolerance"], why, {"drop": drop, "before": values[0], "after": values[1]})


def _no_interactions(look: Look) -> Measured:
    since = look.since("hours", HOURS)
    ran = look.tx.count("executions", {**look.only, "created_at": Cmp(">=", since)})
    used = look.tx.count("interactions", {**look.only, "created_at": Cmp(">=", since)})
    why = f"{ran} executions, {used} interactions in {look.params['hours']:g} hours"
    figures = {"executions": ran, "interactions": used}
    return Measured(ran >= look.params["min_executions"] and used == 0, why, figures)


def _queue(look: Look) -> Measured:
    now_us = int(look.now.timestamp() * 1e6)
    oldest = look.tx.rows(
        "jobs",
        {"status": "ready", "run_at": Cmp("<=", now_us)},
        columns=("created_at",),
        order=("created_at",),
        limit=1,
    )
    waiting = look.tx.count("jobs", {"status": "ready", "run_at": Cmp("<=", now_us)})
    seconds = (now_us - oldest[0]["created_at"]) / 1e6 if oldest else 0.0
    degraded = seconds > look.params["max_waiting_seconds"] or waiting > look.params["max_waiting"]
    return Measured(
        degraded, f"{waiting} jobs wait, the oldest for {seconds:.0f} s", {"waiting": waiting, "s": seconds}
    )


def _dead_letters(look: Look) -> Measured:
    since = int(look.since("window_minutes", MINUTES).timestamp() * 1e6)
    ended = look.tx.count("jobs", {"status": "dead", "finished_at": Cmp(">=", since)})
    count = ended + look.tx.count("jobs", {"status": "dead", "finished_at": None})
    return Measured(count >= look.params["threshold"], f"{count} jobs were given up", {"jobs": count})


_FEW = {"min_executions": (10.0, 1.0, 1e6)}
_SHARE = {"threshold": (0.1, 0.0, 1.0)}
CONDITIONS: Mapping[str, Condition] = {
    "collection_empty": Condition(_empty, refers=_COLLECTION),
    "collection_stale": Condition(_stale, {"max_age_hours": (24, 0.01, 10_000)}, _COLLECTION),
    "collection_drift": Condition(_drift, {"threshold": (0.1, 0, 2), "window_hours": (24, 0.1, 2_000)}, _COLLECTION),
    "batch_failed": Condition(_failed, _WINDOW),
    "batch_stalled": Condition(_stalled, {"minutes": (30, 1, 10_080)}),
    "batch_error_rate": Condition(_error_rate, {**_WINDOW, **_SHARE, "min_objects": (10, 1, 1e6)}),
    "ingest_stalled": Condition(_ingest_stalled, {"minutes": (60, 1, 10_080)}),
    "retriever_latency": Condition(
        _latency, {**_WINDOW, **_FEW, "threshold_ms": (1_000, 1, 1e6), "percentile": (95, 1, 100)}, _ANY_RETRIEVER
    ),
    "retriever_no_results": Condition(_no_results, {**_WINDOW, **_FEW, "threshold": (0.2, 0, 1)}, _ANY_RETRIEVER),
    "retriever_accuracy": Condition(_accuracy, {"threshold": (0.5, 0, 1)}, _RETRIEVER),
    "retriever_alignment_regression": Condition(_regression, {"tolerance": (0.05, 0, 1)}, _RETRIEVER),
    "retriever_no_interactions": Condition(_no_interactions, {"hours": (24, 0.1, 2_000), **_FEW}, _ANY_RETRIEVER),
    "task_queue_degraded": Condition(_queue, {"max_waiting_seconds": (300, 1, 1e6), "max_waiting": (10_000, 1, 1e7)}),
    "dlq_growth": Condition(_dead_letters, {**_WINDOW, "threshold": (1, 1, 1e6)}),
}
REFUSED = {
    "provider_quota_exhausted": "no provider of models here reports its quota",
    "budget_threshold": "usage is not billed here, so there is no budget",
}
_ALIASES = {"threshold_hours": "max_age_hours", "hours": "max_age_hours"}


def check_condition(tx: ReadTx, raw: Any) -> Row:
    """A system condition with all its parameters.

    Raises:
        ValidationError: it is unknown, or a parameter does not fit.
        NotEnabledError: nothing here can measure it.
        NotFoundError: what it refers to is not there.
    """
    where = ("body", "system_condition")
    kind = raw.get("type") if isinstance(raw, Mapping) else None
    if not isinstance(kind, str):
        raise ValidationError.at((*where, "type"), f"is required: one of {', '.join(sorted(CONDITIONS))}", "missing")
    if kind in REFUSED:
        raise NotEnabledError(f"system_condition.type: '{kind}' cannot be watched: {REFUSED[kind]}")
    if kind not in CONDITIONS:
        message = f"'{kind[:60]}' is no condition; there are {', '.join(sorted(CONDITIONS))}"
        raise ValidationError.at((*where, "type"), message, "enum")
    given = raw.get("params") or {}
    if not isinstance(given, Mapping):
        raise ValidationError.at((*where, "params"), f"must be an object, got {type(given).__name__}", "dict_type")
    return {"type": kind, "params": _params(tx, CONDITIONS[kind], dict(given), (*where, "params"))}


def _params(tx: ReadTx, condition: Condition, given: Row, where: tuple[str, ...]) -> Row:
    for old, new in _ALIASES.items():
        if old in given and old not in condition.numbers and new in condition.numbers:
            given[new] = given.pop(old)
    evaluated = condition.refers == _RETRIEVER
    known = {*condition.numbers, *condition.refers, *(("metric",) if evaluated else ())}
    unknown = sorted(set(given) - known)
    if unknown:
        message = (
            f"'{unknown[0][:60]}' is no parameter of this condition; there are {', '.join(sorted(known)) or 'none'}"
        )
        raise ValidationError.at((*where, unknown[0][:60]), message, "extra_forbidden")
    made: Row = {"metric": str(given.get("metric") or "ndcg")} if evaluated else {}
    for name, (default, low, high) in condition.numbers.items():
        value = given.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            message = f"must be a number from {low:g} to {high:g}, got {str(value)[:40]!r}"
            raise ValidationError.at((*where, name), message, "range")
        made[name] = value
    for name, (kind, required) in condition.refers.items():
        if given.get(name):
            made[name] = _reference(tx, kind, str(given[name]))
        elif required:
            raise ValidationError.at((*where, name), f"is required: the {kind} that is watched", "missing")
    return made


def _reference(tx: ReadTx, kind: str, ident: str) -> str:
    """The id of what is named. For an organization's alert it is found in each namespace, by this name or id."""
    return tx.get(kind, ident).id if tx.scope.namespace_id else ident


def measure(tx: ReadTx, condition: Mapping[str, Any], now: datetime, services: Services) -> Measured:
    """Whether a stored condition holds in this namespace now.

    Raises:
        NotFoundError: what it watches is gone.
    """
    found = CONDITIONS[str(condition["type"])]
    params = dict(condition["params"])
    for name, (kind, _) in found.refers.items():
        if params.get(name):
            params[name] = tx.get(kind, str(params[name])).id
    return found.measure(Look(tx, params, now, services))


def names() -> Sequence[str]:
    return sorted([*CONDITIONS, *REFUSED])
