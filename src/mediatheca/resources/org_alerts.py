"""Alerts of the organization: watches on conditions of the system, in all of its namespaces or in some."""

from __future__ import annotations

from fastapi import APIRouter, Response

from mediatheca.api.deps import OrgDelete, OrgRead, OrgReader, OrgWriter, answer, in_slow_thread
from mediatheca.api.lists import Listed
from mediatheca.flows.alerts import store
from mediatheca.flows.alerts.entries import KIND
from mediatheca.resources.alerts import (
    AlertPatch,
    AlertSpec,
    ExecuteSpec,
    change,
    create,
    executed,
    latest,
    newest,
    page,
    remove,
    runs_page,
)
from mediatheca.resources.base import is_true

router = APIRouter(tags=["alerts"])

_ORG = "/organizations/alerts"


@router.post(_ORG, operation_id="create_alert_organizations", response_model=None)
async def create_of_organization(spec: AlertSpec, caller: OrgWriter) -> Response:
    """Watch a condition of the system in all namespaces, or in those that are selected."""
    return await in_slow_thread(lambda: create(spec, caller, organization=True))


@router.post(f"{_ORG}/list", operation_id="list_alerts_organizations", response_model=None)
def list_of_organization(query: Listed, tx: OrgRead, caller: OrgReader) -> Response:
    return page(tx, query, caller)


@router.get(_ORG, operation_id="list_alerts_organizations_get", response_model=None)
def list_of_organization_get(query: Listed, tx: OrgRead, caller: OrgReader) -> Response:
    return page(tx, query, caller)


@router.get(f"{_ORG}/executions", operation_id="list_alert_executions_organizations", response_model=None)
def executions_of_organization(query: Listed, tx: OrgRead, alert_id: str | None = None) -> Response:
    return runs_page(tx, {"alert_id": alert_id} if alert_id else {}, newest(query))


@router.get(
    f"{_ORG}/{{identifier}}/executions", operation_id="list_executions_of_alert_organizations", response_model=None
)
def executions_of_one(identifier: str, query: Listed, tx: OrgRead) -> Response:
    return runs_page(tx, {"alert_id": tx.get(KIND, identifier).id}, newest(query))


@router.get(
    f"{_ORG}/{{identifier}}/results", operation_id="get_latest_result_alerts_organizations", response_model=None
)
def results_of_one(identifier: str, caller: OrgReader) -> Response:
    with caller.services.db.read(caller.organization) as tx:
        record = tx.get(KIND, identifier)
    return answer(latest(caller, caller.organization, record))


@router.post(f"{_ORG}/{{identifier}}/execute", operation_id="execute_alert_organizations", response_model=None)
async def execute_of_organization(identifier: str, caller: OrgWriter) -> Response:
    """Look at its condition now, in each namespace."""
    return answer(await in_slow_thread(lambda: executed(identifier, caller, caller.organization, ExecuteSpec())))


@router.get(f"{_ORG}/{{identifier}}", operation_id="get_alert_organizations", response_model=None)
def get_of_organization(identifier: str, tx: OrgRead, caller: OrgReader) -> Response:
    return answer(store.views(tx, [tx.get(KIND, identifier)], caller.services)[0])


@router.patch(f"{_ORG}/{{identifier}}", operation_id="patch_alert_organizations", response_model=None)
async def patch_of_organization(identifier: str, body: AlertPatch, caller: OrgWriter) -> Response:
    return await in_slow_thread(lambda: change(identifier, body, caller, organization=True))


@router.delete(f"{_ORG}/{{identifier}}", operation_id="delete_alert_organizations", response_model=None)
def delete_of_organization(identifier: str, tx: OrgDelete, force: str | None = None) -> Response:
    return remove(tx, identifier, force=is_true(force))
