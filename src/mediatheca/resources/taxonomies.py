"""Taxonomies: stored joins of documents with labels, their versions, and what they say of given documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from pydantic import AliasChoices, Field

from mediatheca.api.deps import Raw, Read, Reader, Write, Writer, answer, in_slow_thread, json_body
from mediatheca.api.lists import listed
from mediatheca.flows.taxonomies.applications import FIELD, application_of, attached
from mediatheca.flows.taxonomies.apply import attached_options, start_apply
from mediatheca.flows.taxonomies.config import Loc, parse_config, unknown_in
from mediatheca.flows.taxonomies.design import settle
from mediatheca.flows.taxonomies.infer import check_inference, plan_inference, start_inference
from mediatheca.flows.taxonomies.labels import label_paths
from mediatheca.flows.taxonomies.nodes import (
    KIND,
    PREFIX,
    body_of,
    seen_paths,
    shown_nodes,
    version_row,
    versioned,
    view_of,
)
from mediatheca.flows.taxonomies.trial import Trial, try_taxonomy, works_as
from mediatheca.kernel.errors import BadRequestError, ConflictError, MediathecaError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.ids import check_name
from mediatheca.resources.base import Context, Resource, Spec, is_true, notes_on
from mediatheca.stores.db.listing import ListQuery, Page
from mediatheca.stores.db.tx import ReadTx, Record, Tx

_WHERE: Loc = ("body", "config")


class TaxonomySpec(Spec):
    """The body of create. `config` is read by `flows.taxonomies.config`, which knows every spelling."""

    taxonomy_name: str = Field(validation_alias=AliasChoices("taxonomy_name", "name"))
    description: str | None = Field(None, max_length=5000)
    config: dict[str, Any]
    metadata: dict[str, Any] = Field(default_factory=dict)
    retriever_id: str | None = Field(None, description="Of config, where that names none.")
    input_mappings: list[dict[str, Any]] | None = Field(None, description="Of config, where that has none.")

    def full_config(self) -> dict[str, Any]:
        outer = {"retriever_id": self.retriever_id, "input_mappings": self.input_mappings}
        return {**{name: value for name, value in outer.items() if value is not None}, **self.config}

    def unknown(self) -> list[str]:
        return [*super().unknown(), *unknown_in(parse_config(self.full_config()))]


class TaxonomyPatch(Spec):
    """Name, description and metadata; a new configuration is a new version."""

    taxonomy_name: str | None = None
    description: str | None = Field(None, max_length=5000)
    metadata: dict[str, Any] | None = None


class CloneSpec(TaxonomyPatch):
    """A taxonomy of its own, with another name, and maybe another configuration."""

    taxonomy_name: str
    config: dict[str, Any] | None = None


class ApplyBudget(Spec):
    """What applying may take. Comparisons cost no credits."""

    max_credits: float | None = Field(None, ge=0)
    max_time_ms: int | None = Field(None, ge=1)


class ApplySpec(Spec):
    """Which taxonomy goes over the collection, and how."""

    taxonomy_id: str
    version: int | None = Field(None, ge=1)
    scroll_filters: dict[str, Any] | None = None
    batch_size: int = Field(1_000, ge=100, le=5_000)
    parallelism: int = Field(4, ge=1, le=20)
    budget_limits: ApplyBudget | None = None


def create(tx: Tx, spec: TaxonomySpec, context: Context) -> tuple[str, dict[str, Any]]:
    """Check everything a taxonomy refers to."""
    made = designed(tx, spec.full_config(), context)
    return spec.taxonomy_name, {"description": spec.description, "metadata": spec.metadata, "version": 1, **made}


def designed(tx: Tx, raw: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """The parts of a body that belong to its version."""
    config = parse_config(raw)
    check_inference(context.services, tx, config)
    return plan_inference(tx, config, settle(tx, config))


def created(tx: Tx, record: Record) -> None:
    """The first version, and the search for the hierarchy where it is to be inferred."""
    tx.insert("taxonomy_versions", [version_row(record)])
    if not record.body["ready"]:
        start_inference(tx, record)


def change(tx: Tx, record: Record, patch: TaxonomyPatch, context: Context) -> tuple[str, dict[str, Any]]:
    fixed = sorted({"config", "retriever_id", "input_mappings"} & set(patch.model_extra or {}))
    if fixed:
        raise ConflictError(
            f"{', '.join(fixed)} of a taxonomy belongs to its version; make a new one: "
            f"POST /v1/taxonomies/{record.id}/versions"
        )
    sent = patch.model_dump(mode="json", exclude_unset=True, include=set(TaxonomyPatch.model_fields))
    if not sent:
        raise BadRequestError("the body is empty: send taxonomy_name, description or metadata")
    name = sent.pop("taxonomy_name", None) or record.name
    return name, {**record.body, **sent}


def remove(tx: Tx, record: Record, context: Context, query: Mapping[str, str]) -> dict[str, Any]:
    """Refused while collections name it. What it wrote into documents stays there."""
    users = attached(tx, record)
    if users and not is_true(query.get("force")):
        names = ", ".join(collection.name for collection in users[:5])
        raise ConflictError(
            f"taxonomy '{record.name}' is attached to {len(users)} collections ({names}); take it out of their "
            "taxonomy_applications, or delete it with ?force=true",
            details={"collection_ids": [collection.id for collection in users[:100]]},
        )
    for collection in users:
        kept = [e for e in collection.body[FIELD] if e["taxonomy_id"] not in (record.id, record.name)]
        tx.change(collection, {**collection.body, FIELD: kept})
    for run in tx.rows("taxonomy_runs", {"taxonomy_id": record.id, "completed_at": None}):
        tx.cancel_jobs(run["task_id"] or "")
        tx.update("tasks", {"task_id": run["task_id"]}, {"status": "CANCELED"})
    for table in ("taxonomy_versions", "taxonomy_runs", "taxonomy_stats"):
        tx.delete(table, {"taxonomy_id": record.id})
    return {"taxonomy_id": record.id, "detached_from": [collection.id for collection in users]}


def present(tx: ReadTx, records: Sequence[Record], context: Context) -> list[dict[str, Any]]:
    """How it works, and the nodes that labels or documents name, are told of one that is asked for alone."""
    version = _version(context.query)
    if len(records) != 1:
        return [_view(record, record.body, shown_nodes(record.body, ())) for record in records]
    record = records[0]
    body = body_of(tx, record, version)
    return [{**_view(record, body, _nodes(tx, record, body, context)), **_works(tx, record, body, context)}]


def _version(query: Mapping[str, str]) -> int | None:
    given = query.get("version")
    if given in (None, ""):
        return None
    if not str(given).isdigit() or not 1 <= int(str(given)) < 2**31:
        raise ValidationError.at(("query", "version"), f"must be a number from 1 on, got '{str(given)[:40]}'", "int")
    return int(str(given))


def _nodes(tx: ReadTx, record: Record, body: Mapping[str, Any], context: Context) -> list[dict[str, Any]] | None:
    seen = label_paths(context.services.indexer, tx.scope, body) if body["labels"] else seen_paths(tx, record.id)
    return shown_nodes(body, seen)


def _works(tx: ReadTx, record: Record, body: Mapping[str, Any], context: Context) -> dict[str, Any]:
    if not body["ready"]:
        mode, why = (
            ("unusable", "could not be inferred") if _status(body) == "failed" else ("waiting", "is not known yet")
        )
        return {"works_as": {"mode": mode, "reason": f"its hierarchy {why}", "stored_vectors": []}}
    try:
        view = view_of(tx, context.services.plans, record, body["version"])
    except MediathecaError as error:
        return {"works_as": {"mode": "unusable", "reason": error.message, "stored_vectors": []}}
    return {"works_as": works_as(view)}


def _view(record: Record, body: Mapping[str, Any], nodes: list[dict[str, Any]] | None) -> dict[str, Any]:
    config = body["config"]
    return {
        "taxonomy_id": record.id,
        "taxonomy_name": record.name,
        "version": body["version"],
        "description": body["description"],
        "retriever_id": config.get("retriever_id"),
        "input_mappings": config.get("input_mappings") or None,
        "config": config,
        "nodes": nodes,
        "ready": body["ready"],
        "status": _status(body),
        "inference": body.get("inference"),
        "label_collection_ids": body["labels"],
        "enriched_collection_id": body["enriched"] or None,
        "metadata": body["metadata"],
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }


def _status(body: Mapping[str, Any]) -> str:
    if body["ready"]:
        return "ready"
    return "failed" if (body.get("inference") or {}).get("status") == "failed" else "inferring"


# ---- versions

routes = APIRouter(tags=["taxonomies"])
_PATH = "/taxonomies/{identifier}"


@routes.get(f"{_PATH}/versions", operation_id="list_taxonomy_versions", response_model=None)
def versions(identifier: str, tx: Read, limit: int = 20, offset: int = 0) -> Response:
    """The versions of a taxonomy, the newest first."""
    record = tx.get(KIND, identifier)
    query = ListQuery(limit=max(1, min(limit, 1000)), offset=max(0, offset))
    rows = tx.rows("taxonomy_versions", {"taxonomy_id": record.id}, order=("-version",))
    shown = rows[query.offset : query.offset + query.limit]
    views = []
    for row in shown:
        body = {**record.body, **row["body"], "version": row["version"]}
        views.append({**_view(record, body, shown_nodes(body, ())), "created_at": row["created_at"]})
    return answer(listed(Page([], len(rows), query.offset, query.limit, None), views))


@routes.post(f"{_PATH}/versions", operation_id="create_taxonomy_version", response_model=None)
def new_version(identifier: str, raw: Raw, tx: Write, caller: Writer) -> Response:
    """Another configuration under the same id. Applications that pin a version keep it."""
    record = tx.get(KIND, identifier)
    body = json_body(raw)
    config = body.get("config", body)
    if not isinstance(config, dict) or not config:
        raise ValidationError.at(_WHERE, "is required: the configuration of the new version", "missing")
    context = Context(caller.services, caller.absolute)
    made = {**record.body, **designed(tx, config, context), "version": record.body["version"] + 1}
    if isinstance(body.get("description"), str):
        made["description"] = body["description"]
    record = tx.change(record, made)
    created(tx, record)
    tx.emit("taxonomy.updated", record.id, {"version": made["version"]})
    return answer(present(tx, [record], context)[0])


@routes.post(f"{_PATH}/clone", operation_id="clone_taxonomy", response_model=None)
def clone(identifier: str, spec: CloneSpec, tx: Write, caller: Writer) -> Response:
    original, context = tx.get(KIND, identifier), Context(caller.services, caller.absolute)
    notes = notes_on(caller, spec)
    body = original.body
    made = {
        **body,
        "version": 1,
        "description": spec.description if spec.description is not None else body["description"],
        "metadata": spec.metadata if spec.metadata is not None else body["metadata"],
        **(designed(tx, spec.config, context) if spec.config else versioned(body)),
    }
    if not spec.config and not body["ready"]:
        raise ConflictError(f"taxonomy '{original.name}' is not ready; clone it when its hierarchy is known")
    record = tx.put(KIND, PREFIX, check_name("taxonomy_name", spec.taxonomy_name, PREFIX), made)
    created(tx, record)
    tx.emit("taxonomy.created", record.id, {"name": record.name, "cloned_from": original.id})
    shown = present(tx, [record], context)[0]
    return answer({"taxonomy": shown, "source_taxonomy_id": original.id, **notes})


# ---- trying and applying


@routes.post("/taxonomies/execute/{identifier}", operation_id="execute_taxonomy", response_model=None)
@routes.post(f"{_PATH}/execute", operation_id="execute_taxonomy_by_id", response_model=None)
async def execute(identifier: str, raw: Raw, caller: Reader, version: int | None = None) -> Response:
    """What a taxonomy says of up to five documents, or inputs. Nothing is written."""
    body = json_body(raw)
    documents = body.get("source_documents")
    if documents is not None and not isinstance(documents, list):
        raise ValidationError.at(("body", "source_documents"), "must be a list of documents or inputs", "list_type")
    named = body.get("source_collection_id")
    if named is not None and not isinstance(named, str):
        raise ValidationError.at(("body", "source_collection_id"), "must be a text", "string_type")
    keep = parse_filter(body.get("scroll_filters") or None, path="scroll_filters")
    trial = Trial(version, documents or None, named, keep)
    services, scope = caller.services, caller.scope
    return answer(await in_slow_thread(lambda: try_taxonomy(services, scope, identifier, trial)))


@routes.post("/collections/{identifier}/apply-taxonomy", operation_id="apply_taxonomy", response_model=None)
def apply(identifier: str, spec: Annotated[ApplySpec, Body()], tx: Write, caller: Writer) -> Response:
    """Evaluate a whole collection and write the labels, as a task. Doing it again changes only what has changed."""
    notes = notes_on(caller, spec).get("warnings", [])
    collection, taxonomy = tx.get("collection", identifier), tx.get(KIND, spec.taxonomy_id)
    attachment = application_of(collection, taxonomy)
    if attachment is None:
        raise BadRequestError(
            f"taxonomy '{taxonomy.name}' is not attached to collection '{collection.name}': PATCH the collection with "
            f'taxonomy_applications [{{"taxonomy_id": "{taxonomy.id}"}}] first'
        )
    budget = spec.budget_limits or ApplyBudget()
    if budget.max_credits is not None:
        notes = [*notes, "budget_limits.max_credits: comparisons cost no credits; max_time_ms bounds them"]
    options = attached_options(
        attachment, filters=spec.scroll_filters, version=spec.version, batch_size=spec.batch_size,
        parallelism=spec.parallelism, max_time_ms=budget.max_time_ms,
    )  # fmt: skip
    task_id = start_apply(tx, collection, taxonomy, options)
    task = tx.row("tasks", {"task_id": task_id})
    estimated = caller.services.indexer.index.count(collection.id) if _counted(caller, collection.id) else None
    return answer(
        {
            "task_id": task_id,
            "status": task["status"] if task else "QUEUED",
            "collection_id": collection.id,
            "taxonomy_id": taxonomy.id,
            "estimated_documents": estimated,
            **({"warnings": notes} if notes else {}),
        }
    )


def _counted(caller: Any, collection_id: str) -> bool:
    return bool(caller.services.indexer.ready(collection_id))


taxonomy = Resource(
    name=KIND,
    path="/taxonomies",
    prefix=PREFIX,
    spec=TaxonomySpec,
    patch=TaxonomyPatch,
    present=present,
    create=create,
    change=change,
    remove=remove,
    created=created,
)
