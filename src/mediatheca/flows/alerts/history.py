"""How often an alert would have fired: its retriever over what was written hour by hour, its pace applied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from mediatheca.flows.alerts.conditions import is_hit
from mediatheca.flows.alerts.evaluate import pace_of
from mediatheca.flows.alerts.matches import Match, match_view
from mediatheca.flows.alerts.standing import documents_of
from mediatheca.flows.alerts.state import AlertState, decide
from mediatheca.flows.neighbours import Surroundings
from mediatheca.flows.replay import replay_context
from mediatheca.flows.retrieve import RetrieveEngine
from mediatheca.flows.retrieve.request import MAX_PAGE
from mediatheca.flows.retrievers import Compiled
from mediatheca.flows.services import Services
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import And, Filter, Leaf
from mediatheca.kernel.ordering import parse_time
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Record, Row

MAX_DAYS = 92
EXAMPLES = 20
LONGEST_S = 300.0
Bin = tuple[datetime, datetime]
NOTES = (
    "the documents of each hour were searched among themselves: one that only a fuller collection kept out of top_k "
    "counts here",
    "documents that were deleted or written again since are not seen as they were",
)


@dataclass(frozen=True, slots=True)
class Span:
    """What is looked back at."""

    since: datetime
    until: datetime

    @classmethod
    def of(cls, raw: Row, now: datetime) -> Span:
        """From `since` and `until`, or `days` before now.

        Raises:
            ValidationError: a time cannot be read, or the span is empty or too long.
        """
        until = _time(raw, "until") or now
        days = raw.get("days", 30)
        if isinstance(days, bool) or not isinstance(days, int | float) or not 0 < days <= MAX_DAYS:
            raise ValidationError.at(("body", "days"), f"must be a number up to {MAX_DAYS}, got {days!r}", "range")
        since = _time(raw, "since") or until - timedelta(days=days)
        if not timedelta(0) < until - since <= timedelta(days=MAX_DAYS):
            message = f"must lie before until, by {MAX_DAYS} days at most"
            raise ValidationError.at(("body", "since"), message, "range")
        return cls(since, until)

    def bins(self) -> Iterator[Bin]:
        start = self.since.replace(minute=0, second=0, microsecond=0)
        while start < self.until:
            end = start + timedelta(hours=1)
            yield max(start, self.since), min(end, self.until)
            start = end


def _time(raw: Row, name: str) -> datetime | None:
    given = raw.get(name)
    if given is None:
        return None
    found = parse_time(given) if isinstance(given, str) else None
    if found is None:
        message = f"must be an ISO-8601 time like 2026-01-31T12:00:00Z, got {str(given)[:40]!r}"
        raise ValidationError.at(("body", name), message, "datetime")
    return found


def look_back(services: Services, scope: Scope, alert: Record, span: Span) -> Row:
    """What the alert would have said. Nothing is recorded, nobody is told.

    Raises:
        NotFoundError: its retriever is gone.
        ValidationError: the retriever cannot run with the alert's inputs.
    """
    found = services.plans.get(scope, str(alert.body["retriever_id"]))
    inputs = alert.body.get("inputs") or {}

    async def work(engine: RetrieveEngine, around: Surroundings) -> list[tuple[Bin, list[Match]]]:
        hours = []
        for hour in await _busy(engine, found, list(span.bins())):
            context = replay_context(around, scope, found)
            hits = await documents_of(engine, found.plan, inputs, replace(context, filter=_within(hour)))
            hours.append((hour, [Match(hit, hit.score) for hit in hits]))
        return hours

    return _report(alert, span, services.replayer.call(work, LONGEST_S))


async def _busy(engine: RetrieveEngine, found: Compiled, hours: Sequence[Bin]) -> list[Bin]:
    """The hours in which anything was written. Asked of ever smaller halves: most of a month is empty."""
    if not hours or not await _any(engine, found, _within((hours[0][0], hours[-1][1]))):
        return []
    if len(hours) == 1:
        return list(hours)
    middle = len(hours) // 2
    return [*await _busy(engine, found, hours[:middle]), *await _busy(engine, found, hours[middle:])]


async def _any(engine: RetrieveEngine, found: Compiled, within: Filter) -> bool:
    """Whether anything was written in that time."""
    for view in found.plan.collections:
        if (await engine.searcher.count(view.collection_id, within))[0]:
            return True
    return False


def _within(hour: Bin) -> Filter:
    low, high = (wire_time(moment) for moment in hour)
    return And((Leaf("_internal.created_at", "gte", low), Leaf("_internal.created_at", "lt", high)))


def _report(alert: Record, span: Span, hours: list[tuple[Bin, list[Match]]]) -> Row:
    state, pace = AlertState(), pace_of(alert)
    fired, told, held, matched = Counter[str](), Counter[str](), 0, 0
    examples: list[Row] = []
    last = None
    for (start, end), matches in hours:
        if last is not None and start > last:
            state = decide(state, pace, start, hit=False, news=False).state
        last = end
        hit, why = is_hit(alert.body, matches)
        verdict = decide(state, pace, end, hit=hit, news=bool(matches) and hit)
        state, matched = verdict.state, matched + len(matches)
        if not hit:
            continue
        day = wire_time(start)[:10]
        fired[day] += 1
        told[day] += verdict.says == "notify"
        held += verdict.says == "deferred"
        for match in matches[: max(0, EXAMPLES - len(examples))]:
            entry = match_view(match, bounded=match.score <= 1)
            examples.append({**entry, "hour": wire_time(start), "trigger_reason": why})
    full = [wire_time(hour[0]) for hour, matches in hours if len(matches) >= MAX_PAGE]
    notes = [*NOTES, *([f"{len(full)} hours had {MAX_PAGE} matches or more; more are not counted"] if full else [])]
    return {
        "since": wire_time(span.since),
        "until": wire_time(span.until),
        "hours_with_documents": len(hours),
        "match_count": matched,
        "fired": sum(fired.values()),
        "notifications": sum(told.values()),
        "deferred": held,
        "fires_per_day": dict(sorted(fired.items())),
        "notifications_per_day": {day: count for day, count in sorted(told.items()) if count},
        "examples": examples,
        "notes": notes,
    }
