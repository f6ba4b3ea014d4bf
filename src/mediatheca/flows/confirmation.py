"""Confirming an upload: what arrived is copied to where no signed URL reaches, checked there, and made an object.

The copy comes before the check. A URL that was signed stays good until it expires, at an object store even after the
confirmation: whatever it writes later is not what was hashed, and nobody reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from mediatheca.flows.ingest.plan import create_batch, submit_batch
from mediatheca.flows.objects.content import contradiction, sniff
from mediatheca.flows.objects.create import create_objects
from mediatheca.flows.objects.keys import check_policy
from mediatheca.flows.objects.requests import Author, Options
from mediatheca.flows.uploads import CONFIRMED, OPEN, get_upload, plain_name
from mediatheca.kernel import clock
from mediatheca.kernel.errors import BadRequestError, ConflictError, NotFoundError, ValidationError
from mediatheca.kernel.ids import new_uuid
from mediatheca.stores.blobs.base import BlobInfo
from mediatheca.stores.db.tx import Row, Tx

_HASH_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Claim:
    """What a client says of a file after it sent it."""

    etag: str | None = None
    file_size_bytes: int | None = None
    submit: bool = False
    policy: str | None = None


def confirm(author: Author, row: Row, claim: Claim) -> Row:
    """Check what arrived, and make the object. Confirming again gives the same answer.

    Raises:
        BadRequestError: nothing arrived, or something else than was announced; the upload has FAILED then.
        ConflictError: it was cancelled, or has failed before.
    """
    if row["status"] == "PENDING":
        row = _secure(author, row, claim)
    if row["status"] == "COMPLETED":
        return row
    if row["status"] not in OPEN:
        raise ConflictError(f"upload '{row['upload_id']}' is {row['status']}; create a new one")
    # The object carries the upload's id as its idempotency key: a crash or a race in between makes no second one.
    object_id = _make_object(author, row, claim)
    done: Row = {"status": "COMPLETED", "object_id": object_id, "completed_at": clock.now(), "body": row["body"]}
    if not _advance(author, row, OPEN, done, "upload.completed"):
        return _current(author, row)
    return {**row, **done}


def _current(author: Author, row: Row) -> Row:
    with author.services.db.read(author.scope) as tx:
        return get_upload(tx, row["upload_id"])


def _advance(author: Author, row: Row, before: Sequence[str], values: Row, event: str = "", drop: str = "") -> bool:
    """Change the row if it is still in one of the states `before`; then, too, remove the file `drop`."""
    blobs = author.services.blobs

    def advance(tx: Tx) -> bool:
        changed = tx.update("uploads", {"upload_id": row["upload_id"], "status": list(before)}, values)
        if changed and event:
            tx.emit(event, row["upload_id"], {"bucket_id": row["bucket_id"], "object_id": values.get("object_id")})
        if changed and drop:
            tx.after(lambda: blobs.delete(drop))
        return bool(changed)

    return author.services.db.run(author.scope, advance, author.actor)


def _secure(author: Author, row: Row, claim: Claim) -> Row:
    """The row with a copy of what arrived, checked; or as another confirmation has left it meanwhile."""
    blobs, old = author.services.blobs, row["store_key"]
    scope, name = author.scope, plain_name(row["body"]["filename"])
    new = f"{scope.organization_id}/{scope.namespace_id}/{CONFIRMED}/{row['upload_id']}/{new_uuid()[-12:]}/{name}"
    sent = blobs.head(old)
    try:
        if sent is None:
            raise NotFoundError("blob", old)
        blobs.copy(old, new)
    except NotFoundError:
        current = _current(author, row)
        if current["status"] == "PENDING":
            _nothing_arrived(author, row)
        return current
    try:
        found = _examine(author, row, claim, sent, new)
        values: Row = {"status": "IN_PROGRESS", "store_key": new, "file_hash": found["file_hash"]}
        values["body"] = {**row["body"], **found}
        won = _advance(author, row, ("PENDING",), values, drop=old)
    except BaseException:
        blobs.delete(new)
        raise
    if won:
        return {**row, **values}
    blobs.delete(new)
    return _current(author, row)


def _nothing_arrived(author: Author, row: Row) -> NoReturn:
    if row["expires_at"] <= clock.now():
        _fail(author, row, "the upload URL expired before a file arrived; create a new upload")
    raise BadRequestError(f"no file has arrived for upload '{row['upload_id']}'; PUT it to the presigned_url first")


def _examine(author: Author, row: Row, claim: Claim, sent: BlobInfo, key: str) -> Row:
    """Size, hash and media type of the copy at `key`, checked against what was said of the file that was `sent`."""
    blobs = author.services.blobs
    hash, head, size = hashlib.sha256(), b"", 0
    with blobs.open(key) as file:
        while piece := file.read(_HASH_PIECE):
            head = head or piece[:8192]
            size += len(piece)
            hash.update(piece)
    for said in (claim.file_size_bytes, row["body"]["file_size_bytes"]):
        if said is not None and said != size:
            _fail(author, row, f"file_size_bytes: {said} bytes were announced, {size} arrived")
    if claim.etag is not None and claim.etag.strip('"') != sent.etag.strip('"'):
        _fail(author, row, f"etag: '{claim.etag[:100]}' was given, the stored file has '{sent.etag}'")
    largest = author.services.settings.max_upload_mb << 20
    if not 0 < size <= largest:
        _fail(author, row, f"the file has {size} bytes; an upload takes {largest}" if size else "the file is empty")
    if row["body"]["declared_hash"] not in (None, hash.hexdigest()):
        _fail(author, row, f"file_hash: {row['body']['declared_hash']} was announced, {hash.hexdigest()} arrived")
    detected = sniff(head) or row["body"]["content_type"].partition(";")[0].strip() or "application/octet-stream"
    found = {"file_size_bytes": size, "etag": sent.etag, "file_hash": hash.hexdigest(), "detected_type": detected}
    return {**found, "verified_at": clock.wire_time(clock.now())}


def _fail(author: Author, row: Row, reason: str) -> NoReturn:
    """Raises BadRequestError after recording the failure and removing the file."""
    values = {"status": "FAILED", "body": {**row["body"], "message": reason}, "completed_at": clock.now()}
    _advance(author, row, ("PENDING",), values, "upload.failed", drop=row["store_key"])
    raise BadRequestError(f"upload '{row['upload_id']}' failed: {reason}")


def _make_object(author: Author, row: Row, claim: Claim) -> str | None:
    body = row["body"]
    if not body["create_object_on_confirm"]:
        return None
    blob = {"property": body["blob_property"], "upload_id": row["upload_id"]}
    kind = body["blob_type"]
    if kind is not None and contradiction(kind, body["detected_type"]) is None:
        blob["type"] = kind
    raw = {"blobs": [blob], "metadata": body["object_metadata"], "idempotency_key": f"upload:{row['upload_id']}"}
    with author.services.db.read(author.scope) as tx:
        bucket = tx.get("bucket", row["bucket_id"])
    try:
        check_policy(bucket, claim.policy)
    except BadRequestError as error:
        raise ValidationError.at(("query", "policy"), error.message, "policy") from error
    options = Options(policy=claim.policy, uploads={row["upload_id"]: {**row, "status": "COMPLETED"}})
    outcome = create_objects(author, row["bucket_id"], [raw], options)[0]
    if outcome.error is not None or outcome.row is None:
        raise outcome.error or BadRequestError("the object could not be made")
    if claim.submit:
        with author.services.db.begin(author.scope, author.actor) as tx:
            batch = create_batch(tx, row["bucket_id"], [outcome.row["object_id"]])
            batch = submit_batch(tx, batch, author.services.settings.chunk_size)
        body |= {"batch_id": batch["batch_id"], "task_id": batch["task_id"]}
    return str(outcome.row["object_id"])
