"""What visitors may do with published retrievers: look at the page, search, and say what they liked; no key needed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from mediatheca.api.deps import answer, in_slow_thread, json_body
from mediatheca.flows.bodies import checked
from mediatheca.flows.learning import InteractionSpec, LearningNeighbours, Recorder
from mediatheca.flows.publishing import PublicDoor, Visitor, public_answer, public_request, public_view
from mediatheca.flows.publishing.door import scope_of
from mediatheca.flows.publishing.requests import public_stages
from mediatheca.flows.services import Services
from mediatheca.kernel.errors import ForbiddenError, NotEnabledError, NotFoundError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.resources.publications import public_url
from mediatheca.stores.db.publications import Row, list_publications

router = APIRouter(tags=["public retrievers"])
_PATH = "/public/retrievers"
_ONE = f"{_PATH}/{{public_name}}"
MAX_INTERACTIONS = 100
_KEY = "ret_sk_"


def _visitor(request: Request) -> Visitor:
    headers = request.headers
    bearer = headers.get("authorization", "").removeprefix("Bearer ").strip()
    key = headers.get("x-public-api-key", "") or (bearer if bearer.startswith(_KEY) else "")
    address = request.client.host if request.client else ""
    return Visitor(address, headers.get("x-retriever-password", ""), key, headers.get("origin", ""))


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _base(request: Request) -> str:
    return _services(request).settings.public_url.rstrip("/") or str(request.base_url).rstrip("/")


async def _enter(request: Request, public_name: str, *, admitted: bool = True) -> Row:
    """The publication, with the request counted, and the visitor let in."""
    door: PublicDoor = _services(request).door
    visitor = _visitor(request)

    def enter() -> Row:
        row = door.find(public_name)
        door.count(row, visitor)
        if admitted:
            door.admit(row, visitor)
        return row

    return await in_slow_thread(enter)


@router.get(_PATH, operation_id="list_public_retrievers", response_model=None)
def list_(
    request: Request, search: Annotated[str, Query(max_length=100)] = "", include_inactive: bool = False,
    page: Annotated[int, Query(ge=1, le=1_000)] = 1, page_size: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:  # fmt: skip
    """The published retrievers of this installation."""
    if include_inactive:
        raise NotEnabledError("include_inactive: their owners see them by GET /v1/retrievers/published")
    rows, total, locked = list_publications(_services(request).db, search, (page - 1) * page_size, page_size)
    shown = [public_view(row, public_url(_base(request), row["public_name"])) for row in rows]
    pages = max(1, -(-total // page_size))
    counts = {"total_active": total, "total_password_protected": locked, "total_open": total - locked}
    body = {"results": shown, "total_count": total, "page": page, "page_size": page_size, "total_pages": pages}
    return answer({**body, "stats": counts})


@router.get(f"{_ONE}/config", operation_id="get_public_retriever_config", response_model=None)
async def config(public_name: str, request: Request) -> Response:
    """What a page needs to show the search."""
    row = await _enter(request, public_name, admitted=False)
    body = row["body"]
    shown = {"public_name": row["public_name"], "public_api_key": None, "display_config": body["display_config"]}
    shown |= {"description": body["description"], "tags": body["tags"], "category": body["category"]}
    return answer({**shown, "password_protected": bool(row["password_hash"]), "retriever_metadata": None})


class Password(BaseModel):
    password: str = Field(min_length=1, max_length=1_000)


@router.post(f"{_ONE}/verify", operation_id="verify_public_password", response_model=None)
async def verify(public_name: str, spec: Password, request: Request) -> Response:
    """Whether a password is right. Ten wrong ones from an address close the door for five minutes."""
    row = await _enter(request, public_name, admitted=False)
    seen = _visitor(request)
    visitor = Visitor(seen.address, spec.password, "", seen.origin)
    door: PublicDoor = _services(request).door
    valid = not row["password_hash"] or await in_slow_thread(lambda: door.knows(row, visitor))
    return answer({"valid": valid, "public_api_key": None})


@router.post(f"{_ONE}/execute", operation_id="execute_public_retriever", response_model=None)
async def execute(public_name: str, request: Request, return_presigned_urls: bool | None = None) -> Response:
    """Search. Only exposed fields are shown, and may be filtered and sorted by; URLs are signed unless declined."""
    row = await _enter(request, public_name)
    body = json_body(await request.body())
    given = body.get("return_presigned_urls", body.get("return_urls"))
    signed = return_presigned_urls if return_presigned_urls is not None else given is not False
    asked = public_request(body, row["body"], signed=signed)
    services, scope = _services(request), scope_of(row)
    found = await services.plans.find(scope, row["retriever_id"])
    constraint = row["body"]["filters"]
    context = services.around.context(
        scope, found, base_url=_base(request), filter=parse_filter(constraint) if constraint else None
    )
    learning = LearningNeighbours(context.neighbours, services.learning, scope, asked)
    context = replace(context, neighbours=learning)
    result = await services.retrieve.execute(found.plan, asked, context)
    _, learned = learning.report(result)
    names = [view.collection_id for view in found.plan.collections]
    seen = {"collection_ids": names, "actor": "public", "version": found.version, **learned}
    seen |= {"request": asked.repeatable(), "later_page": asked.cursor is not None}
    services.executions.add(scope, found.retriever_id, asked.inputs, result, **seen)
    return answer(public_answer(result, row["body"]))


# ---- what visitors liked


class PublicInteraction(BaseModel):
    model_config = ConfigDict(extra="ignore")

    document_id: str = Field(min_length=1, max_length=512, validation_alias=AliasChoices("document_id", "feature_id"))
    interaction_type: Any
    position: Any
    execution_id: str | None = None
    query_snapshot: Any = None
    document_score: Any = None
    result_set_size: Any = None
    session_id: str | None = None
    metadata: Any = None


class PublicInteractions(BaseModel):
    model_config = ConfigDict(extra="ignore")

    interactions: list[PublicInteraction] = Field(min_length=1, max_length=MAX_INTERACTIONS)


def _spec(given: PublicInteraction, request: Request, row: Row) -> InteractionSpec:
    """A visitor's interaction; it must hang on an execution of this very retriever."""
    if not given.execution_id:
        raise ValidationError.at(("body", "execution_id"), "is required: the execution_id of the answer", "missing")
    raw = given.model_dump(exclude_none=True)
    raw["session_id"] = given.session_id or request.headers.get("x-session-id")
    spec = checked(InteractionSpec, {**raw, "retriever_id": row["retriever_id"]})
    execution = _services(request).executions.find(scope_of(row), given.execution_id)
    if execution is None or execution["retriever_id"] != row["retriever_id"]:
        raise NotFoundError("execution", given.execution_id)
    return spec


