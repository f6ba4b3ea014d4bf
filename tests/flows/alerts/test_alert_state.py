"""When an alert speaks, on a driven clock; what counts as a hit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mediatheca.flows.alerts.conditions import compare, is_hit
from mediatheca.flows.alerts.matches import Match, shown_score
from mediatheca.flows.alerts.state import FIRING, OK, AlertState, Pace, decide, spoken
from mediatheca.kernel.search import Hit

START = datetime(2026, 3, 1, tzinfo=UTC)


class Clock:
    """Drives one alert."""

    def __init__(self, **pace: Any) -> None:
        self.state, self.pace, self.now = AlertState(), Pace(**pace), START

    def hit(self, *, news: bool = False, after: float = 0, matches: int = 1) -> str:
        self.now += timedelta(seconds=after)
        verdict = decide(self.state, self.pace, self.now, hit=True, news=news, execution_id="e", matches=matches)
        self.state = verdict.state
        return verdict.says

    def miss(self, after: float = 0) -> str:
        self.now += timedelta(seconds=after)
        verdict = decide(self.state, self.pace, self.now, hit=False, news=False)
        self.state = verdict.state
        return verdict.says


def test_without_news_it_speaks_once_per_rise() -> None:
    clock = Clock()
    assert [clock.hit(), clock.hit(after=3600), clock.hit(after=3600)] == ["notify", "quiet", "quiet"]
    assert clock.miss() == "quiet"
    assert clock.state.state == OK
    assert clock.hit() == "notify"
    assert clock.state.state == FIRING


def test_news_is_told_every_time() -> None:
    clock = Clock()
    assert [clock.hit(news=True) for _ in range(3)] == ["notify"] * 3


def test_a_reminder_comes_when_it_is_due_and_not_before() -> None:
    clock = Clock(renotify_s=600)
    assert [clock.hit(), clock.hit(after=599), clock.hit(after=1), clock.hit(after=599)] == [
        "notify", "quiet", "notify", "quiet",
    ]  # fmt: skip


def test_a_cool_down_defers_news_and_counts_what_it_holds_back() -> None:
    clock = Clock(cooldown_s=60)
    assert [clock.hit(news=True), clock.hit(news=True, after=30, matches=2), clock.hit(news=True, matches=3)] == [
        "notify", "deferred", "deferred",
    ]  # fmt: skip
    assert clock.state.held == {"runs": 2, "matches": 5, "executions": ["e", "e"]}
    assert clock.hit(news=True, after=30) == "notify"
    assert clock.state.held == {}


def test_a_rise_inside_a_cool_down_is_deferred_too() -> None:
    clock = Clock(cooldown_s=60)
    clock.hit()
    clock.miss(after=5)
    assert clock.hit(after=5) == "deferred"
    clock.state = spoken(clock.state, clock.pace, clock.now)
    assert clock.state.held == {}
    assert clock.hit(news=True, after=59) == "deferred"


def matches(*prices: Any) -> list[Match]:
    return [Match(Hit(f"d{n}", "c", 0.9, {"price": price, "o": {"k": "x"}}, {}), 0.9) for n, price in enumerate(prices)]


@pytest.mark.parametrize(
    ("value", "how", "bound", "holds"),
    [
        (5, "gt", 4, True), (5, "gt", "4", True), ("5", "lte", 5.0, True), ("b", "gt", "a", True), (5, "eq", "5", True),
        ("x", "lt", 1, False), (None, "ne", 1, True), (True, "eq", True, True), ([1], "gt", 0, False),
        (None, "gt", 1, False),
    ],
)  # fmt: skip
def test_a_threshold_compares_numbers_with_numbers_and_texts_with_texts(
    value: Any, how: str, bound: Any, holds: bool
) -> None:
    assert compare(value, how, bound) is holds


def test_a_hit_needs_enough_matches_and_the_best_of_them_decides() -> None:
    assert is_hit({}, matches(1))[0]
    assert not is_hit({}, [])[0]
    assert not is_hit({"min_count": 3}, matches(1, 2))[0]
    asks = {"threshold": {"field": "price", "operator": "gte", "value": 5}}
    assert is_hit(asks, matches(5, 1))[0]
    assert not is_hit(asks, matches(1, 5))[0]
    assert is_hit({"threshold": {"field": "o.k", "operator": "eq", "value": "x"}}, matches(1))[0]
    assert is_hit({"threshold": {"field": "match_count", "operator": "gt", "value": 1}}, matches(1, 2))[0]
    assert not is_hit({"threshold": {"field": "missing", "operator": "gt", "value": 1}}, matches(1))[0]
    assert is_hit({"trigger_on": "no_results"}, [])[0]
    assert not is_hit({"trigger_on": "no_results"}, matches(1))[0]


def test_scores_are_shown_between_nothing_and_one() -> None:
    assert shown_score(1.0000001, bounded=True) == 1.0
    assert shown_score(-0.2, bounded=True) == 0.0
    assert shown_score(3.0, bounded=False) == pytest.approx(0.75)
    assert shown_score(-3.0, bounded=False) == 0.0
