"""Objects and their blobs: create (one or a thousand), change, delete with everything derived, switch off.

Blobs are shared by content inside a namespace. A stored file has a key of its own, never seen by anybody before the
commit that refers to it; later objects with the same content refer to the same key. Whoever removes the last reference
removes the file, and whoever adds one holds an existing reference while committing: no file vanishes under an object.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from mediatheca.flows._content import Content, fetch_into
from mediatheca.flows._drafts import Draft, read_draft
from mediatheca.flows.ingest.plan import create_batch, submit_batch
from mediatheca.flows.removal import cuts, release_files
from mediatheca.flows.services import Services
from mediatheca.kernel import clock
from mediatheca.kernel.errors import (
    BadRequestError,
    ConflictError,
    FieldError,
    MediathecaError,
    NotFoundError,
    ValidationError,
)
from mediatheca.kernel.ids import new_id, new_uuid
from mediatheca.kernel.mapping import MISSING, read_path
from mediatheca.kernel.schema import Loc, check_value, invalid, is_reserved, parse_schema
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx

MAX_OBJECTS = 1000
POLICIES = ("insert", "update", "upsert")
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes, and where."""

    services: Services
    scope: Scope
    actor: str


@dataclass(slots=True)
class Outcome:
    """What became of one row of a request. Exactly one of `row` and `error` is set."""

    index: int
    row: Row | None = None
    blobs: list[Row] = field(default_factory=list)
    replayed_by: str | None = None
    error: MediathecaError | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """How to create: what to do with an existing unique key, whether to fetch references now, and to process at once.

    `uploads`: uploads that are being confirmed, by id.
    """

    policy: str | None = None
    fetch: bool = False
    auto_process: bool = False
    uploads: Mapping[str, Row] = field(default_factory=dict)


class _PutAgain(Exception):
    """Files we meant to share were deleted in the meantime."""


def create_objects(author: Author, bucket_ident: str, raws: Sequence[Any], options: Options) -> list[Outcome]:
    """Create objects, each with its own outcome, in one transaction.

    Raises:
        NotFoundError: no such bucket.
        ValidationError: too many objects, or a policy that does not exist.
    """
    if not 1 <= len(raws) <= MAX_OBJECTS:
        raise ValidationError.at(
            ("body", "objects"), f"must hold 1 to {MAX_OBJECTS} objects, got {len(raws)}", "length"
        )
    with author.services.db.read(author.scope) as tx:
        bucket = tx.get("bucket", bucket_ident)
        uploads = {**_uploads(tx, bucket.id, raws), **options.uploads}
    if bucket.body.get("locked"):
        raise ConflictError(f"bucket '{bucket.name}' is locked")
    outcomes = [Outcome(number) for number in range(len(raws))]
    schema = parse_schema(bucket.body["bucket_schema"])
    drafts: dict[int, Draft] = {}
    for outcome, raw in zip(outcomes, raws, strict=True):
        try:
            draft = read_draft(raw, schema, uploads)
            if options.fetch:
                _fetch(draft, author.services)
            _identify(draft, bucket)
            drafts[outcome.index] = draft
        except MediathecaError as error:
            outcome.error = error
    check_policy(bucket, options.policy)
    _store(author, bucket, drafts, outcomes, options)
    return outcomes


def _uploads(tx: ReadTx, bucket_id: str, raws: Iterable[Any]) -> dict[str, Row]:
    blobs = (blob for raw in raws if isinstance(raw, Mapping) for blob in raw.get("blobs") or [])
    wanted = {
        blob["upload_id"] for blob in blobs if isinstance(blob, Mapping) and isinstance(blob.get("upload_id"), str)
    }
    rows = tx.rows("uploads", {"bucket_id": bucket_id, "upload_id": wanted}) if wanted else []
    return {row["upload_id"]: row for row in rows}