def _record(request: Request, row: Row, given: list[PublicInteraction]) -> list[dict[str, Any]]:
    services = _services(request)
    specs = [_spec(entry, request, row) for entry in given]
    with services.db.begin(scope_of(row), "public") as tx:
        recorder = Recorder(tx, services.executions, services.learning)
        made = [recorder.record(spec, deduplicate=True) for spec in specs]
        recorder.finish()
    return made


@router.post(f"{_ONE}/interactions", operation_id="track_public_interaction", response_model=None)
async def interaction(public_name: str, spec: PublicInteraction, request: Request) -> Response:
    row = await _enter(request, public_name, admitted=False)
    made = (await asyncio.to_thread(_record, request, row, [spec]))[0]
    shown = {"interaction_id": made["interaction_id"], "deduplicated": made["deduplicated"]}
    return answer({"success": True, "tracked": 1, **shown})


@router.post(f"{_ONE}/interactions/batch", operation_id="track_public_interactions", response_model=None)
async def interactions(public_name: str, spec: PublicInteractions, request: Request) -> Response:
    row = await _enter(request, public_name, admitted=False)
    made = await asyncio.to_thread(_record, request, row, spec.interactions)
    ids = [entry["interaction_id"] for entry in made]
    return answer({"success": True, "tracked": len(made), "created": len(made), "interaction_ids": ids})


@router.get(f"{_ONE}/template", operation_id="get_public_retriever_template", response_model=None)
async def template(public_name: str, request: Request) -> Response:
    """The pipeline, to build one's own from it; only where its owner shares it (`include_metadata`)."""
    row = await _enter(request, public_name)
    if not row["body"]["include_metadata"]:
        raise ForbiddenError("the owner of this retriever does not share how it works")
    return answer(await asyncio.to_thread(_template, _services(request), row, _base(request)))


def _template(services: Services, row: Row, base: str) -> dict[str, Any]:
    with services.db.read(scope_of(row)) as tx:
        retriever = tx.find("retriever", row["retriever_id"])
        if retriever is None:
            raise NotFoundError("published retriever", row["public_name"])
        names = {record.id: record.name for record in tx.resources("collection")}
    body = retriever.body
    return {
        "retriever_name": retriever.name,
        "description": body.get("description"),
        "collection_identifiers": [names.get(ident, ident) for ident in body["collection_ids"]],
        "stages": public_stages(body["stages"]),
        "input_schema": body["input_schema"],
        "budget_limits": body.get("budget_limits") or {},
        "tags": body.get("tags") or [],
        "display_config": row["body"]["display_config"],
        "source_public_name": row["public_name"],
        "source_public_url": public_url(base, row["public_name"]),
        "feature_extractors": [],
    }
