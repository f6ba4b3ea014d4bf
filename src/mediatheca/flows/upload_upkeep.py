"""Uploads that nobody confirmed, files that came for uploads which are over, and what killed processes left: all go, by
schedule.

A signed URL cannot be taken back: a file may arrive at it after its upload was cancelled or confirmed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby, islice
from typing import Any

import structlog
from sqlalchemy import select

from mediatheca.flows.plugins.deploy import UPLOAD as PLUGIN_UPLOAD
from mediatheca.flows.plugins.models import UPLOAD as MODEL_UPLOAD
from mediatheca.flows.removal import cuts, release_files
from mediatheca.flows.services import JobServices, Services
from mediatheca.flows.uploads import ARRIVING, CONFIRMED, OPEN, PLACES
from mediatheca.jobs.leftovers import sweep_leftovers
from mediatheca.kernel import clock
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.scope import Scope
from mediatheca.settings import Settings
from mediatheca.stores.db import tables
from mediatheca.stores.db.retention import prune_old
from mediatheca.stores.db.tx import ReadTx, Row, Tx

log = structlog.get_logger()

GRACE = timedelta(days=1)
"""How long after its URL has expired an upload can still be confirmed."""
KEPT = timedelta(days=30)
"""How long an upload that came to nothing can be looked up."""
_MOST = 500
"""Uploads, or files, that one transaction deals with."""


def upload_chores(services: Services) -> tuple[tuple[float, Callable[[], object]], ...]:
    """For the scheduler. Copies are many, and those that nobody has are few: they are looked through once a day."""
    return (
        (600.0, lambda: expire_uploads(services)),
        (3600.0, lambda: sweep_upload_files(services, (ARRIVING,))),
        (86_400.0, lambda: sweep_upload_files(services, (CONFIRMED,))),
        (86_400.0, services.blobs.sweep),
        (3600.0, lambda: sweep_machine(services.settings)),
    )


def sweep_machine(settings: Settings) -> None:
    """Remove what killed processes left on this machine."""
    home = settings.data_dir
    sweep_leftovers(home / "scratch", (home / "plugins", settings.models.absolute()))


def expire_uploads(services: Services) -> int:
    """Uploads that were not confirmed in time fail, and their files go; how many. Older ones are forgotten."""
    oldest, count = clock.now() - GRACE, 0
    while rows := _late(services, oldest):
        done = sum(_expire_all(services, scope, list(group)) for scope, group in _by_scope(rows))
        count += done
        if not done:  # all of them changed meanwhile
            break
    # Files of those that came to nothing have gone before.
    prune_old(services.db, "uploads", "completed_at", clock.now() - KEPT, {"status": ("FAILED", "CANCELED")})
    return count + _expire_archives(services, oldest)


def _late(services: Services, oldest: datetime) -> list[Row]:
    uploads = tables.uploads
    statement = select(uploads).where(uploads.c.status.in_(OPEN), uploads.c.expires_at < oldest)
    order = (uploads.c.organization_id, uploads.c.namespace_id)
    with services.db.translate(), services.db.engine.connect() as connection, connection.begin():
        return [dict(row) for row in connection.execute(statement.order_by(*order).limit(_MOST)).mappings()]


def _by_scope(rows: Sequence[Row]) -> Iterator[tuple[Scope, Iterator[Row]]]:
    return groupby(rows, lambda row: Scope(row["organization_id"], row["namespace_id"]))


def _expire_all(services: Services, scope: Scope, rows: Sequence[Row]) -> int:
    return services.db.run(scope, lambda tx: sum(_expire(tx, services, row) for row in rows))


def _expire(tx: Tx, services: Services, row: Row) -> bool:
    """Whether it was still open, with this file: a confirmation at the same moment wins."""
    made = tx.row("blobs", {"store_key": row["store_key"]})  # its confirmation was killed right before the end
    values: Row = {"status": "COMPLETED", "object_id": made["object_id"]} if made else {"status": "FAILED"}
    if made is None:
        hours = int(GRACE.total_seconds() / 3600)
        message = f"nobody confirmed the upload within {hours} hours after its URL had expired; create a new one"
        values["body"] = {**row["body"], "message": message}
    where = {name: row[name] for name in ("upload_id", "store_key", "status")}
    if not tx.update("uploads", where, {**values, "completed_at": clock.now()}):
        return False
    release_files(tx, services, [row])
    told = {"bucket_id": row["bucket_id"], "object_id": values.get("object_id")}
    tx.emit(f"upload.{str(values['status']).lower()}", row["upload_id"], told)
    return True


# ---- archives of plug-ins and models


def _expire_archives(services: Services, oldest: datetime) -> int:
    """Announced archives that were never confirmed, or were refused; what came for those that were goes, too."""
    resources, count, limit = tables.resources, 0, clock.wire_time(oldest)
    statement = select(resources).where(
        resources.c.kind.in_((PLUGIN_UPLOAD, MODEL_UPLOAD)), resources.c.created_at < oldest
    )
    with services.db.translate(), services.db.engine.connect() as connection, connection.begin():
        found = [dict(row) for row in connection.execute(statement).mappings()]
    for row in found:
        body: Mapping[str, Any] = row["body"]
        if str(body["expires_at"]) >= limit:
            continue
        services.blobs.delete(str(body["store_key"]))
        done = body["status"] == "COMPLETED"
        if not done or row["created_at"] < clock.now() - KEPT:
            _remove_record(services, row)
            count += not done
    return count


def _remove_record(services: Services, row: Row) -> None:
    where = {name: row[name] for name in ("kind", "id", "version")}
    scope = Scope(row["organization_id"], row["namespace_id"])
    services.db.run(scope, lambda tx: tx.delete("resources", where))


# ---- files of uploads that are over


def sweep_upload_files(services: JobServices, places: Sequence[str] = PLACES) -> int:
    """Remove files that came too late, and copies of confirmations that were killed, in every namespace; how many."""
    resources, removed = tables.resources, 0
    with services.db.translate(), services.db.engine.connect() as connection, connection.begin():
        columns = (resources.c.organization_id, resources.c.id)
        found = connection.execute(select(*columns).where(resources.c.kind == "namespace")).all()
    for organization_id, namespace_id in found:
        scope = Scope(organization_id, namespace_id)
        for place in places:
            try:
                removed += _sweep(services, scope, f"{organization_id}/{namespace_id}/{place}/")
            except MediathecaError as error:
                log.error("uploads.sweep_failed", namespace=namespace_id, error=error.message)
    return removed


def _sweep(services: JobServices, scope: Scope, prefix: str) -> int:
    keys, removed = (info.key for info in services.blobs.list(prefix)), 0
    while part := list(islice(keys, _MOST)):
        with services.db.read(scope) as tx:
            doomed = _unclaimed(tx, part, len(prefix))
        services.blobs.delete_many(doomed)
        removed += len(doomed)
    return removed


def _unclaimed(tx: ReadTx, keys: Sequence[str], start: int) -> list[str]:
    """Files that no upload and no object has. While an upload is PENDING, its copies may be under examination."""
    owners = {key: key[start:].partition("/")[0] for key in keys}
    columns = ("upload_id", "status", "store_key")
    rows: dict[str, Row] = {}
    for cut in cuts(sorted(set(owners.values()))):
        rows |= {row["upload_id"]: row for row in tx.rows("uploads", {"upload_id": cut}, columns=columns)}
    free = [key for key in keys if not _claims(rows.get(owners[key]), key)]
    used: set[str] = set()
    for cut in cuts(free):
        used |= set(tx.column("blobs", "store_key", {"store_key": list(cut)}))
    return [key for key in free if key not in used]


def _claims(row: Row | None, key: str) -> bool:
    if row is None or row["status"] in ("FAILED", "CANCELED"):
        return False
    return row["status"] in OPEN or row["store_key"] == key