def _fetch(draft: Draft, services: Services) -> None:
    errors: list[FieldError] = []
    for content in draft.contents:
        if content.source_url and content.canonicalize:
            try:
                fetch_into(content, services.fetcher, services.settings.fetch_max_mb << 20)
            except ValidationError as error:
                errors += error.errors
    if errors:
        raise invalid(errors)


# ---- identity


def check_policy(bucket: Record, policy: str | None) -> str:
    """The policy in force. Raises ValidationError for an unknown one."""
    if policy is not None and policy not in POLICIES:
        raise ValidationError.at(("query", "policy"), f"must be one of {', '.join(POLICIES)}, got {policy!r}", "enum")
    unique = bucket.body.get("unique_key")
    chosen = policy or (unique or {}).get("default_policy")
    if unique and chosen is None:
        raise BadRequestError(
            f"bucket '{bucket.name}' has a unique key but no default_policy; send ?policy=insert, update or upsert"
        )
    return chosen or "insert"


def _identify(draft: Draft, bucket: Record) -> None:
    unique = bucket.body.get("unique_key")
    if unique:
        inline = {content.property: content.inline for content in draft.contents if content.inline is not None}
        draft.unique_key = unique_hash(unique["fields"], {**inline, **draft.fields})


def unique_hash(fields: Sequence[str], values: Mapping[str, Any]) -> str:
    """The compound key: ordered values with their types.

    Raises:
        ValidationError: naming every key field without a scalar value.
    """
    parts, errors = [], []
    for name in fields:
        value = read_path(values, name)
        if value is MISSING or not isinstance(value, str | int | float | bool):
            errors.append(
                FieldError(("body", name), "is part of the unique key and needs a scalar value", "unique_key")
            )
            continue
        kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
        parts.append([kind, float(value) if kind == "number" else value])
    if errors:
        raise invalid(errors)
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()


# ---- storing


def _store(author: Author, bucket: Record, drafts: dict[int, Draft], outcomes: list[Outcome], options: Options) -> None:
    """Put the files, then everything else in one transaction; again when somebody else was faster."""
    files = _Files(author)
    contents = [content for draft in drafts.values() for content in draft.contents]
    for attempt in range(_ATTEMPTS):
        files.put(contents)
        writer = _Writer(author, bucket, outcomes, options)
        try:
            with author.services.db.begin(author.scope, author.actor) as tx:
                writer.look_up(tx, drafts.values())
                files.hold(tx)
                writer.write(tx, drafts)
            break
        except _PutAgain:
            continue
        except ConflictError:  # a key was taken between our look and our write: look again
            if attempt == _ATTEMPTS - 1:
                raise
    files.drop_unused({blob["store_key"] for outcome in outcomes for blob in outcome.blobs})


class _Files:
    """The stored files of one request: which are shared, which are new."""

    def __init__(self, author: Author) -> None:
        self._blobs, self._db, self._scope = author.services.blobs, author.services.db, author.scope
        self._new: dict[str, str] = {}
        self._shared: dict[str, str] = {}

    def put(self, contents: Sequence[Content]) -> None:
        """Give every content with bytes a key, storing what is not there yet."""
        wanted = {content.hash: content for content in contents if content.data is not None and content.hash}
        missing = [hash for hash in wanted if hash not in self._new]
        self._shared = self._known(missing)
        fresh = [wanted[hash] for hash in missing if hash not in self._shared]
        for content in fresh:
            self._new[str(content.hash)] = file_key(self._scope, str(content.hash))
        self._blobs.put_many(
            (self._new[str(content.hash)], content.data or b"", content.mime_type) for content in fresh
        )
        for content in contents:
            if content.data is not None and content.hash:
                content.store_key = self._new.get(content.hash) or self._shared[content.hash]

    def _known(self, hashes: Sequence[str]) -> dict[str, str]:
        if not hashes:
            return {}
        with self._db.read(self._scope) as tx:
            rows = tx.rows("blobs", {"hash": hashes}, columns=("hash", "store_key"))
        return {row["hash"]: row["store_key"] for row in rows if row["store_key"]}

    def hold(self, tx: Tx) -> None:
        """Keep the references we share alive until our own are committed. Raises _PutAgain when one is gone."""
        keys = set(self._shared.values())
        held = (
            tx.rows("blobs", {"store_key": keys}, columns=("store_key",), order=("blob_id",), hold="share")
            if keys
            else []
        )
        if keys - {row["store_key"] for row in held}:
            raise _PutAgain

    def drop_unused(self, used: set[str | None]) -> None:
        for key in set(self._new.values()) - used:
            self._blobs.delete(key)


