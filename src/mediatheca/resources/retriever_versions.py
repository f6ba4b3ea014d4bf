"""What a retriever was before it was changed: every version is kept, and can be executed."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from itertools import zip_longest
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from mediatheca.api.deps import Caller, Read, Reader, answer
from mediatheca.api.lists import Listed, listed
from mediatheca.kernel.errors import NotFoundError
from mediatheca.resources.base import Context
from mediatheca.resources.retrievers import present
from mediatheca.stores.db.listing import Page
from mediatheca.stores.db.tx import ReadTx, Record, Row

router = APIRouter(tags=["retrievers"])
_PATH = "/retrievers/{identifier}/versions"


@router.get(_PATH, operation_id="list_retriever_versions", response_model=None)
def list_(identifier: str, query: Listed, tx: Read, caller: Reader) -> Response:
    """The versions of a retriever, newest first, the current one among them."""
    record = tx.get("retriever", identifier)
    old = tx.rows("retriever_versions", {"retriever_id": record.id}, order=("-version",))
    began = [row["created_at"] for row in old[1:]]  # a version is written down when the next one begins
    records = [record, *(_old(record, row, since) for row, since in zip_longest(old, began))]
    shown = records[query.offset : query.offset + query.limit]
    page = Page([], len(records), query.offset, query.limit, None)
    results = [_view(tx, made, record, caller) for made in shown]
    return answer(listed(page, results, retriever_id=record.id, current_version=record.version))


@router.get(f"{_PATH}/{{version}}", operation_id="get_retriever_version", response_model=None)
def get(identifier: str, version: Annotated[int, Path(ge=1, le=2**31 - 1)], tx: Read, caller: Reader) -> Response:
    """A retriever as it was in one version."""
    record = tx.get("retriever", identifier)
    if version == record.version:
        return answer(_view(tx, record, record, caller))
    two = tx.rows(
        "retriever_versions", {"retriever_id": record.id, "version": [version, version - 1]}, order=("-version",)
    )
    if not two or two[0]["version"] != version:
        raise NotFoundError("retriever version", f"{record.id}@{version}")
    since = two[1]["created_at"] if len(two) > 1 else None
    return answer(_view(tx, _old(record, two[0], since), record, caller))


def _old(record: Record, row: Row, since: datetime | None) -> Record:
    """A version that was replaced. Names are not versioned: it has the one of now."""
    return replace(record, body=row["body"], version=row["version"], updated_at=since or record.created_at)


def _view(tx: ReadTx, made: Record, record: Record, caller: Caller) -> dict[str, Any]:
    view = present(tx, [made], Context(caller.services, caller.absolute))[0]
    return {**view, "is_current": made.version == record.version, "current_version": record.version}
