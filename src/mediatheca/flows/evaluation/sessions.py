"""Recorded sessions: what somebody asked, and what of the answer was liked. Benchmarks replay them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator

from mediatheca.flows.evaluation.datasets import grades_of
from mediatheca.kernel.bandit import REWARDS, digest
from mediatheca.kernel.errors import NotEnabledError
from mediatheca.kernel.metrics import MAX_GRADE
from mediatheca.stores.db.tx import Cmp, ReadTx, Record, Row

MAX_ROWS = 200_000
"""Interactions looked at, the newest."""


class TimeRange(BaseModel):
    start: datetime | None = None
    end: datetime | None = None

    @field_validator("start", "end")
    @classmethod
    def _zoned(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Weights(BaseModel):
    weights: dict[str, float] | None = Field(None, max_length=100)


class SessionFilter(BaseModel):
    """Which sessions a benchmark replays."""

    model_config = ConfigDict(extra="ignore")

    retriever_ids: list[str] | None = Field(None, max_length=100)
    taxonomy_node_ids: list[str] | None = None
    time_range: TimeRange | None = None
    min_interactions: int = Field(1, ge=1, le=10_000)
    interaction_types: list[str] | None = Field(None, max_length=50)
    sample_strategy: Literal["random", "recent", "stratified"] = "random"
    interaction_weights: Weights | None = None

    def check(self) -> None:
        """Raises NotEnabledError for what is not available."""
        if self.taxonomy_node_ids:
            raise NotEnabledError("session_filter.taxonomy_node_ids: sessions carry no taxonomy here; leave it out")


@dataclass(frozen=True, slots=True)
class Session:
    """One question with what was liked in its answer."""

    session_id: str
    inputs: Mapping[str, Any]
    grades: Mapping[str, int]
    clicked: frozenset[str] = frozenset()
    purchased: frozenset[str] = frozenset()
    stratum: str = ""
    executions: tuple[str, ...] = ()
    """Answers that were shown, newest first."""


def recorded_sessions(tx: ReadTx, wanted: SessionFilter, baseline: str, count: int, seed: str) -> list[Session]:
    """Sessions with at least one liked document, sampled as asked; the same seed gives the same sample."""
    groups: dict[tuple[str, bytes], list[Row]] = {}
    for row in _rows(tx, wanted, baseline):
        inputs = row["body"].get("query_snapshot")
        if inputs:
            who = row["session_id"] or row["execution_id"] or row["interaction_id"]
            groups.setdefault((who, orjson.dumps(inputs, option=orjson.OPT_SORT_KEYS)), []).append(row)
    weights = (wanted.interaction_weights and wanted.interaction_weights.weights) or REWARDS
    found = [_session(who, rows, weights) for (who, _), rows in groups.items() if _fits(rows, wanted)]
    return _sampled([session for session in found if session.grades], wanted.sample_strategy, count, seed)


def _rows(tx: ReadTx, wanted: SessionFilter, baseline: str) -> list[Row]:
    """Newest first."""
    where: dict[str, Any] = {"retriever_id": wanted.retriever_ids or [baseline]}
    span = wanted.time_range or TimeRange()
    if span.start is not None:
        where["occurred_at"] = Cmp(">=", span.start)
    rows = tx.rows("interactions", where, order=("-occurred_at", "-interaction_id"), limit=MAX_ROWS)
    return [row for row in rows if span.end is None or row["occurred_at"] <= span.end]


def _fits(rows: Sequence[Row], wanted: SessionFilter) -> bool:
    if len(rows) < wanted.min_interactions:
        return False
    kinds = {kind for row in rows for kind in row["body"]["interaction_type"]}
    return not wanted.interaction_types or bool(kinds.intersection(wanted.interaction_types))


def _session(who: str, rows: Sequence[Row], weights: Mapping[str, float]) -> Session:
    worth: Counter[str] = Counter()
    by_kind: dict[str, set[str]] = {}
    for row in rows:
        for kind in row["body"]["interaction_type"]:
            by_kind.setdefault(kind, set()).add(row["feature_id"])
            worth[row["feature_id"]] += weights.get(kind, 0.0)  # type: ignore[assignment]
    grades = {ident: max(1, min(MAX_GRADE, round(value))) for ident, value in worth.items() if value > 0}
    stratum = max(by_kind, key=lambda kind: (weights.get(kind, 0.0), kind))
    clicked, purchased = frozenset(by_kind.get("click", ())), frozenset(by_kind.get("purchase", ()))
    shown = tuple(dict.fromkeys(row["execution_id"] for row in rows if row["execution_id"]))
    return Session(who, rows[0]["body"]["query_snapshot"], grades, clicked, purchased, stratum, shown)


def _sampled(found: list[Session], strategy: str, count: int, seed: str) -> list[Session]:
    if strategy == "recent" or len(found) <= count:
        return found[:count]
    generator = random.Random(digest("sessions", seed))
    if strategy == "random":
        return generator.sample(found, count)
    strata: dict[str, list[Session]] = {}
    for session in generator.sample(found, len(found)):
        strata.setdefault(session.stratum, []).append(session)
    taken: list[Session] = []
    while len(taken) < count:  # in turns, so that rare kinds are not lost
        for name in sorted(strata):
            if strata[name] and len(taken) < count:
                taken.append(strata[name].pop())
    return taken


def dataset_sessions(dataset: Record, count: int) -> list[Session]:
    """The queries of a golden data set as sessions."""
    made = []
    for query in dataset.body["queries"]:
        grades = {ident: grade for ident, grade in grades_of(query).items() if grade > 0}
        if grades and query["query_input"]:
            made.append(Session(query["query_id"], query["query_input"], grades, frozenset(grades)))
    return made[:count]
