"""Interactions: what people did with results. Evaluation and learned fusion feed on them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from mediatheca.api.deps import Caller, Delete, Deleter, Raw, Read, Write, Writer, answer, deleted, json_body
from mediatheca.api.lists import Listed, listed
from mediatheca.flows.learning import InteractionSpec, Recorder, forget_user, learning_config, remove_interaction
from mediatheca.flows.learning.clicks import curve_of
from mediatheca.flows.learning.interactions import MAX_BULK, bulk
from mediatheca.flows.learning.records import interaction_view
from mediatheca.kernel.errors import NotFoundError, ValidationError
from mediatheca.kernel.filters import all_of, parse_filter
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import Tx

router = APIRouter(tags=["interactions"])
_NAMED = ("execution_id", "retriever_id", "session_id", "user_id", "feature_id")


class BulkSpec(BaseModel):
    """Entries are checked one by one: one that is refused does not stop the others."""

    model_config = ConfigDict(extra="ignore")

    interactions: list[Any] = Field(min_length=1, max_length=MAX_BULK)


def _recorder(tx: Tx, caller: Caller) -> Recorder:
    return Recorder(tx, caller.services.executions, caller.services.learning)


@router.post("/retrievers/interactions", operation_id="create_interaction", response_model=None)
def create(spec: InteractionSpec, tx: Write, caller: Writer) -> Response:
    """Record one; the same again within five minutes is dropped."""
    spec.consistent()
    recorder = _recorder(tx, caller)
    made = recorder.record(spec, deduplicate=True)
    recorder.finish()
    return answer(made)


@router.post("/retrievers/interactions/batch", operation_id="create_interactions_bulk", response_model=None)
def create_many(spec: BulkSpec, tx: Write, caller: Writer) -> Response:
    """Record up to a thousand, live ones or a history (`occurred_at`); nothing is dropped as a repetition."""
    return answer(bulk(_recorder(tx, caller), spec.interactions))


@router.post("/retrievers/interactions/list", operation_id="list_interactions", response_model=None)
def list_(raw: Raw, query: Listed, tx: Read) -> Response:
    """Newest first; by retriever (id or name), execution, session, person, document or type."""
    body = json_body(raw)
    where: dict[str, Any] = {}
    for name in _NAMED:
        value = body.get(name)
        if value is not None and not isinstance(value, str):
            raise ValidationError.at(("body", name), "must be a string", "string_type")
        if value:
            where[name] = value
    if "retriever_id" in where:
        found = tx.find("retriever", where["retriever_id"])
        where["retriever_id"] = found.id if found else where["retriever_id"]
    kind = body.get("interaction_type")
    if kind is not None and not isinstance(kind, str):
        raise ValidationError.at(("body", "interaction_type"), "must be a string", "string_type")
    if kind:
        leaf = parse_filter({"field": "interaction_type", "operator": "eq", "value": kind.lower()})
        query = ListQuery(
            query.limit, query.offset, query.cursor, query.search, all_of(query.filter, leaf), query.sort,
            query.include_total,
        )  # fmt: skip
    page = tx.page("interactions", where, query)
    results = [interaction_view(row) for row in page.rows]
    return answer(listed(page, results, items=results))


@router.get("/retrievers/interactions/{interaction_id}", operation_id="get_interaction", response_model=None)
def get(interaction_id: str, tx: Read) -> Response:
    row = tx.row("interactions", {"interaction_id": interaction_id})
    if row is None:
        raise NotFoundError("interaction", interaction_id)
    return answer(interaction_view(row))


@router.get("/retrievers/{identifier}/click-curve", operation_id="get_click_curve", response_model=None)
def click_curve(
    identifier: str, tx: Read, days: Annotated[int, Query(ge=1, le=365)] = 30,
    interaction_type: Annotated[list[str] | None, Query(max_length=20)] = None,
) -> Response:  # fmt: skip
    """How often each place of the answers is clicked, and the position bias that fits it."""
    retriever = tx.get("retriever", identifier)
    tuning = learning_config(retriever.body["stages"]).config.tuning
    return answer(curve_of(tx, retriever.id, days, interaction_type or ["click"], tuning))


@router.delete("/retrievers/interactions/users/{user_id}", operation_id="forget_user", response_model=None)
async def forget(user_id: str, caller: Deleter) -> Response:
    """Remove everything kept about a person: interactions, what was learned from them, records of executions, what
    they were shown, and the results that this namespace keeps for cursors, caches and streams."""
    services = caller.services

    def forgotten() -> dict[str, int]:
        services.executions.flush()  # so that none is on its way to the database
        with services.db.begin(caller.scope, caller.actor.key_id) as tx:
            return forget_user(tx, services.executions, services.learning, user_id)

    removed = await asyncio.to_thread(forgotten)
    services.retrieve.forget(caller.scope)
    return answer({"success": True, "message": "everything kept about this user was removed", **removed})


@router.delete("/retrievers/interactions/{interaction_id}", operation_id="delete_interaction", response_model=None)
def delete(interaction_id: str, tx: Delete, caller: Deleter) -> Response:
    """Delete one; what was learned from it is taken back."""
    remove_interaction(tx, caller.services.learning, interaction_id)
    return deleted("interaction", interaction_id)
