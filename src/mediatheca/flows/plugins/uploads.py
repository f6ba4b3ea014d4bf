"""What uploaded plug-ins and models have in common: the record of an upload, and an archive unpacked once a machine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from mediatheca.flows.plugins.archive import Limits, file_hash, unpack
from mediatheca.kernel import clock
from mediatheca.kernel.errors import (
    BadRequestError,
    MediathecaError,
    PayloadTooLargeError,
    TooManyRequestsError,
)
from mediatheca.kernel.ids import new_id, new_uuid
from mediatheca.stores.blobs.base import BlobStore
from mediatheca.stores.db.tx import Record, Tx

MAX_OPEN = 50
"""Announced archives of a kind that wait for their confirmation."""
_RETRY_S = 3600.0


def put_upload(tx: Tx, kind: str, family: str, wish: Mapping[str, Any], expires_s: int) -> Record:
    """Record an upload that was announced and where it goes; `family` names the folder of its kind.

    Raises:
        TooManyRequestsError: too many wait already.
    """
    if sum(upload.body["status"] == "PENDING" for upload in tx.resources(kind)) >= MAX_OPEN:
        message = f"{MAX_OPEN} uploads of {family} are not confirmed; they are given up a day after their URL expires"
        raise TooManyRequestsError(message, _RETRY_S)
    ident, scope = new_id("upl"), tx.scope
    key = f"{scope.organization_id}/{scope.namespace_id or '-'}/{family}/uploads/{ident}"
    body = {**wish, "store_key": key, "status": "PENDING"}
    body["expires_at"] = clock.wire_time(clock.now() + timedelta(seconds=expires_s))
    return tx.put(kind, "upl", ident, body, ident=ident)


@dataclass(frozen=True, slots=True)
class Arrived:
    """What whoever confirms an upload says of the file that was sent."""

    size: int | None = None
    etag: str | None = None


def arrived(blobs: BlobStore, upload: Record, said: Arrived, largest: int) -> None:
    """
    Raises:
        BadRequestError: nothing arrived, or something else than was announced.
        PayloadTooLargeError: more arrived than may.
    """
    found = blobs.head(upload.body["store_key"])
    if found is None:
        raise BadRequestError(f"no file has arrived for upload '{upload.id}'; PUT it to the presigned_url first")
    if found.size > largest:
        raise PayloadTooLargeError(f"{found.size} bytes arrived; an archive has at most {largest}")
    for size in (said.size, upload.body["size"]):
        if size is not None and size != found.size:
            raise BadRequestError(f"file_size_bytes: {size} bytes were announced, {found.size} arrived")
    if said.etag is not None and said.etag.strip('"') != found.etag.strip('"'):
        raise BadRequestError(f"etag: '{said.etag[:100]}' was given, the stored file has '{found.etag}'")


def place(
    blobs: BlobStore, record: Record, target: Path, root: Path, changed: MediathecaError, limits: Limits = Limits()
) -> Path:
    """The folder of a confirmed archive on this machine, unpacked when it is not there yet; whole, or not there.

    Args:
        root: where it is unpacked before it is moved to `target`; on the same file system.
        changed: raised when the file is not the one that was confirmed.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    work = root / f".{new_uuid()}"
    packed = work.with_suffix(".archive")
    try:
        with blobs.open(record.body["archive_key"]) as source, open(packed, "wb") as file:
            shutil.copyfileobj(source, file)
        if file_hash(packed) != record.body["sha256"]:
            raise changed
        unpack(packed, work, limits)
        try:
            work.rename(target)
        except OSError:  # another process was faster
            if not target.is_dir():
                raise
    finally:
        packed.unlink(missing_ok=True)
        shutil.rmtree(work, ignore_errors=True)
    return target
