"""Looking at the system conditions that alerts watch, once a minute.

Several servers may look at once: an evaluation of one minute is one execution, whoever records it first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from time import monotonic
from typing import Any

import structlog

from mediatheca.flows.alerts.entries import KIND, SYSTEM
from mediatheca.flows.alerts.evaluate import Evaluated, execution_of, pace_of, settle, state_of
from mediatheca.flows.alerts.matches import AlertMatches
from mediatheca.flows.alerts.state import FIRING, decide
from mediatheca.flows.alerts.system_conditions import Measured, measure
from mediatheca.flows.services import Services
from mediatheca.kernel import clock
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.all_tenants import resources_of_all
from mediatheca.stores.db.tx import Record

log = structlog.get_logger()

EVERY_S = 60.0
BUDGET_S = 2.0
"""For the alerts of one organization each time; the rest comes first the next time."""
_FAILED_EVERY_S = 3_600
"""An alert that cannot be looked at says so once an hour."""


def watch_system(services: Services, resume: dict[str, str] | None = None, budget_s: float = BUDGET_S) -> int:
    """Evaluate the alerts on system conditions; how many executions were recorded.

    `resume`: organization → the alert at which its time was over, kept from one call to the next.
    """
    resume = {} if resume is None else resume
    found: dict[str, list[tuple[Scope, Record]]] = {}
    for scope, alert in resources_of_all(services.db, KIND, SYSTEM):
        if alert.body.get("enabled", True):
            found.setdefault(scope.organization_id, []).append((scope, alert))
    for gone in resume.keys() - found.keys():
        del resume[gone]
    return sum(_watch_each(services, alerts, resume, budget_s) for alerts in found.values())


def _watch_each(
    services: Services, alerts: Sequence[tuple[Scope, Record]], resume: dict[str, str], budget_s: float
) -> int:
    """The alerts of one organization in the order of their ids, from where the time was over; at least one."""
    organization_id, until, recorded = alerts[0][0].organization_id, monotonic() + budget_s, 0
    first = resume.pop(organization_id, "")
    at = next((number for number, (_, alert) in enumerate(alerts) if alert.id >= first), 0)
    for number, (scope, alert) in enumerate([*alerts[at:], *alerts[:at]]):
        if number and monotonic() > until:
            resume[organization_id] = alert.id
            log.warning("alert.watch_cut", organization=organization_id, looked_at=number, of=len(alerts))
            break
        try:
            recorded += watch(services, scope, alert)
        except Exception as error:  # one tenant's alert must not stop the others
            log.error("alert.not_watched", alert=alert.id, exc_info=error)
    return recorded


def watch(services: Services, scope: Scope, alert: Record, *, key: str = "") -> int:
    """Evaluate one alert in each of its namespaces. `key`: of an evaluation that was asked for, which is recorded
    whatever it finds."""
    evaluated = [
        one
        for space in _spaces(services, scope, alert)
        if (one := _look(services, scope, alert, space, key)) is not None
    ]
    return len(settle(services, scope, evaluated))


def _spaces(services: Services, scope: Scope, alert: Record) -> list[str]:
    """The namespaces that an alert looks at."""
    if scope.namespace_id:
        return [scope.namespace_id]
    selector = alert.body.get("namespace_selector") or {}
    with services.db.read(scope) as tx:
        known = [record.id for record in tx.resources("namespace")]
    if selector.get("mode") != "selected":
        return known
    return [ident for ident in selector.get("namespace_ids") or () if ident in known]


def _look(services: Services, scope: Scope, alert: Record, space: str, key: str) -> Evaluated | None:
    """One evaluation; None: there is nothing to record."""
    now, place = clock.now(), "" if scope.namespace_id else space
    found = AlertMatches(alert, "", ran=True)
    try:
        with services.db.read(Scope(scope.organization_id, space)) as tx:
            measured = measure(tx, alert.body["system_condition"], now, services)
    except MediathecaError as error:
        found.error, found.next_step = error.message, "change the alert's system_condition, or delete the alert"
        every = key or str(int(now.timestamp()) // _FAILED_EVERY_S)
        return Evaluated(found, execution_of(f"{every} {place}", alert.id), direct=False, place=place)
    if not key and not _matters(services, scope, alert, place, measured, now):
        return None
    minute = key or str(int(now.timestamp() // EVERY_S))
    key = execution_of(f"{minute} {place} {measured.holds}", alert.id)
    more = {"condition": alert.body["system_condition"], "namespace_id": space, **_figures(measured)}
    return Evaluated(
        found, key, direct=False, more=more, holds=measured.holds,
        why=measured.why, place=place,
    )  # fmt: skip


def _matters(services: Services, scope: Scope, alert: Record, place: str, measured: Measured, now: datetime) -> bool:
    """Whether anything follows: somebody is told, or it is over."""
    with services.db.read(scope) as tx:
        held = state_of(tx.row("alert_states", {"alert_id": alert.id, "collection_id": place}))
    if not measured.holds:
        return held.state == FIRING
    return decide(held, pace_of(alert), now, hit=True, news=False).says != "quiet"


def _figures(measured: Measured) -> Mapping[str, Any]:
    return {"measured": dict(measured.figures)}