def file_key(scope: Scope, hash: str) -> str:
    """A fresh key for content: no two puts ever share one, references do."""
    return f"{scope.organization_id}/{scope.namespace_id}/blobs/{hash[:2]}/{hash}-{new_uuid()[-12:]}"


class _Writer:
    """Turns drafts into rows, given what is there already."""

    def __init__(self, author: Author, bucket: Record, outcomes: list[Outcome], options: Options) -> None:
        self._author, self._bucket, self._outcomes, self._options = author, bucket, outcomes, options
        self._policy = check_policy(bucket, options.policy)
        self._moment = clock.now()
        self._objects: list[Row] = []
        self._blobs: list[Row] = []
        self._gone: list[Row] = []
        self._by: dict[str, dict[str, Outcome]] = {"idempotency_key": {}, "unique_key": {}, "content_hash": {}}

    def write(self, tx: Tx, drafts: Mapping[int, Draft]) -> None:
        """Fill in the outcome of every draft, after `look_up`."""
        for index, draft in drafts.items():
            outcome = self._outcomes[index]
            outcome.row, outcome.blobs, outcome.replayed_by, outcome.error = None, [], None, None
            try:
                self._place(tx, draft, outcome)
            except MediathecaError as error:
                outcome.error = error
        tx.insert("objects", self._objects)
        tx.insert("blobs", self._blobs)
        release_files(tx, self._author.services, self._gone)  # now that new references to the same files are there
        payload = {"bucket_id": self._bucket.id}
        tx.emit_many("object.created", [(row["object_id"], payload) for row in self._objects])
        if self._options.auto_process:
            self._process(tx)

    def look_up(self, tx: Tx, drafts: Iterable[Draft]) -> None:
        """Find the objects that drafts may mean, and keep others from changing them."""
        for column, found in self._by.items():
            keys = {key for draft in drafts if (key := getattr(draft, column)) is not None}
            if column == "content_hash":
                keys = {draft.content_hash for draft in drafts if draft.skip_duplicates and draft.content_hash}
            for cut in cuts(sorted(keys)):
                where = {"bucket_id": self._bucket.id, column: cut}
                for row in tx.rows("objects", where, order=("object_id",), hold="update"):
                    found[row[column]] = Outcome(-1, row)
        ids = [o.row["object_id"] for found in self._by.values() for o in found.values() if o.row]
        blobs = blobs_of(tx, ids)
        for found in self._by.values():
            for outcome in found.values():
                outcome.blobs = blobs.get(outcome.row["object_id"], []) if outcome.row else []

    def _place(self, tx: Tx, draft: Draft, outcome: Outcome) -> None:
        for column, wanted in (("idempotency_key", True), ("content_hash", draft.skip_duplicates)):
            key = getattr(draft, column)
            before = self._by[column].get(key) if wanted and key else None
            if before is not None and before.row is not None:
                outcome.row, outcome.blobs = before.row, before.blobs
                outcome.replayed_by = column if column == "idempotency_key" else "skip_duplicates"
                return
        before = self._by["unique_key"].get(draft.unique_key or "")
        if before is not None and before.row is not None:
            self._merge(tx, draft, before.row, before.blobs)
            outcome.row, outcome.blobs = before.row, before.blobs
        elif self._policy == "update":
            raise NotFoundError("object with this unique key", draft.unique_key or "")
        else:
            self._add(draft, outcome)

    def _add(self, draft: Draft, outcome: Outcome) -> None:
        row = {
            "object_id": new_id("obj"), "bucket_id": self._bucket.id, "key_prefix": draft.key_prefix,
            "fields": draft.fields, "metadata": draft.metadata, "unique_key": draft.unique_key,
            "idempotency_key": draft.idempotency_key, "content_hash": draft.content_hash,
            **_state(draft.contents), "document_count": 0, "version": 1,
            "size_bytes": sum(content.size for content in draft.contents),
            "created_at": self._moment, "updated_at": self._moment,
        }  # fmt: skip
        outcome.row = row
        outcome.blobs = [_blob_row(row, number, content) for number, content in enumerate(draft.contents)]
        self._objects.append(row)
        self._blobs += outcome.blobs
        for column, found in self._by.items():
            if getattr(draft, column) is not None:
                found[getattr(draft, column)] = outcome

    def _merge(self, tx: Tx, draft: Draft, row: Row, blobs: list[Row]) -> None:
        """Upsert: fields are merged; blobs of the properties given are replaced, the others stay."""
        if self._policy == "insert":
            raise ConflictError(
                f"an object with this unique key exists already: {row['object_id']}",
                details={"existing_id": row["object_id"], "existing_object_id": row["object_id"]},
            )
        pending = any(row is other for other in self._objects)
        new = [_blob_row(row, number, content) for number, content in enumerate(draft.contents)]
        given = {blob["property"] for blob in new}
        kept = [blob for blob in blobs if blob["property"] not in given]
        gone = [blob for blob in blobs if blob["property"] in given]
        for number, blob in enumerate(new, start=1 + max((blob["position"] for blob in kept), default=-1)):
            blob["position"] = number
        blobs[:] = [*kept, *new]
        changed = {
            "fields": {**row["fields"], **draft.fields}, "metadata": {**row["metadata"], **draft.metadata},
            "key_prefix": draft.key_prefix or row["key_prefix"], **(_state(draft.contents) if new else {}),
            "size_bytes": sum(blob["size_bytes"] for blob in blobs), "version": row["version"] + 1,
            "content_hash": draft.content_hash if not kept else None, "updated_at": self._moment,
        }  # fmt: skip
        row.update(changed)
        if pending:  # made by an earlier row of this request
            self._blobs = [blob for blob in self._blobs if not any(blob is other for other in gone)] + new
            return
        tx.update("objects", {"object_id": row["object_id"]}, changed)
        tx.delete("blobs", {"blob_id": [blob["blob_id"] for blob in gone]})
        self._gone += gone
        self._blobs += new
        tx.emit("object.updated", row["object_id"], {"bucket_id": self._bucket.id, "version": row["version"]})

    def _process(self, tx: Tx) -> None:
        ids = [o.row["object_id"] for o in self._outcomes if o.row is not None and o.replayed_by is None]
        if ids:
            batch = create_batch(tx, self._bucket.id, ids)
            submit_batch(tx, batch, self._author.services.settings.chunk_size)


