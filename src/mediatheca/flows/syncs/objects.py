"""Files made objects: new ones, and new content for those that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mediatheca.flows.objects.create import create_objects
from mediatheca.flows.objects.drafts import Draft, read_draft
from mediatheca.flows.objects.files import ObjectFiles, PutAgain
from mediatheca.flows.objects.keys import free_key, unique_hash
from mediatheca.flows.objects.reads import blobs_of
from mediatheca.flows.objects.requests import Author, Options, Outcome
from mediatheca.flows.objects.rows import blob_row, state_of
from mediatheca.flows.removal import release_files
from mediatheca.flows.syncs.files import File
from mediatheca.flows.syncs.ledger import DUPLICATE, look_again
from mediatheca.flows.syncs.mapping import Found, Mapper, MappingError
from mediatheca.kernel import clock
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.schema import parse_schema
from mediatheca.stores.db.tx import Record, Row, Tx

How: TypeAlias = Literal["created", "updated", "verified", "duplicates"]
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Made:
    """What a file became. Exactly one of `object_id` and `error` is set."""

    how: How = "created"
    object_id: str = ""
    error: str = ""
    kind: str = ""
    processable: bool = True


class ObjectMaker:
    """Makes objects of files, in the bucket of a sync. A file is one object, however often it is brought."""

    def __init__(self, author: Author, bucket: Record, mapper: Mapper, sync: Record) -> None:
        self._author, self._bucket, self._mapper, self._sync = author, bucket, mapper, sync
        self._schema = parse_schema(bucket.body["bucket_schema"])

    def make(self, files: Sequence[File]) -> list[Made]:
        """What each file became."""
        found: dict[int, Made] = {}
        fresh: dict[int, tuple[File, dict[str, Any]]] = {}
        uploads = {f"sync:{number}": _as_upload(file) for number, file in enumerate(files) if file.store_key}
        for number, file in enumerate(files):
            try:
                found_file = Found(file.entry, file.mime_type, file.metadata, file.tags)
                raw = self._mapper.request(found_file, f"sync:{number}")
                made = self._again(file, raw, uploads)
            except (MappingError, MediathecaError) as error:
                found[number] = self._refused(file, error)
                continue
            if made is None:
                fresh[number] = (file, raw)
            else:
                found[number] = made
        if fresh:
            made_now = self._create(list(fresh.values()), uploads)
            found |= dict(zip(fresh, made_now, strict=True))
        return [found[number] for number in range(len(files))]

    def _again(self, file: File, raw: dict[str, Any], uploads: Mapping[str, Row]) -> Made | None:
        """A file that has an object already; None: it has none of its own."""
        known = file.step.known
        if known is None:
            return None
        if not file.store_key:
            return Made("verified", known["object_id"])
        if known["status"] == DUPLICATE:
            return None
        replaced = self._replace(known["object_id"], raw, uploads)
        return None if replaced is None else Made("updated", known["object_id"], processable=replaced)

    def _create(self, fresh: Sequence[tuple[File, dict[str, Any]]], uploads: Mapping[str, Row]) -> list[Made]:
        duplicates = bool(self._sync.body["skip_duplicates"])
        raws = [
            {**raw, "idempotency_key": f"sync:{file.step.item_id}", "skip_duplicates": duplicates}
            for file, raw in fresh
        ]
        policy = "upsert" if self._bucket.body.get("unique_key") else None
        options = Options(policy=policy, uploads=uploads)
        outcomes = create_objects(self._author, self._bucket.id, raws, options)
        return [
            self._outcome(file, raw, uploads, outcome)
            for (file, _), raw, outcome in zip(fresh, raws, outcomes, strict=True)
        ]

    def _outcome(self, file: File, raw: dict[str, Any], uploads: Mapping[str, Row], outcome: Outcome) -> Made:
        if outcome.error is not None or outcome.row is None:
            return self._refused(file, outcome.error or MappingError("no object could be made of it"))
        object_id, fine = str(outcome.row["object_id"]), outcome.row["error"] is None
        if outcome.replayed_by is None:
            return Made("created", object_id, processable=fine)
        if outcome.replayed_by != "idempotency_key":
            self._drop(file)
            return Made("duplicates", object_id)
        # Made by a run that died before it wrote that down.
        if any(blob["hash"] == file.hash for blob in outcome.blobs):
            if all(blob["store_key"] != file.store_key for blob in outcome.blobs):
                self._drop(file)
            return Made("created", object_id, processable=fine)
        try:
            return Made("updated", object_id, processable=bool(self._replace(object_id, raw, uploads)))
        except (MappingError, MediathecaError) as error:
            return self._refused(file, error)

    def _refused(self, file: File, error: Exception) -> Made:
        self._drop(file)
        if isinstance(error, MediathecaError):
            if error.status >= 500:
                raise error
            return Made(error=error.message, kind="schema_mismatch")
        return Made(error=str(error), kind="mapping_error")

    def _drop(self, file: File) -> None:
        """The content is not needed: nothing refers to it."""
        if file.store_key:
            self._author.services.blobs.delete(file.store_key)

    # ---- new content for an object

    def _replace(self, object_id: str, raw: dict[str, Any], uploads: Mapping[str, Row]) -> bool | None:
        """Give an object the blobs and fields of a file; fields of other origin stay. Whether it can be processed;
        None: it is gone."""
        draft = read_draft(raw, self._schema, uploads)
        files = ObjectFiles(self._author.services, self._author.scope)
        for _ in range(_ATTEMPTS):
            files.put(draft.contents)

            def write(tx: Tx) -> Row | None:
                files.hold(tx)
                return self._written(tx, object_id, draft)

            try:
                row = self._author.services.db.run(self._author.scope, write, self._author.actor)
            except PutAgain:
                continue
            files.drop_unused({content.store_key for content in draft.contents} if row is not None else set())
            return None if row is None else row["status"] != "FAILED"
        raise MappingError("other requests deleted the files that it shares, again and again")

    def _written(self, tx: Tx, object_id: str, draft: Draft) -> Row | None:
        where = {"bucket_id": self._bucket.id, "object_id": object_id}
        held = tx.rows("objects", where, hold="update")
        if not held:
            return None
        (row,) = held
        old = blobs_of(tx, [object_id]).get(object_id, [])
        given = {content.property for content in draft.contents}
        kept = [blob for blob in old if blob["property"] not in given]
        gone = [blob for blob in old if blob["property"] in given]
        first = 1 + max((blob["position"] for blob in kept), default=-1)
        new = [blob_row(row, first + number, content) for number, content in enumerate(draft.contents)]
        fields = {**row["fields"], **draft.fields}
        values: Row = {
            "fields": fields, "metadata": {**row["metadata"], **draft.metadata}, "key_prefix": draft.key_prefix,
            **state_of(draft.contents), "size_bytes": sum(blob["size_bytes"] for blob in [*kept, *new]),
            "version": row["version"] + 1, "content_hash": None if kept else draft.content_hash,
            "updated_at": clock.now(),
        }  # fmt: skip
        unique = self._bucket.body.get("unique_key")
        if unique:
            inline = {blob["property"]: blob["inline"] for blob in new if blob["inline"] is not None}
            values["unique_key"] = free_key(tx, self._bucket, row, unique_hash(unique["fields"], {**inline, **fields}))
        tx.update("objects", {"object_id": object_id}, values)
        tx.delete("blobs", {"blob_id": [blob["blob_id"] for blob in gone]})
        tx.insert("blobs", new)
        release_files(tx, self._author.services, gone)
        look_again(tx, [object_id])
        told = {"bucket_id": self._bucket.id, "version": values["version"]}
        tx.emit("object.updated", object_id, told)
        return {**row, **values}


def _as_upload(file: File) -> Row:
    """A file as an object request names one that was sent before. Nobody else refers to it: no upload keeps it."""
    name = file.entry.path.rsplit("/", 1)[-1]
    body = {"file_size_bytes": file.size, "detected_type": file.mime_type, "filename": name}
    return {
        "upload_id": None, "status": "COMPLETED", "store_key": file.store_key, "file_hash": file.hash, "body": body,
    }  # fmt: skip
