"""Migrations of a collection to another model: build beside, compare, switch, roll back, finish."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field

from mediatheca.api.deps import Read, Write, Writer, answer
from mediatheca.flows.migration.plan import MigrateSpec, plan, start
from mediatheca.flows.migration.state import KIND, ask, get_migration, migration_view
from mediatheca.flows.plugins.scoped import scoped
from mediatheca.kernel.errors import NotFoundError
from mediatheca.resources.base import Spec, notes_on
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import record

router = APIRouter(tags=["migrations"])
_PATH = "/collections/{identifier}/migrations"
_ONE = f"{_PATH}/{{migration_id}}"


class StepSpec(Spec):
    """Options of a step."""

    allow_incomplete: bool = Field(
        False, description="Switch although documents lack the new vector: they are not found until they have one."
    )


@router.post("/collections/{identifier}/migrate", operation_id="migrate_collection", response_model=None)
@router.post(_PATH, operation_id="create_collection_migration", response_model=None)
def create(identifier: str, spec: MigrateSpec, tx: Write, caller: Writer) -> Response:
    """Build the vectors of another model beside those that answer, and compare them; nothing is switched yet."""
    collection = tx.get("collection", identifier)
    return answer(migration_view(start(tx, caller.services, collection, spec)), 202)


@router.post(f"{_PATH}/validate", operation_id="validate_collection_migration", response_model=None)
def validate(identifier: str, spec: MigrateSpec, tx: Read, caller: Writer) -> Response:
    """What a migration would change, or the error that says why it cannot be done in place."""
    collection = tx.get("collection", identifier)
    parameters, pairs = plan(scoped(caller.services, caller.scope), collection, spec.parameters)
    changes: list[dict[str, Any]] = [
        {"from": pair["old"]["feature_uri"], "to": pair["new"]["feature_uri"], "from_stored_text": bool(pair["text"])}
        for pair in pairs
    ]
    return answer({"valid": True, "parameters": parameters, "changes": changes})


@router.get(_PATH, operation_id="list_collection_migrations", response_model=None)
def list_(
    identifier: str, tx: Read, limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, le=10_000)] = 0,
) -> Response:  # fmt: skip
    """Newest first."""
    collection = tx.get("collection", identifier)
    page = tx.page("resources", {"kind": KIND, "parent": collection.id}, ListQuery(limit, offset))
    return answer({"results": [migration_view(record(row)) for row in page.rows], "total": page.total})


@router.get(_ONE, operation_id="get_collection_migration", response_model=None)
def get(identifier: str, migration_id: str, tx: Read) -> Response:
    """State, progress, the report of the comparison, and which steps may follow."""
    return answer(migration_view(get_migration(tx, tx.get("collection", identifier).id, migration_id)))


@router.post(f"{_ONE}/{{verb}}", operation_id="step_collection_migration", response_model=None)
def step(
    identifier: str, migration_id: str, verb: str, tx: Write, caller: Writer, spec: StepSpec | None = None
) -> Response:
    """`switch` to the new model, `rollback` to the old one, `finish` (drop the old vectors), `cancel` (drop the new
    ones) or `build` again; a task tells when it is done."""
    if verb not in _VERBS:
        raise NotFoundError("step of a migration", verb)
    spec = spec or StepSpec()
    notes = notes_on(caller, spec)
    found = get_migration(tx, tx.get("collection", identifier).id, migration_id)
    return answer(migration_view(ask(tx, found, verb, {"allow_incomplete": spec.allow_incomplete})) | notes, 202)


_VERBS = ("switch", "rollback", "finish", "cancel", "build")
