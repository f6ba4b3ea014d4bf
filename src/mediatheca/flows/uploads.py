"""Files sent by the client straight to the blob store: announced here, PUT by signed URL, then confirmed.

A signed URL cannot be taken back, so what it wrote is trusted only as a copy under another key (`confirmation.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any

from mediatheca.flows.objects.content import guess_mime, some_names
from mediatheca.flows.objects.keys import unique_hash
from mediatheca.flows.objects.limits import need_metadata
from mediatheca.flows.objects.requests import Author
from mediatheca.flows.removal import release_files
from mediatheca.kernel import clock
from mediatheca.kernel.errors import (
    ConflictError,
    NotFoundError,
    PayloadTooLargeError,
    TooManyRequestsError,
    ValidationError,
)
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.schema import MEDIA_TYPES, Property, parse_schema
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx

MAX_UPLOADS = 1000
MAX_OPEN = 10_000
"""Uploads of an organization that wait for their files or their confirmation."""
PLACES = (ARRIVING, CONFIRMED) = ("uploads", "files")
"""Folders of a namespace in the blob store: where signed URLs lead, and copies that they do not reach."""
_OPEN_RETRY_S = 3600.0
OPEN = ("PENDING", "IN_PROGRESS")
"""PENDING: the signed URL takes a file. IN_PROGRESS: what arrived is checked and safe, its object is not made yet."""
_TYPE_OF_MIME = (
    ("image/", "image"), ("video/", "video"), ("audio/", "audio"), ("application/pdf", "pdf"),
    ("application/vnd.ms-excel", "excel"), ("application/vnd.openxmlformats-officedocument.spreadsheet", "excel"),
    ("text/", "text"),
)  # fmt: skip
_FITTING = {
    "image": {"image", "gif"}, "video": {"video"}, "audio": {"audio"}, "pdf": {"pdf", "document"},
    "excel": {"excel", "spreadsheet"}, "text": {"text", "document"},
}  # fmt: skip
_ANYTHING = {"file", "binary"}
_VISIBLE = re.compile(r"[\x20-\x7e]{0,255}")


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a client says of a file before it sends it."""

    filename: str
    content_type: str
    file_size_bytes: int | None = None
    expiration_s: int = 3600
    metadata: Mapping[str, Any] | None = None
    create_object: bool = True
    object_metadata: Mapping[str, Any] | None = None
    blob_property: str | None = None
    blob_type: str | None = None
    file_hash: str | None = None
    skip_duplicates: bool = True


def need_room(tx: ReadTx, wanted: int = 1) -> None:
    """Raises TooManyRequestsError: the organization would have too many open uploads."""
    held = tx.count_in_organization("uploads", {"status": OPEN})
    if held + wanted > MAX_OPEN:
        message = (
            f"the organization has {held:,} uploads that were not confirmed, and {MAX_OPEN:,} may be open; confirm or "
            "delete some. They are given up a day after their URL has expired"
        )
        raise TooManyRequestsError(message, _OPEN_RETRY_S)


def announce(author: Author, tx: Tx, bucket: Record, wish: Announcement) -> Row:
    """Record an upload and where it goes. Whether there is room for it is asked before (`need_room`).

    Raises:
        ValidationError: a bad file name, or no property of the bucket takes such a file.
        PayloadTooLargeError: it is larger than this server takes.
    """
    check_filename(wish.filename)
    check_content_type(wish.content_type)
    need_metadata(wish.metadata, "body", "metadata")
    need_metadata(wish.object_metadata, "body", "object_metadata")
    largest = author.services.settings.max_upload_mb << 20
    if wish.file_size_bytes is not None and wish.file_size_bytes > largest:
        raise PayloadTooLargeError(
            f"file_size_bytes: {wish.file_size_bytes} is more than the {largest} bytes of an upload"
        )
    kind = wish.blob_type or type_of(wish.content_type, wish.filename)
    name = wish.blob_property or infer_property(parse_schema(bucket.body["bucket_schema"]), kind)
    if wish.create_object:
        _check_property(bucket, name, wish.blob_type)
    upload_id, moment = new_id("upl"), clock.now()
    scope = author.scope
    row: Row = {
        "upload_id": upload_id, "bucket_id": bucket.id, "status": "PENDING", "file_hash": wish.file_hash,
        "store_key": f"{scope.organization_id}/{scope.namespace_id}/{ARRIVING}/{upload_id}/{plain_name(wish.filename)}",
        "object_id": None, "created_at": moment, "expires_at": moment + timedelta(seconds=wish.expiration_s),
        "completed_at": None,
        "body": {
            "filename": wish.filename, "content_type": wish.content_type, "file_size_bytes": wish.file_size_bytes,
            "declared_hash": wish.file_hash, "presigned_url_expiration": wish.expiration_s,
            "metadata": dict(wish.metadata or {}), "create_object_on_confirm": wish.create_object,
            "object_metadata": dict(wish.object_metadata or {}), "blob_property": name, "blob_type": wish.blob_type,
            "skip_duplicates": wish.skip_duplicates,
        },
    }  # fmt: skip
    _skip(tx, bucket, wish, row)
    tx.insert("uploads", [row])
    tx.emit("upload.created", upload_id, {"bucket_id": bucket.id, "status": row["status"]})
    return row


