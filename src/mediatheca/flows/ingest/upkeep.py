"""Chores of the ingest: drafts that nobody submits, and files that no document names any more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import groupby
from typing import Any

import structlog
from sqlalchemy import select

from mediatheca.flows.ingest.graph import below
from mediatheca.flows.ingest.plan import cancel_batch, get_batch
from mediatheca.flows.ingest.tiers import UNFINISHED
from mediatheca.flows.services import JobServices
from mediatheca.flows.tables import tombstones
from mediatheca.kernel import clock
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db import tables
from mediatheca.stores.db.tx import Row, Tx
from mediatheca.stores.documents.base import Scan

log = structlog.get_logger()

DRAFT_AGE = timedelta(minutes=30)
"""How long a draft waits for its submission."""
_MOST = 2_000
"""Files that go in one transaction."""


def reap_drafts(services: JobServices) -> int:
    """Cancel drafts that were not touched for `DRAFT_AGE`; how many."""
    batches, oldest = tables.batches, clock.now() - DRAFT_AGE
    with services.db.translate(), services.db.engine.connect() as connection, connection.begin():
        where = (batches.c.status == "DRAFT", batches.c.updated_at < oldest)
        found = [dict(row) for row in connection.execute(select(batches).where(*where)).mappings()]

    def cancel(tx: Tx, batch_id: str) -> None:
        batch = get_batch(tx, batch_id)
        if batch["status"] == "DRAFT" and batch["updated_at"] < oldest:
            minutes = int(DRAFT_AGE.total_seconds() / 60)
            cancel_batch(tx, batch, f"it was not submitted within {minutes} minutes")

    for row in found:
        scope = Scope(row["organization_id"], row["namespace_id"])
        services.db.run(scope, lambda tx, ident=row["batch_id"]: cancel(tx, ident))  # type: ignore[misc]
    return len(found)


def sweep_artifacts(services: JobServices) -> int:
    """Remove the files that extractors made and that no live document names, in every namespace; how many. Files of
    collections that were deleted go too, unless what was made from them names them."""
    resources, removed = tables.resources, 0
    with services.db.translate(), services.db.engine.connect() as connection, connection.begin():
        columns = (resources.c.organization_id, resources.c.id)
        found = connection.execute(select(*columns).where(resources.c.kind == "namespace")).all()
    for organization_id, namespace_id in found:
        scope = Scope(organization_id, namespace_id)
        prefix = _folder(scope)
        keys = (info.key for info in services.blobs.list(prefix))
        for ident, group in groupby(keys, lambda key, start=len(prefix): key[start:].partition("/")[0]):  # type: ignore[misc]
            try:
                removed += _sweep(services, scope, ident, list(group))
            except MediathecaError as error:
                log.error("artifacts.sweep_failed", collection=ident, error=error.message)
    return removed


def _folder(scope: Scope) -> str:
    return f"{scope.organization_id}/{scope.namespace_id}/artifacts/"


def _sweep(services: JobServices, scope: Scope, collection_id: str, keys: Sequence[str]) -> int:
    """What is made from the collection may name its files, too. Where something is being processed it waits for the
    next time: files are stored before the documents that name them."""
    with services.db.read(scope) as tx:
        ids = [collection_id, *(r.id for r in below(tx.resources("collection"), [collection_id], disabled=True))]
        before = _committed(tx.rows("document_tables", {"collection_id": ids}))
    prefix = f"{_folder(scope)}{collection_id}/"
    used = {key for ident in ids for key in _named(services, scope, ident, prefix)} if keys else set()
    doomed = [key for key in keys if key not in used]
    for start in range(0, len(doomed), _MOST):
        if not _delete(services, scope, ids, before, doomed[start : start + _MOST]):
            return start
    return len(doomed)


def _delete(
    services: JobServices, scope: Scope, ids: Sequence[str], before: Mapping[str, int], keys: Sequence[str]
) -> bool:
    """Whether nothing was written to these collections meanwhile, and nothing is about to be."""
    where = {"collection_id": list(ids)}
    with services.db.begin(scope) as tx:  # chunks that begin now wait for the end of it
        held = tx.rows("document_tables", where, order=("collection_id",), hold="update")
        # A writer that is between its write and its record goes on, though its chunk was canceled.
        writing = any(row["lease_token"] is not None for row in held)
        if writing or _committed(held) != before or tx.count("chunks", {**where, "status": UNFINISHED}):
            return False
        services.blobs.delete_many(keys)
    return True


def _committed(rows: Sequence[Row]) -> dict[str, int]:
    return {row["collection_id"]: row["committed_seq"] for row in rows}


def _named(services: JobServices, scope: Scope, collection_id: str, prefix: str) -> Iterator[str]:
    """Keys below the prefix that documents of a collection name."""
    with services.db.read(scope) as tx:
        table = tx.row("document_tables", {"collection_id": collection_id})
        dead = tombstones(tx, collection_id)
    if table is None or not table["committed_seq"]:
        return
    for document in services.documents.scan(collection_id, Scan(), tombstones=dead):
        for name in ("document_blobs", "source_blobs"):
            for entry in document.system.get(name) or ():
                if str(entry.get("key", "")).startswith(prefix):
                    yield str(entry["key"])
        yield from _texts(document.payload, prefix)


def _texts(value: Any, prefix: str) -> Iterator[str]:
    """Fields hold the keys of files: artifacts under their own names, and those that were passed through."""
    if isinstance(value, str):
        if value.startswith(prefix):
            yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner, prefix)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, prefix)
