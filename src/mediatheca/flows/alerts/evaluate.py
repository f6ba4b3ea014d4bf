"""From matches to executions: is it a hit, is it news, who is told. Everything of one evaluation in one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic
from typing import Any

from mediatheca.flows.alerts.conditions import is_hit
from mediatheca.flows.alerts.matches import AlertMatches, match_view
from mediatheca.flows.alerts.notify import EVENT, notice, template_of, worded
from mediatheca.flows.alerts.state import FIRING, OK, AlertState, Pace, Verdict, decide
from mediatheca.flows.delivery.queue import Outgoing, enqueue_deliveries
from mediatheca.flows.delivery.refs import refs_of
from mediatheca.flows.follow_up import FollowUp, Outcome
from mediatheca.flows.services import Services
from mediatheca.jobs.worker import Run
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Record, Row, Tx

AT_ONCE = 100
"""Alerts settled in one transaction."""
LONGEST_S = 0.5
"""After so long a transaction takes no more alerts: each may fill in a template of its own."""
KEPT_MATCHES = 100
"""Matches that an execution keeps."""
SUMMARY = "alert.summary"
ATTEMPTS = 3
SAME = 1e-4


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation on its way into the database."""

    found: AlertMatches
    execution_id: str
    direct: bool
    """It looked at new documents; what it has told of already does not count again."""
    notify: bool = True
    bounded: bool = True
    """Scores are from 0 to 1 as they are."""
    more: Mapping[str, Any] | None = None
    """Of system conditions: what was measured."""
    holds: bool | None = None
    """Of system conditions: whether it holds, and why."""
    why: str = ""
    place: str = ""
    """Of an organization's alert: the namespace it was looked at in, which has a state of its own."""

    @property
    def key(self) -> tuple[str, str]:
        return self.found.alert.id, self.place


def run_alerts(services: Services, run: Run, follow: FollowUp) -> Outcome:
    """Phase 3 of what follows a write: the alerts that the documents match, each told once."""
    scope, collection_id = follow.scope, follow.collection.id
    results = services.percolator.percolate(scope, collection_id, follow.document_ids)
    run.check()
    evaluated = [
        Evaluated(found, execution_of(follow.follow_id, found.alert.id), direct=True, bounded=_bounded(found))
        for found in results
    ]
    settle(services, scope, evaluated)
    _calm(services, scope, services.percolator.watching(scope, collection_id) - {e.found.alert.id for e in evaluated})
    failed = [found for found in results if found.error]
    problems = [
        {"what": f"alert {found.alert.name}", "reason": found.error, "next_step": found.next_step or NEXT_STEP}
        for found in failed
    ]
    return Outcome(done=len(results) - len(failed), failed=len(failed), problems=problems)


NEXT_STEP = "change the alert or its retriever; the next documents are looked at again"


def execution_of(key: str, alert_id: str) -> str:
    """The id of an evaluation that may be repeated: the same again is the same execution."""
    return "aexec_" + hashlib.blake2b(f"{key} {alert_id}".encode(), digest_size=12).hexdigest()


def evaluate_alert(
    services: Services,
    scope: Scope,
    alert_id: str,
    *,
    inputs: Mapping[str, Any] | None = None,
    since: datetime | None = None,
    notify: bool = True,
    key: str = "",
    only: Collection[str] | None = None,
) -> Row:
    """Run an alert as a whole, by hand or by a schedule; gives the execution. `key`: the same again does nothing more.
    `only`: of what is found, these documents.

    Raises:
        NotFoundError: there is no such alert.
    """
    found = services.percolator.evaluate(scope, alert_id, inputs=inputs, since=since)
    if only is not None:
        found.matches = [match for match in found.matches if match.document_id in only]
    ident = execution_of(key, found.alert.id) if key else new_id("aexec")
    made = settle(services, scope, [Evaluated(found, ident, False, notify, _bounded(found))])
    return made[0]


def _bounded(found: AlertMatches) -> bool:
    """Whether the scores need no squeezing: cosines and fused ranks lie below 1, but for the last bits."""
    return all(match.score <= 1.0 + SAME for match in found.matches)


def settle(services: Services, scope: Scope, evaluated: Sequence[Evaluated]) -> list[Row]:
    """Record evaluations, move the alerts' states, and queue what is to be told; gives the executions recorded."""
    made: list[Row] = []
    at = 0
    while at < len(evaluated):
        rows, settled = _again(services, scope, evaluated[at : at + AT_ONCE])
        made.extend(rows)
        at += settled
    if made:
        services.deliverer.kick()
    return made


