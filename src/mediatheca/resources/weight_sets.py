"""Weight sets: fixed weights of a learning retriever, trained on a golden data set and shipped only through a gate."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from mediatheca.api.deps import Delete, Read, Write, answer, deleted
from mediatheca.flows.evaluation.weight_sets import (
    KIND,
    TASK,
    TrainingSpec,
    get_weight_set,
    remove_weight_set,
    ship,
    start_training,
    unship,
    weight_set_view,
)
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import record

router = APIRouter(tags=["learned fusion"])
_PATH = "/retrievers/{identifier}/learned-fusion/weight-sets"


@router.post(_PATH, operation_id="train_weight_set", response_model=None)
def train(identifier: str, tx: Write, spec: TrainingSpec | None = None) -> Response:
    """Train weights on a golden data set, as a job: poll the weight set, or its task."""
    retriever = tx.get("retriever", identifier)
    made = start_training(tx, retriever, spec or TrainingSpec())
    return answer({**weight_set_view(tx, made), "task_type": TASK}, 202)


@router.get(_PATH, operation_id="list_weight_sets", response_model=None)
def list_(
    identifier: str, tx: Read, page: Annotated[int, Query(ge=1, le=10_000)] = 1,
    page_size: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:  # fmt: skip
    """Newest first."""
    retriever = tx.get("retriever", identifier)
    found = tx.page("resources", {"kind": KIND, "parent": retriever.id}, ListQuery(page_size, (page - 1) * page_size))
    shown: list[dict[str, Any]] = [weight_set_view(tx, record(row)) for row in found.rows]
    return answer({"weight_sets": shown, "results": shown, "total": found.total, "page": page, "page_size": page_size})


@router.post(f"{_PATH}/unship", operation_id="unship_weight_set", response_model=None)
def take_back(identifier: str, tx: Write) -> Response:
    """Back to fusion by rank, wherever no learned weights are used."""
    retriever = tx.get("retriever", identifier)
    unship(tx, retriever.id)
    return answer({"retriever_id": retriever.id, "shipped_weight_set": None})


@router.get(f"{_PATH}/{{weight_set_id}}", operation_id="get_weight_set", response_model=None)
def get(identifier: str, weight_set_id: str, tx: Read) -> Response:
    """Status, weights, and the gate's verdict with both scores."""
    retriever = tx.get("retriever", identifier)
    return answer(weight_set_view(tx, get_weight_set(tx, retriever.id, weight_set_id)))


@router.post(f"{_PATH}/{{weight_set_id}}/ship", operation_id="ship_weight_set", response_model=None)
def put_live(identifier: str, weight_set_id: str, tx: Write) -> Response:
    """Use these weights wherever no learned ones are used; refused unless the gate's verdict holds now."""
    retriever = tx.get("retriever", identifier)
    found = get_weight_set(tx, retriever.id, weight_set_id)
    ship(tx, retriever, found)
    return answer(weight_set_view(tx, found))


@router.delete(f"{_PATH}/{{weight_set_id}}", operation_id="delete_weight_set", response_model=None)
def delete(identifier: str, weight_set_id: str, tx: Delete) -> Response:
    """Delete one that is not live."""
    retriever = tx.get("retriever", identifier)
    remove_weight_set(tx, get_weight_set(tx, retriever.id, weight_set_id))
    return deleted("weight set", weight_set_id)
