"""Retrievers: stored multi-stage searches, executed by id, by name, or ad hoc."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import AliasChoices, Field, SerializerFunctionWrapHandler, model_serializer

from mediatheca.api.deps import Reader, Write, Writer, answer, json_body
from mediatheca.flows.alerts.store import alerts_on
from mediatheca.flows.evaluation import check_learning_config
from mediatheca.flows.executions_replay import kept_stages
from mediatheca.flows.learning import forget_retriever
from mediatheca.flows.publishing import is_published
from mediatheca.flows.retrieve import ExecuteRequest, declared_collections
from mediatheca.flows.retrieve.cache import cache_policy
from mediatheca.flows.retrieve.levels import Level
from mediatheca.flows.retrievers import views
from mediatheca.kernel import clock
from mediatheca.kernel.errors import BadRequestError, ConflictError, ValidationError
from mediatheca.kernel.ids import check_name
from mediatheca.kernel.inputs import input_schema_changes, parse_input_schema
from mediatheca.kernel.uris import parse_feature_uri
from mediatheca.resources._executing import context_of, query_of, respond
from mediatheca.resources.base import Context, Resource, Spec, is_true
from mediatheca.stores.db.tx import ReadTx, Record, Tx


class BudgetLimits(Spec):
    """What one execution may spend."""

    max_credits: float | None = Field(None, ge=0)
    max_time_ms: float | None = Field(
        None, ge=0, validation_alias=AliasChoices("max_time_ms", "max_execution_time_ms", "timeout_ms")
    )
    max_inference_calls: int | None = Field(None, ge=0)
    max_llm_tokens: int | None = Field(None, ge=0)

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            name: value
            for name, value in handler(self).items()
            if name in type(self).model_fields and value is not None
        }


class RetrieverSpec(Spec):
    """The body of create. Stages are checked by the engine, which knows every spelling."""

    retriever_name: str
    stages: list[dict[str, Any]] = Field(min_length=1)
    collection_identifiers: list[str] | None = Field(
        None, validation_alias=AliasChoices("collection_identifiers", "collection_ids")
    )
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    budget_limits: BudgetLimits | None = None
    cache_config: dict[str, Any] | None = None
    tags: list[str] = Field(default_factory=list)
    metadata: dict[str, Any] = Field(default_factory=dict)
    display_config: dict[str, Any] | None = None
    visibility: str = Field("private", pattern="^(private|public|marketplace)$")
    optimize: Level = Field("semantic", description="How far stages may be rewritten before they run.")


class RetrieverPatch(Spec):
    """Everything but `budget_limits`; the input schema only in ways that keep callers working."""

    retriever_name: str | None = None
    stages: list[dict[str, Any]] | None = Field(None, min_length=1)
    collection_identifiers: list[str] | None = Field(
        None, validation_alias=AliasChoices("collection_identifiers", "collection_ids")
    )
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    tags: list[str] | None = None
    metadata: dict[str, Any] | None = None
    display_config: dict[str, Any] | None = None
    visibility: str | None = Field(None, pattern="^(private|public|marketplace)$")
    cache_config: dict[str, Any] | None = None
    optimize: Level | None = None


class CloneSpec(RetrieverPatch):
    retriever_name: str
    budget_limits: BudgetLimits | None = None


def create(tx: Tx, spec: RetrieverSpec, context: Context) -> tuple[str, dict[str, Any]]:
    body = spec.model_dump(mode="json", include=set(RetrieverSpec.model_fields) - {"retriever_name"})
    if spec.collection_identifiers is None:
        body["collection_identifiers"] = declared_collections({"stages": spec.stages}) or None
    return spec.retriever_name, checked(tx, {**body, "created_by": tx.actor, "updated_by": tx.actor}, context)


def checked(tx: ReadTx, body: dict[str, Any], context: Context) -> dict[str, Any]:
    """The body with stages in their canonical form, collections by id, and everything validated."""
    engine = context.services.retrieve
    identifiers = body.pop("collection_identifiers", None)  # none: all there are; an empty list: no collection
    collections = views(tx, identifiers)
    schema = body.get("input_schema") or {}
    plan = engine.compile(body["stages"], collections, schema)
    cache_policy(body.get("cache_config"), plan.stages)  # refused here rather than at the first execution
    stages = engine.normalise(body["stages"])
    check_learning_config(tx, stages)
    return {
        **body,
        "stages": stages,
        "collection_ids": [view.collection_id for view in collections],
        "inference_only": identifiers == [],
        "input_schema": schema,
        "feature_uris": list(plan.feature_uris),
        "fusion": plan.fusion,
        "warnings": list(plan.warnings),
    }


def change(tx: Tx, record: Record, patch: RetrieverPatch, context: Context) -> tuple[str, dict[str, Any]]:
    sent = patch.model_dump(mode="json", exclude_unset=True, include=set(RetrieverPatch.model_fields))
    if "budget_limits" in (patch.model_extra or {}):
        raise ValidationError.at("budget_limits", "cannot change after creation; clone the retriever", "immutable")
    if not sent:
        raise BadRequestError("the body is empty: send the fields to change")
    if "stages" in sent and is_published(tx, record.id):
        raise ConflictError("stages: a published retriever keeps its stages; unpublish it, or change a clone of it")
    name = sent.pop("retriever_name", None) or record.name
    if "input_schema" in sent:
        old, new = parse_input_schema(record.body["input_schema"]), parse_input_schema(sent["input_schema"])
        input_schema_changes(old, new)
    body = {**record.body, "collection_identifiers": _identifiers(record), **sent}
    tx.insert(
        "retriever_versions",
        [
            {"retriever_id": record.id, "version": record.version, "body": record.body, "created_at": clock.now()},
        ],
    )
    return name, checked(tx, {**body, "updated_by": tx.actor}, context)


def _identifiers(record: Record) -> list[str] | None:
    """What a retriever was given as its collections, as `checked` reads it."""
    return [] if record.body.get("inference_only") else record.body["collection_ids"] or None


def remove(tx: Tx, record: Record, context: Context, query: Mapping[str, str]) -> dict[str, Any]:
    watching = [] if is_true(query.get("force")) else alerts_on(tx, record.id)
    if watching:
        names = ", ".join(alert.name for alert in watching[:5])
        message = f"{len(watching)} alerts watch retriever '{record.name}' ({names})"
        raise ConflictError(f"{message}; change or delete them, or add ?force=true")
    for table in ("retriever_versions", "executions"):
        tx.delete(table, {"retriever_id": record.id})
    forget_retriever(tx, record.id)
    return {"retriever_id": record.id}


def present(tx: ReadTx, records: Sequence[Record], context: Context) -> list[dict[str, Any]]:
    found = []
    public = set(tx.column("publications", "retriever_id", {"retriever_id": [record.id for record in records]}))
    for record in records:
        view = _view(record) | {"is_published": record.id in public}
        found.append({**view, "retriever": view})
    return found


def _view(record: Record) -> dict[str, Any]:
    body = record.body
    kept = (
        "description",
        "tags",
        "metadata",
        "display_config",
        "visibility",
        "fusion",
        "budget_limits",
        "cache_config",
        "created_by",
        "updated_by",
    )
    return {
        "retriever_id": record.id,
        "retriever_name": record.name,
        **{name: body.get(name) for name in kept},
        "stages": body["stages"],
        "collection_identifiers": body["collection_ids"],
        "collection_ids": body["collection_ids"],
        "input_schema": body["input_schema"],
        "feature_uris": body["feature_uris"],
        "feature_dependencies": [found for uri in body["feature_uris"] if (found := feature_address(uri))],
        "optimize": body.get("optimize") or "semantic",
        "status": "active",
        "version": record.version,
        "warnings": body.get("warnings", []),
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }


def feature_address(uri: str) -> dict[str, str] | None:
    """A feature URI in its parts; None for a name that is none."""
    try:
        parsed = parse_feature_uri(uri)
    except ValidationError:
        return None
    return {"scheme": "mixpeek", "extractor": parsed.extractor, "version": parsed.version, "output": parsed.output}


routes = APIRouter(tags=["retrievers"])


@routes.get("/retrievers/stages", operation_id="list_stages", response_model=None)
def stages(request: Request, category: str | None = None) -> Response:
    """The stages there are, generated from their files. Needs no key: clients send none."""
    return answer(request.app.state.services.retrieve.registry(category))


@routes.post("/retrievers/execute", operation_id="execute_adhoc_retriever", response_model=None)
async def execute_adhoc(request: Request, caller: Reader) -> Response:
    """Run stages that are not stored."""
    body = json_body(await request.body())
    if not isinstance(body.get("stages"), list):
        raise ValidationError.at("stages", "is required: a list of stages", "missing")
    given = (body.get("collection_identifiers"), body.get("collection_ids"))
    names = next((names for names in given if names is not None), declared_collections(body) or None)

    def compiled() -> Any:
        with caller.services.db.read(caller.scope) as tx:
            found = views(tx, names)
        return caller.services.retrieve.compile(body["stages"], found, body.get("input_schema"))

    plan = await asyncio.to_thread(compiled)  # many templates take long
    known = {**body, "collection_identifiers": None, "collection_ids": None}
    asked = ExecuteRequest.parse(known, query_of(request))
    adhoc, last_event = {"X-Execution-Mode": "adhoc"}, request.headers.get("last-event-id")
    keep = kept_stages(body)
    return await respond(caller, plan, asked, context_of(caller), adhoc, last_event=last_event, keep=keep)


@routes.post("/retrievers/{identifier}/execute", operation_id="execute_retriever", response_model=None)
async def execute(identifier: str, request: Request, caller: Reader) -> Response:
    """Run a stored retriever."""
    body = json_body(await request.body())
    asked = ExecuteRequest.parse(body, query_of(request))  # first: it checks the version
    found = await caller.services.plans.find(caller.scope, identifier, asked.version)
    if asked.retriever_id not in (None, identifier, found.retriever_id, found.name):
        message = f"'{asked.retriever_id[:100]}' is another retriever than that of the path; leave it out"
        raise ValidationError.at(("body", "retriever_id"), message, "conflict")
    last_event = request.headers.get("last-event-id")
    return await respond(caller, found.plan, asked, context_of(caller, found), last_event=last_event)


@routes.post("/retrievers/{identifier}/clone", operation_id="clone_retriever", response_model=None)
def clone(identifier: str, spec: CloneSpec, tx: Write, caller: Writer) -> Response:
    original = tx.get("retriever", identifier)
    context = Context(caller.services, caller.absolute)
    sent = spec.model_dump(mode="json", exclude_unset=True, include=set(CloneSpec.model_fields))
    name = check_name("retriever_name", sent.pop("retriever_name"), "ret")
    body = {**original.body, "collection_identifiers": _identifiers(original), **sent}
    body |= {"created_by": tx.actor, "updated_by": tx.actor}
    made = tx.put("retriever", "ret", name, checked(tx, body, context))
    tx.emit("retriever.created", made.id, {"cloned_from": original.id})
    return answer({**present(tx, [made], context)[0], "source_retriever_id": original.id})


retriever = Resource(
    name="retriever",
    path="/retrievers",
    prefix="ret",
    spec=RetrieverSpec,
    patch=RetrieverPatch,
    present=present,
    create=create,
    change=change,
    remove=remove,
)