def _again(services: Services, scope: Scope, part: Sequence[Evaluated]) -> tuple[list[Row], int]:
    """Two follow-ups may settle one alert at a time: whoever comes second reads again."""
    for attempt in range(ATTEMPTS):
        try:
            return services.db.run(scope, lambda tx: _settled(tx, part))
        except ConflictError:
            if attempt == ATTEMPTS - 1:
                raise
    return [], len(part)


def _settled(tx: Tx, part: Sequence[Evaluated]) -> tuple[list[Row], int]:
    """The executions recorded, and how many of the evaluations are settled: all, unless their templates took long."""
    known = set(tx.column("alert_runs", "execution_id", {"execution_id": [e.execution_id for e in part]}))
    fresh = [e for e in part if e.execution_id not in known]
    ids = [e.found.alert.id for e in fresh]
    if not fresh:
        return tx.rows("alert_runs", {"execution_id": sorted(known)}), len(part)
    states = {
        (row["alert_id"], row["collection_id"]): row
        for row in tx.rows("alert_states", {"alert_id": ids}, order=("alert_id", "collection_id"), hold="update")
    }
    told = _told(tx, fresh)
    work = _Work(tx, clock.now(), states, told)
    settled, until = len(part), monotonic() + LONGEST_S
    for place, one in enumerate(part, 1):
        if one.execution_id not in known:
            work.take(one)
            if monotonic() > until:  # whoever else writes waits for us
                settled = place
                break
    work.write()
    return work.runs, settled


def _told(tx: Tx, fresh: Sequence[Evaluated]) -> dict[tuple[str, str, str], str]:
    """(alert, collection, document) → the content that was told of."""
    documents = sorted({match.document_id for one in fresh for match in one.found.matches})
    found: dict[tuple[str, str, str], str] = {}
    alerts = [one.found.alert.id for one in fresh if one.found.matches]
    for at in range(0, len(documents), 5_000):
        where = {"alert_id": alerts, "document_id": documents[at : at + 5_000]}
        for row in tx.rows("alert_matches", where):
            found[row["alert_id"], row["collection_id"], row["document_id"]] = row["content_key"]
    return found


States = dict[tuple[str, str], Row]
"""(alert, place) → its row."""