def _state(contents: Sequence[Content]) -> Row:
    reasons = [f"{content.property}: {content.failure}" for content in contents if content.failure]
    return {"status": "FAILED" if reasons else "PENDING", "error": "; ".join(reasons) or None}


def _blob_row(row: Row, position: int, content: Content) -> Row:
    return {
        "blob_id": new_id("blob"), "object_id": row["object_id"], "bucket_id": row["bucket_id"], "position": position,
        "property": content.property, "type": content.type, "store_key": content.store_key, "inline": content.inline,
        "source_url": content.source_url, "filename": content.filename, "mime_type": content.mime_type[:255],
        "size_bytes": content.size, "hash": content.hash,
        "metadata": content.metadata | ({"key_prefix": content.key_prefix} if content.key_prefix else {}),
    }  # fmt: skip


# ---- reading


def get_object(tx: ReadTx, bucket_id: str, object_id: str) -> Row:
    """Raises NotFoundError: no such object in that bucket."""
    row = tx.row("objects", {"bucket_id": bucket_id, "object_id": object_id})
    if row is None:
        raise NotFoundError("object", object_id)
    return row


def blobs_of(tx: ReadTx, object_ids: Sequence[str]) -> dict[str, list[Row]]:
    """Blobs by object id, in their order."""
    found: dict[str, list[Row]] = {}
    for cut in cuts(object_ids):
        for row in tx.rows("blobs", {"object_id": cut}, order=("object_id", "position")):
            found.setdefault(row["object_id"], []).append(row)
    return found


