"""When an alert speaks: the rise from ok to firing, news while it fires, cool-down and reminders. Pure.

A hit with documents that were never told of is news. Without news an alert speaks once when it rises, and again after
`renotify` if that is set. Inside a cool-down nothing is said; what was held back is told in one summary at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

OK, FIRING = "ok", "firing"
Says: TypeAlias = Literal["notify", "deferred", "quiet"]
MAX_HELD = 20
"""Executions that a summary names."""


@dataclass(frozen=True, slots=True)
class AlertState:
    """Where an alert stands."""

    state: str = OK
    fired_at: datetime | None = None
    notified_at: datetime | None = None
    cooldown_until: datetime | None = None
    held: Mapping[str, Any] = field(default_factory=dict)
    """What the cool-down holds back: `runs`, `matches`, `executions`."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often an alert may speak."""

    cooldown_s: float = 0
    renotify_s: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from an evaluation."""

    state: AlertState
    says: Says
    reason: str


def decide(
    held: AlertState, pace: Pace, now: datetime, *, hit: bool, news: bool, execution_id: str = "", matches: int = 0
) -> Verdict:
    """Where an evaluation leaves an alert, and whether somebody is told."""
    if not hit:
        return Verdict(replace(held, state=OK), "quiet", "the condition does not hold")
    rises = held.state != FIRING
    firing = replace(held, state=FIRING, fired_at=now if rises or news else held.fired_at)
    reason = _reason(held, pace, now, rises=rises, news=news)
    if not reason:
        return Verdict(firing, "quiet", "it fires already, and there is nothing new")
    if held.cooldown_until is not None and now < held.cooldown_until:
        kept = held.held
        told = {
            "runs": kept.get("runs", 0) + 1,
            "matches": kept.get("matches", 0) + matches,
            "executions": [*kept.get("executions", ()), execution_id][-MAX_HELD:],
        }
        return Verdict(replace(firing, held=told), "deferred", f"{reason}, inside the cool-down")
    return Verdict(spoken(firing, pace, now), "notify", reason)


def spoken(held: AlertState, pace: Pace, now: datetime) -> AlertState:
    """After somebody was told: the cool-down begins."""
    until = now + timedelta(seconds=pace.cooldown_s) if pace.cooldown_s > 0 else None
    return replace(held, notified_at=now, cooldown_until=until, held={})


def _reason(held: AlertState, pace: Pace, now: datetime, *, rises: bool, news: bool) -> str:
    """Why somebody should be told; empty: there is no reason."""
    if news:
        return "documents that were not told of yet"
    if rises:
        return "the condition holds now"
    due = pace.renotify_s is not None and held.notified_at is not None
    if due and now - (held.notified_at or now) >= timedelta(seconds=pace.renotify_s or 0):
        return f"the condition still holds after {pace.renotify_s:g} s"
    return ""