class _Work:
    """One transaction's worth of evaluations: everything is gathered, then written in a few statements."""

    def __init__(self, tx: Tx, moment: datetime, states: States, told: dict[tuple[str, str, str], str]) -> None:
        self._tx = tx
        self._now = moment
        self._states = states
        self._told = told
        self.runs: list[Row] = []
        self._changed: dict[tuple[str, str], AlertState] = {}
        self._matches: list[Row] = []
        self._outgoing: list[Outgoing] = []
        self._events: dict[str, list[tuple[str, Row]]] = {}
        self._summaries: list[tuple[tuple[str, str], datetime]] = []

    def take(self, one: Evaluated) -> None:
        found, alert = one.found, one.found.alert
        if found.error:
            self._record(one, found.matches, triggered=False, reason="", says="quiet")
            self._event("alert.execution.failed", alert.id, one, error=found.error[:500])
            return
        fresh = self._news(found)
        lists = alert.body.get("trigger_on") != "no_results"
        if one.direct and lists and found.matches and not fresh:
            return  # the same documents with the same content
        counted = fresh if one.direct and lists else found.matches
        hit, why = (one.holds, one.why) if one.holds is not None else is_hit(alert.body, counted)
        if not one.notify:
            self._record(one, counted, triggered=bool(hit), reason=why, says="quiet")
            self._event("alert.execution.completed", alert.id, one, triggered=bool(hit))
            return
        held = self._changed.get(one.key) or state_of(self._states.get(one.key))
        verdict = decide(
            held, pace_of(alert), self._now, hit=bool(hit), news=bool(fresh) and one.holds is None,
            execution_id=one.execution_id, matches=len(counted),
        )  # fmt: skip
        self._changed[one.key] = verdict.state
        if hit:
            self._remember(found, fresh)
        self._record(one, counted, triggered=bool(hit), reason=why, says=verdict.says)
        self._event("alert.execution.completed", alert.id, one, triggered=bool(hit))
        self._speak(one, counted, verdict, held, why)

    def _news(self, found: AlertMatches) -> list[Any]:
        return [
            match for match in found.matches
            if self._told.get((found.alert.id, match.hit.collection_id, match.document_id)) != match.content_key
        ]  # fmt: skip

    def _remember(self, found: AlertMatches, fresh: Sequence[Any]) -> None:
        for match in fresh:
            key = (found.alert.id, match.hit.collection_id, match.document_id)
            if self._told.get(key) == match.content_key:
                continue
            if key in self._told:
                where = dict(zip(("alert_id", "collection_id", "document_id"), key, strict=True))
                self._tx.delete("alert_matches", where)
            self._told[key] = match.content_key
            named = {"alert_id": key[0], "collection_id": key[1], "document_id": key[2]}
            self._matches.append({**named, "content_key": match.content_key, "matched_at": self._now})

    def _record(self, one: Evaluated, matches: Sequence[Any], *, triggered: bool, reason: str, says: str) -> None:
        found = one.found
        body = {
            "trigger_reason": reason,
            "match_count": len(matches),
            "matches": [match_view(match, bounded=one.bounded) for match in matches[:KEPT_MATCHES]],
            "source_documents": found.sources[:KEPT_MATCHES],
            "duration_ms": round(found.duration_ms),
            "error": found.error or None,
            "next_step": found.next_step or None,
            "said": says,
            "channels": [ref.channel for ref in refs_of(found.alert)],
            "system": dict(one.more or {}),
            "place": one.place,
        }
        self.runs.append(
            {"execution_id": one.execution_id, "alert_id": found.alert.id, "collection_id": found.collection_id}
            | {"triggered": triggered, "body": body, "created_at": self._now}
        )

    def _speak(self, one: Evaluated, matches: Sequence[Any], verdict: Verdict, held: AlertState, why: str) -> None:
        alert = one.found.alert
        if verdict.says == "deferred" and not held.held and verdict.state.cooldown_until is not None:
            self._summaries.append((one.key, verdict.state.cooldown_until))
        if verdict.says != "notify":
            return
        config = alert.body.get("notification_config") or {}
        # A cool-down that has just ended: what it held back is told here, and the summary finds nothing left.
        more = {**(one.more or {}), **({"summary": dict(held.held)} if held.held else {})}
        body = notice(
            alert, replace(one.found, matches=list(matches)), one.execution_id, why,
            organization_id=self._tx.scope.organization_id, moment=self._now, bounded=one.bounded, more=more,
        )  # fmt: skip
        told = worded(body, template_of(self._tx, config))
        refs = refs_of(alert)
        if refs:
            self._outgoing.append(Outgoing(
                target_kind="alert", target_id=alert.id, channels=refs, message_id=one.execution_id,
                event_type=EVENT, body=told,
            ))  # fmt: skip
        self._event(EVENT, alert.id, one, match_count=len(matches), trigger_reason=why)

    def _event(self, kind: str, alert_id: str, one: Evaluated, **more: Any) -> None:
        payload = {"execution_id": one.execution_id, "collection_id": one.found.collection_id, **more}
        self._events.setdefault(kind, []).append((alert_id, payload))

    def write(self) -> None:
        tx = self._tx
        tx.insert("alert_runs", self.runs)
        tx.insert("alert_matches", self._matches)
        fresh = []
        for key, state in self._changed.items():
            named, values = {"alert_id": key[0], "collection_id": key[1]}, state_row(state)
            if key in self._states:
                tx.update("alert_states", named, values)
            else:
                fresh.append(named | values)
        tx.insert("alert_states", fresh)
        for (alert_id, place), until in self._summaries:
            delay = max(0.0, (until - self._now).total_seconds())
            tx.enqueue(SUMMARY, {"alert_id": alert_id, "place": place}, delay_s=delay)
        if self._outgoing:
            enqueue_deliveries(tx, self._outgoing)
        for kind, events in self._events.items():
            tx.emit_many(kind, events)


def state_of(row: Row | None) -> AlertState:
    """A row of `alert_states`; none: the alert was never hit."""
    if row is None:
        return AlertState()
    times = (row["fired_at"], row["notified_at"], row["cooldown_until"])
    return AlertState(row["state"], *times, held=row["body"].get("held") or {})


def state_row(state: AlertState) -> Row:
    return {
        "state": state.state,
        "body": {"held": dict(state.held)},
        "fired_at": state.fired_at,
        "notified_at": state.notified_at,
        "cooldown_until": state.cooldown_until,
    }


def pace_of(alert: Record) -> Pace:
    return Pace(float(alert.body.get("cooldown_seconds") or 0), alert.body.get("renotify_interval_seconds"))


def _calm(services: Services, scope: Scope, alert_ids: Collection[str]) -> None:
    """Alerts that fired and found nothing among these documents are ready to rise again."""
    with services.db.read(scope) as tx:
        firing = tx.column("alert_states", "alert_id", {"state": FIRING, "collection_id": ""})
    calm = sorted(set(firing) & set(alert_ids))
    if calm:
        with services.db.begin(scope) as tx:
            for at in range(0, len(calm), 500):
                where = {"alert_id": calm[at : at + 500], "collection_id": "", "state": FIRING}
                tx.update("alert_states", where, {"state": OK})