# ---- changing


def change_object(tx: Tx, bucket: Record, row: Row, patch: Mapping[str, Any], *, replace_metadata: bool = False) -> Row:
    """Merge fields, `metadata` and `key_prefix` into an object; a null removes a field.

    Raises:
        ValidationError: naming every offending field.
        ConflictError: the unique key belongs to another object, or the object was changed meanwhile.
    """
    given = dict(patch)
    errors: list[FieldError] = []
    prefix, metadata = given.pop("key_prefix", None), given.pop("metadata", None)
    if prefix is not None and not isinstance(prefix, str):
        errors.append(FieldError(("body", "key_prefix"), "must be a string", "string_type"))
    if metadata is not None and not isinstance(metadata, Mapping):
        errors.append(FieldError(("body", "metadata"), "must be an object", "dict_type"))
        metadata = None
    fields, kept = dict(row["fields"]), dict(row["metadata"])
    if metadata is not None and replace_metadata:
        for name in kept:
            fields.pop(name, None)
        kept = {}
    _merge_fields(fields, kept, given, metadata or {}, errors)
    _check_change(bucket, {**(metadata or {}), **given}, fields, errors)
    if errors:
        raise invalid(errors)
    values: Row = {"fields": fields, "metadata": kept, "version": row["version"] + 1, "updated_at": clock.now()}
    if prefix is not None:
        values["key_prefix"] = prefix
    unique = bucket.body.get("unique_key")
    if unique and any(name.split(".")[0] in {**given, **(metadata or {})} for name in unique["fields"]):
        values["unique_key"] = _free_key(tx, bucket, row, unique_hash(unique["fields"], fields))
    if not tx.update("objects", {"object_id": row["object_id"], "version": row["version"]}, values):
        raise ConflictError(f"object '{row['object_id']}' was changed by another request; read it again")
    tx.emit("object.updated", row["object_id"], {"bucket_id": bucket.id, "version": values["version"]})
    return {**row, **values}


def _merge_fields(
    fields: Row, kept: Row, given: Mapping[str, Any], metadata: Mapping[str, Any], errors: list[FieldError]
) -> None:
    for source, where in ((metadata, ("body", "metadata")), (given, ("body",))):
        for name, value in source.items():
            if is_reserved(name):
                errors.append(FieldError((*where, name), "is a name of the system and cannot be written", "reserved"))
                continue
            targets = [fields, kept] if source is metadata or name in kept else [fields]
            for target in targets:
                if value is None:
                    target.pop(name, None)
                else:
                    target[name] = value


def _check_change(bucket: Record, given: Mapping[str, Any], fields: Row, errors: list[FieldError]) -> None:
    schema = parse_schema(bucket.body["bucket_schema"])
    for name, value in given.items():
        prop = schema.get(name)
        where: Loc = ("body", name)
        if prop is None:
            continue
        if value is not None:
            check_value(prop, value, where, errors)
        elif prop.required and name not in fields and not prop.media:
            errors.append(FieldError(where, "is required and cannot be removed", "missing"))


def _free_key(tx: Tx, bucket: Record, row: Row, key: str) -> str:
    taken = tx.row("objects", {"bucket_id": bucket.id, "unique_key": key})
    if taken is not None and taken["object_id"] != row["object_id"]:
        details = {"existing_id": taken["object_id"]}
        raise ConflictError(f"an object with this unique key exists already: {taken['object_id']}", details=details)
    return key
