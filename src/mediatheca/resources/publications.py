"""Publishing retrievers: for their owners. What visitors see is in `public_retrievers`."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Response

from mediatheca.api.deps import Caller, Delete, Read, Reader, Write, Writer, answer
from mediatheca.flows.publishing import (
    PublicationPatch,
    PublicationSpec,
    change_publication,
    get_publication,
    publication_view,
    publish,
    unpublish,
)
from mediatheca.flows.publishing.publications import MAX_PUBLISHED, check_public_name
from mediatheca.stores.db.publications import find_publication

router = APIRouter(tags=["published retrievers"])
Spec = TypeVar("Spec", PublicationSpec, PublicationPatch)
_PATH = "/retrievers/{identifier}/publish"


def public_url(base: str, name: str) -> str:
    """Where visitors find a published retriever."""
    return f"{base}/v1/public/retrievers/{name}"


def _with_secret(spec: Spec, caller: Caller) -> Spec:
    """The password that a secret of the vault holds now; a changed secret needs the publication to be changed, too."""
    name = spec.password_secret_name
    if not name:
        return spec
    value = caller.services.vault.read(caller.organization, [name])[name]
    return spec.model_copy(update={"password": value, "password_secret_name": None})


def _shown(row: Any, caller: Caller, warnings: Any = ()) -> Response:
    view = publication_view(row, public_url(caller.base_url, row["public_name"]))
    return answer({**view, "warnings": list(warnings)})


@router.get("/retrievers/publish/stats", operation_id="publish_stats", response_model=None)
def stats(tx: Read) -> Response:
    """How many of this namespace's retrievers may still be published."""
    count = tx.count_in_organization("publications", {})
    left = max(0, MAX_PUBLISHED - count)
    body = {"current_count": count, "max_allowed": MAX_PUBLISHED, "remaining": left, "at_limit": left == 0}
    return answer(body)


@router.get("/retrievers/published", operation_id="list_published_retrievers", response_model=None)
def list_(
    tx: Read, caller: Reader,
    limit: Annotated[int, Query(ge=1, le=100)] = 20, offset: Annotated[int, Query(ge=0, le=10_000)] = 0,
) -> Response:  # fmt: skip
    """The published retrievers of this namespace, also those switched off."""
    rows = tx.rows("publications", {}, order=("public_name",))
    shown = [publication_view(row, public_url(caller.base_url, row["public_name"])) for row in rows]
    body = {"results": shown[offset : offset + limit], "total": len(rows), "total_count": len(rows)}
    return answer({**body, "limit": limit, "offset": offset})


@router.post(_PATH, operation_id="publish_retriever", response_model=None)
def create(identifier: str, spec: PublicationSpec, tx: Write, caller: Writer) -> Response:
    """Let everybody with the address run this retriever; only `exposed_fields` of the documents are shown."""
    spec = _with_secret(spec, caller)  # before the transaction begins: it has its own
    row, warnings = publish(tx, tx.get("retriever", identifier), spec)
    return _shown(row, caller, warnings)


@router.get(_PATH, operation_id="get_published_retriever", response_model=None)
def get(identifier: str, tx: Read, caller: Reader) -> Response:
    return _shown(get_publication(tx, tx.get("retriever", identifier).id), caller)


@router.patch(_PATH, operation_id="update_published_retriever", response_model=None)
def patch(identifier: str, spec: PublicationPatch, tx: Write, caller: Writer) -> Response:
    """Change the page, the limits, the password or the constraints, or switch it off and on."""
    spec = _with_secret(spec, caller)
    row = get_publication(tx, tx.get("retriever", identifier).id)
    return _shown(change_publication(tx, row, spec), caller)


@router.delete(_PATH, operation_id="unpublish_retriever", response_model=None)
def delete(identifier: str, tx: Delete) -> Response:
    row = get_publication(tx, tx.get("retriever", identifier).id)
    unpublish(tx, row)
    return answer({"success": True, "message": f"'{row['public_name']}' is not public any more"})


@router.get(f"{_PATH}/availability", operation_id="check_public_name", response_model=None)
def availability(identifier: str, name: str, tx: Read, caller: Reader) -> Response:
    """Whether a public name is free in this installation."""
    retriever = tx.get("retriever", identifier)
    check_public_name(name, ("query", "name"))
    held = find_publication(caller.services.db, name)
    return answer({"name": name, "available": held is None or held["retriever_id"] == retriever.id})


@router.post(f"{_PATH}/reconcile", operation_id="reconcile_publication", response_model=None)
def reconcile(identifier: str, tx: Write, dry_run: bool = False) -> Response:
    """Publication and retriever are one transaction here and cannot fall apart; tells the state there is."""
    retriever = tx.get("retriever", identifier)
    row = tx.row("publications", {"retriever_id": retriever.id})
    state = {"retriever_id": retriever.id, "is_published": row is not None, "dry_run": dry_run, "changes": []}
    return answer({**state, "public_name": row["public_name"] if row else None, "consistent": True})