def _check_property(bucket: Record, name: str | None, blob_type: str | None) -> None:
    schema = parse_schema(bucket.body["bucket_schema"])
    prop = schema.get(name or "")
    if prop is None:
        given = (
            f"'{name[:100]}' is not a property of the bucket" if name else "no property of the bucket fits; name one"
        )
        message = f"{given}; it has: {some_names(schema)}"
        raise ValidationError.at(("body", "blob_property"), message, "unknown_property")
    if blob_type is not None and not prop.takes_blob(blob_type):
        raise ValidationError.at(
            ("body", "blob_type"), f"{blob_type[:80]!r} does not fit '{name}' ({prop.type})", "blob_type"
        )


def _skip(tx: ReadTx, bucket: Record, wish: Announcement, row: Row) -> None:
    """Content that the bucket has already, or an object whose key is taken, needs no transfer."""
    body = row["body"]
    if wish.file_hash and wish.skip_duplicates:
        blob = tx.row("blobs", {"bucket_id": bucket.id, "hash": wish.file_hash})
        if blob is not None:
            before = tx.row("uploads", {"bucket_id": bucket.id, "object_id": blob["object_id"]})
            body |= {"is_duplicate": True, "existing_object_id": blob["object_id"]}
            body["duplicate_of_upload_id"] = before["upload_id"] if before else None
            body["message"] = "the bucket has this content already; nothing needs to be sent"
    unique = bucket.body.get("unique_key")
    fields = body["object_metadata"]
    if unique and unique.get("default_policy") == "insert" and all(name in fields for name in unique["fields"]):
        where = {"bucket_id": bucket.id, "unique_key": unique_hash(unique["fields"], fields)}
        taken = tx.row("objects", where)
        if taken is not None:
            body |= {"skipped_unique_key": True, "existing_object_id": taken["object_id"]}
            body["message"] = "an object with this unique key exists already; nothing needs to be sent"
    if body.get("existing_object_id"):
        row |= {"status": "COMPLETED", "object_id": body["existing_object_id"], "completed_at": row["created_at"]}
        row["store_key"] = ""


def check_filename(name: str) -> None:
    """Raises ValidationError for what is no plain file name."""
    problem = None
    if not 1 <= len(name) <= 255:
        problem = "must have 1 to 255 characters"
    elif name != name.strip() or any(ord(letter) < 32 for letter in name):
        problem = "must not have control characters or blanks at its ends"
    elif name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
        problem = "must be a plain file name, without a leading '/' and without '..'"
    if problem:
        raise ValidationError.at(("body", "filename"), f"{problem}, got {name[:80]!r}", "filename")


def check_content_type(text: str) -> None:
    """Raises ValidationError for what no header can carry: it comes back as one with downloads."""
    if not _VISIBLE.fullmatch(text):
        message = f"must be a media type like image/png, in ASCII without control characters, got {text[:80]!r}"
        raise ValidationError.at(("body", "content_type"), message, "content_type")


def plain_name(name: str) -> str:
    """A file name as the end of a blob key."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", PurePosixPath(name.replace("\\", "/")).name)[:100]
    return plain if plain.strip(".") else "file"


def type_of(content_type: str, filename: str) -> str:
    """The blob type of a media type; the file name decides when that says nothing."""
    mime = content_type.partition(";")[0].strip().lower()
    if mime in ("", "application/octet-stream"):
        mime = guess_mime(filename, "file")
    return next((kind for prefix, kind in _TYPE_OF_MIME if mime.startswith(prefix)), "file")


def infer_property(schema: Mapping[str, Property], kind: str) -> str | None:
    """The one property such a file can mean: of its type, else the only file property."""
    for fitting in (_FITTING.get(kind, set()), _ANYTHING):
        found = [name for name, prop in schema.items() if prop.type in fitting]
        if len(found) == 1:
            return found[0]
        if found:
            return None
    files = [name for name, prop in schema.items() if prop.type in MEDIA_TYPES | {"text"}]
    return files[0] if len(files) == 1 and kind == "file" else None


def get_upload(tx: ReadTx, upload_id: str, bucket_id: str | None = None) -> Row:
    """Raises NotFoundError: no such upload (in that bucket)."""
    row = tx.row("uploads", {"upload_id": upload_id} | ({} if bucket_id is None else {"bucket_id": bucket_id}))
    if row is None:
        raise NotFoundError("upload", upload_id)
    return row


def cancel(author: Author, tx: Tx, row: Row) -> None:
    """Give up an upload and remove what has arrived.

    Raises:
        ConflictError: it is an object already.
    """
    if row["status"] == "COMPLETED":
        raise ConflictError(f"upload '{row['upload_id']}' is {row['status']}; delete its object instead")
    # With its key: a confirmation that moves the file meanwhile wins.
    where = {"upload_id": row["upload_id"], "store_key": row["store_key"], "status": [*OPEN, "FAILED", "CANCELED"]}
    if not tx.update("uploads", where, {"status": "CANCELED", "completed_at": clock.now()}):
        raise ConflictError(f"upload '{row['upload_id']}' was just confirmed; delete its object instead")
    release_files(tx, author.services, [row])
    tx.emit("upload.canceled", row["upload_id"], {"bucket_id": row["bucket_id"]})
