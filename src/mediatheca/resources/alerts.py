"""Alerts of a namespace: standing queries over what is written, watches on the system, and what became of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import pydantic
from fastapi import APIRouter, Body, Response
from pydantic import AliasChoices, Field, model_validator

from mediatheca.api.deps import Caller, Delete, Read, Reader, Writer, answer, deleted, in_slow_thread
from mediatheca.api.lists import Listed, listed
from mediatheca.flows.alerts import store
from mediatheca.flows.alerts.entries import KIND, attachments
from mediatheca.flows.alerts.evaluate import evaluate_alert
from mediatheca.flows.alerts.executions import execution_views
from mediatheca.flows.alerts.history import Span, look_back
from mediatheca.flows.alerts.inputs import input_notes
from mediatheca.flows.alerts.watch import watch
from mediatheca.flows.delivery.unread import channel_notes
from mediatheca.flows.retrieve.request import field_errors
from mediatheca.kernel import clock
from mediatheca.kernel.errors import BadRequestError, ConflictError, NotFoundError, ValidationError
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.scope import Scope
from mediatheca.resources.base import Spec, is_true, notes_on
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx
from mediatheca.stores.db.tx import record as as_record

MONTH_S = 30 * 86_400


class ThresholdSpec(Spec):
    field: str = Field(min_length=1, max_length=200)
    operator: Literal["eq", "ne", "gt", "gte", "lt", "lte"]
    value: Any = None

    @model_validator(mode="after")
    def _compares(self) -> ThresholdSpec:
        if self.value is None and self.operator not in ("eq", "ne"):
            raise ValueError(f"operator '{self.operator}' needs a 'value' to compare {self.field} with")
        return self


class SelectorSpec(Spec):
    mode: Literal["all", "selected"] = "all"
    namespace_ids: list[str] = Field([], max_length=1_000)


class TemplateSpec(Spec):
    """Words of a notification: templates over its body."""

    subject: str | None = Field(None, max_length=1_000)
    text: str | None = Field(None, max_length=20_000)


class NotificationSpec(Spec):
    channels: list[Any] = Field([], max_length=20)
    include_matches: bool = True
    include_scores: bool = True
    template_id: str | None = Field(None, max_length=100)
    template: TemplateSpec | None = None


class NotificationPatch(Spec):
    channels: list[Any] | None = Field(None, max_length=20)
    include_matches: bool | None = None
    include_scores: bool | None = None
    template_id: str | None = Field(None, max_length=100)
    template: TemplateSpec | None = None


class AlertSpec(Spec):
    """The body of create."""

    name: str = Field(min_length=1, max_length=200, validation_alias=AliasChoices("name", "alert_name"))
    description: str | None = Field(None, max_length=10_000)
    source: Literal["retriever", "system"] | None = None
    retriever_id: str | None = Field(None, max_length=200)
    trigger_on: Literal["results", "no_results"] = "results"
    min_count: int | None = Field(None, ge=1, le=10_000)
    threshold: ThresholdSpec | None = None
    inputs: dict[str, Any] | None = None
    cooldown_seconds: int = Field(0, ge=0, le=MONTH_S)
    renotify_interval_seconds: int | None = Field(None, ge=60, le=MONTH_S)
    system_condition: dict[str, Any] | None = None
    namespace_selector: SelectorSpec | None = None
    notification_config: NotificationSpec = Field(default_factory=NotificationSpec)
    enabled: bool = True
    metadata: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _fits(self) -> AlertSpec:
        if self.source is None:
            self.source = "system" if self.system_condition and not self.retriever_id else "retriever"
        if self.trigger_on == "no_results" and (self.threshold is not None or self.min_count is not None):
            raise ValueError("threshold and min_count look at results; with trigger_on no_results there are none")
        return self


class AlertPatch(Spec):
    """Everything may change but what is watched: a retriever, or the system."""

    name: str | None = Field(None, min_length=1, max_length=200)
    description: str | None = Field(None, max_length=10_000)
    source: Literal["retriever", "system"] | None = None
    retriever_id: str | None = Field(None, max_length=200)
    trigger_on: Literal["results", "no_results"] | None = None
    min_count: int | None = Field(None, ge=1, le=10_000)
    threshold: ThresholdSpec | None = None
    inputs: dict[str, Any] | None = None
    cooldown_seconds: int | None = Field(None, ge=0, le=MONTH_S)
    renotify_interval_seconds: int | None = Field(None, ge=60, le=MONTH_S)
    system_condition: dict[str, Any] | None = None
    namespace_selector: SelectorSpec | None = None
    notification_config: NotificationPatch | None = None
    enabled: bool | None = None
    metadata: dict[str, Any] | None = None


class HistorySpec(Spec):
    """What is looked back at: from `since` to `until`, or so many days."""

    since: str | None = Field(None, max_length=40)
    until: str | None = Field(None, max_length=40)
    days: float = 30


class TriedAlertSpec(AlertSpec):
    name: str = Field("test", min_length=1, max_length=200)
    since: str | None = Field(None, max_length=40)
    until: str | None = Field(None, max_length=40)
    days: float = 30


class ExecuteSpec(Spec):
    inputs: dict[str, Any] | None = None
    document_ids: list[str] | None = Field(None, max_length=10_000)
    notify: bool = False


def body_of(spec: AlertSpec) -> Row:
    """What is stored of a spec: its declared fields, at every level."""
    known = set(AlertSpec.model_fields) - {"name"}
    shown = spec.model_dump(mode="json", include=known)
    shown["notification_config"] = _declared(spec.notification_config)
    return shown | {"threshold": _declared(spec.threshold), "namespace_selector": _declared(spec.namespace_selector)}


def _declared(spec: Spec | None) -> Row | None:
    if spec is None:
        return None
    made = spec.model_dump(mode="json", include=set(type(spec).model_fields))
    template = getattr(spec, "template", None)
    return made | ({"template": _declared(template)} if template is not None else {})


def _name(given: str) -> str:
    """Any text of one line that cannot be taken for an id: paths take both."""
    name = given.strip()
    if not name or name.startswith(f"{store.PREFIX}_") or any(ord(char) < 32 or char == "/" for char in name):
        message = f"must be one line of text without '/', and not begin with '{store.PREFIX}_', which marks an id"
        raise ValidationError.at(("body", "name"), message, "name")
    return name


def _scope(caller: Caller, *, organization: bool) -> Scope:
    return caller.organization if organization else caller.scope


def _shown(caller: Caller, scope: Scope, record: Record, notes: list[str]) -> Response:
    """An alert that was just written, with what the caller is to know."""
    notes = [*notes, *input_notes(caller.services.plans, scope, record.body)]
    with caller.services.db.read(scope) as tx:
        view = store.views(tx, [record], caller.services)[0]
    return answer(view | ({"warnings": notes} if notes else {}))


def _notes(caller: Caller, spec: AlertSpec | AlertPatch) -> list[str]:
    told = spec.notification_config
    place = ("notification_config", "channels")
    unread = channel_notes(caller.services, (told and told.channels) or [], place)
    return notes_on(caller, spec, *unread).get("warnings", [])


def create(spec: AlertSpec, caller: Caller, *, organization: bool) -> Response:
    notes, scope, services = _notes(caller, spec), _scope(caller, organization=organization), caller.services
    name = _name(spec.name)
    with services.db.read(scope) as tx:  # names of hosts are asked for: nothing is locked meanwhile
        body = store.checked(tx, body_of(spec), services)
    made = services.db.run(scope, lambda tx: store.put(tx, name, body), caller.actor.key_id)
    return _shown(caller, scope, made, notes)


def change(ident: str, patch: AlertPatch, caller: Caller, *, organization: bool) -> Response:
    notes, scope, services = _notes(caller, patch), _scope(caller, organization=organization), caller.services
    sent = patch.model_dump(mode="json", exclude_unset=True, include=set(AlertPatch.model_fields))
    if not sent:
        raise BadRequestError("the body is empty: send the fields to change")
    with services.db.read(scope) as tx:
        current = tx.get(KIND, ident)
        name, body = _merged(current, sent)
        body = store.checked(tx, body, services, current)
    made = services.db.run(
        scope, lambda tx: store.change(tx, current.id, name, body, current.version), caller.actor.key_id
    )
    return _shown(caller, scope, made, notes)


def _merged(current: Record, sent: Row) -> tuple[str, Row]:
    """Name and body with what was sent; of notification_config only the keys that were sent change."""
    source = sent.pop("source", None)
    if source not in (None, current.body["source"]):
        message = f"cannot change from '{current.body['source']}' to '{source}'; make another alert"
        raise ValidationError.at(("body", "source"), message, "immutable")
    name = _name(sent.pop("name", None) or current.name)
    config = dict(current.body.get("notification_config") or {})
    config["channels"] = store.views_of_channels(current)
    config |= sent.pop("notification_config", None) or {}
    whole = {"name": name, **_known(current.body), **sent, "notification_config": config}
    try:
        spec = AlertSpec.model_validate({key: value for key, value in whole.items() if value is not None})
    except pydantic.ValidationError as error:
        found = field_errors(error, ("body",))
        raise ValidationError("; ".join(f"{'.'.join(map(str, e.loc))}: {e.msg}" for e in found), found) from error
    return name, body_of(spec)


def _known(body: Row) -> Row:
    return {key: value for key, value in body.items() if key in AlertSpec.model_fields}


def page(tx: ReadTx, query: ListQuery, caller: Caller) -> Response:
    found = tx.page("resources", {"kind": KIND}, query, {"alert_id": "id"})
    shown = store.views(tx, [as_record(row) for row in found.rows], caller.services)
    stats = {"total_alerts": found.total} if found.total is not None else {}
    return answer(listed(found, shown) | {"stats": stats})


def remove(tx: Tx, ident: str, *, force: bool) -> Response:
    record = tx.get(KIND, ident)
    applied = attachments(tx, [record]).get(record.id, []) if tx.scope.namespace_id else []
    if applied and not force:
        raise ConflictError(
            f"alert '{record.name}' is applied by {len(applied)} collections ({', '.join(i for i, _ in applied[:5])}); "
            "take it from their alert_applications first, or add ?force=true",
        )
    store.remove(tx, record)
    return deleted(KIND, record.id)


def runs_page(tx: ReadTx, where: Row, query: ListQuery) -> Response:
    found = tx.page("alert_runs", where, query)
    return answer(listed(found, execution_views(tx, found.rows)))


router = APIRouter(tags=["alerts"])


@router.post("/alerts", operation_id="create_alert", response_model=None)
async def create_alert(spec: AlertSpec, caller: Writer) -> Response:
    """Watch a retriever, or a condition of the system."""
    return await in_slow_thread(lambda: create(spec, caller, organization=False))


@router.post("/alerts/list", operation_id="list_alerts", response_model=None)
def list_alerts(query: Listed, tx: Read, caller: Reader) -> Response:
    return page(tx, query, caller)


@router.get("/alerts", operation_id="list_alerts_get", response_model=None)
def list_alerts_get(query: Listed, tx: Read, caller: Reader) -> Response:
    return page(tx, query, caller)


@router.get("/alerts/executions", operation_id="list_alert_executions", response_model=None)
def executions(
    query: Listed, tx: Read, alert_id: str | None = None, collection_id: str | None = None,
    triggered: bool | None = None,
) -> Response:  # fmt: skip
    """The executions of all alerts, the newest first unless sorted otherwise."""
    given = {"alert_id": alert_id, "collection_id": collection_id, "triggered": triggered}
    return runs_page(tx, {name: value for name, value in given.items() if value is not None}, newest(query))


def newest(query: ListQuery) -> ListQuery:
    return query if query.sort or query.cursor else replace(query, sort=(("created_at", True),))


@router.get("/alerts/executions/{execution_id}", operation_id="get_alert_execution", response_model=None)
def execution(execution_id: str, tx: Read) -> Response:
    row = tx.row("alert_runs", {"execution_id": execution_id})
    if row is None:
        raise NotFoundError("alert execution", execution_id)
    return answer(execution_views(tx, [row])[0])


@router.post("/alerts/test", operation_id="test_alert", response_model=None)
async def try_new(spec: TriedAlertSpec, caller: Writer) -> Response:
    """How often an alert would have fired, before it is saved."""

    def work() -> Row:
        with caller.services.db.read(caller.scope) as tx:
            made = store.checked(tx, body_of(spec), caller.services)
        return _looked_back(caller, Record(KIND, "", spec.name, made), spec)

    return answer(await in_slow_thread(work))


@router.post("/alerts/{identifier}/test", operation_id="test_stored_alert", response_model=None)
async def try_stored(identifier: str, caller: Writer, spec: Annotated[HistorySpec | None, Body()] = None) -> Response:
    """How often a stored alert would have fired."""

    def work() -> Row:
        with caller.services.db.read(caller.scope) as tx:
            record = tx.get(KIND, identifier)
        return _looked_back(caller, record, spec or HistorySpec())

    return answer(await in_slow_thread(work))


def _looked_back(caller: Caller, record: Record, asked: HistorySpec | TriedAlertSpec) -> Row:
    if record.body["source"] == "system":
        message = "a system condition has no history here; only alerts on a retriever can be tested"
        raise ValidationError.at(("body", "source"), message, "conflict")
    return look_back(
        caller.services,
        caller.scope,
        record,
        Span.of({"since": asked.since, "until": asked.until, "days": asked.days}, clock.now()),
    )


@router.post("/alerts/{identifier}/execute", operation_id="execute_alert", response_model=None)
async def execute(identifier: str, caller: Writer, spec: Annotated[ExecuteSpec | None, Body()] = None) -> Response:
    """Run an alert now, over everything there is or the documents named. Nobody is told unless `notify`."""
    asked = spec or ExecuteSpec()
    notes = notes_on(caller, asked)
    return answer(await in_slow_thread(lambda: executed(identifier, caller, caller.scope, asked)) | notes)


def executed(identifier: str, caller: Caller, scope: Scope, asked: ExecuteSpec) -> Row:
    services = caller.services
    with services.db.read(scope) as tx:
        record = tx.get(KIND, identifier)
    if record.body["source"] == "system":
        watch(services, scope, record, key=new_id("run"))
        return latest(caller, scope, record)
    only = None if asked.document_ids is None else set(asked.document_ids)
    row = evaluate_alert(services, scope, record.id, inputs=asked.inputs, notify=asked.notify, only=only)
    with services.db.read(scope) as tx:
        return execution_views(tx, [row])[0]


def latest(caller: Caller, scope: Scope, record: Record) -> Row:
    with caller.services.db.read(scope) as tx:
        rows = tx.rows("alert_runs", {"alert_id": record.id}, order=("-created_at", "-execution_id"), limit=1)
        if not rows:
            raise NotFoundError("result of alert", record.id)
        return execution_views(tx, rows)[0]


@router.get("/alerts/{identifier}/executions", operation_id="list_executions_of_alert", response_model=None)
def executions_of(identifier: str, query: Listed, tx: Read) -> Response:
    return runs_page(tx, {"alert_id": tx.get(KIND, identifier).id}, newest(query))


@router.get("/alerts/{identifier}/results", operation_id="get_latest_result_alerts", response_model=None)
def results(identifier: str, caller: Reader) -> Response:
    """The latest execution; 404 before the first one."""
    with caller.services.db.read(caller.scope) as tx:
        record = tx.get(KIND, identifier)
    return answer(latest(caller, caller.scope, record))


@router.get("/alerts/{identifier}", operation_id="get_alert", response_model=None)
def get(identifier: str, tx: Read, caller: Reader) -> Response:
    return answer(store.views(tx, [tx.get(KIND, identifier)], caller.services)[0])


@router.patch("/alerts/{identifier}", operation_id="patch_alert", response_model=None)
@router.put("/alerts/{identifier}", operation_id="update_alert", response_model=None)
async def patch(identifier: str, body: AlertPatch, caller: Writer) -> Response:
    """Change what was sent."""
    return await in_slow_thread(lambda: change(identifier, body, caller, organization=False))


@router.delete("/alerts/{identifier}", operation_id="delete_alert", response_model=None)
def delete(identifier: str, tx: Delete, force: str | None = None) -> Response:
    return remove(tx, identifier, force=is_true(force))
