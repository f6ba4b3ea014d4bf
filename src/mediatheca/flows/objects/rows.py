"""Drafts into rows: new objects, replays, and objects that are merged because their unique key exists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mediatheca.flows.ingest.plan import create_batch, submit_batch
from mediatheca.flows.objects.content import Content
from mediatheca.flows.objects.drafts import Draft
from mediatheca.flows.objects.keys import check_policy
from mediatheca.flows.objects.reads import blobs_of
from mediatheca.flows.objects.requests import Author, Options, Outcome
from mediatheca.flows.removal import cuts, release_files
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError, MediathecaError, NotFoundError
from mediatheca.kernel.ids import new_id
from mediatheca.stores.db.tx import Record, Row, Tx


class RowWriter:
    """Turns the drafts of one request into rows, given what is there already."""

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
            **state_of(draft.contents), "version": 1,
            "size_bytes": sum(content.size for content in draft.contents),
            "created_at": self._moment, "updated_at": self._moment,
        }  # fmt: skip
        outcome.row = row
        outcome.blobs = [blob_row(row, number, content) for number, content in enumerate(draft.contents)]
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
        new = [blob_row(row, number, content) for number, content in enumerate(draft.contents)]
        given = {blob["property"] for blob in new}
        kept = [blob for blob in blobs if blob["property"] not in given]
        gone = [blob for blob in blobs if blob["property"] in given]
        for number, blob in enumerate(new, start=1 + max((blob["position"] for blob in kept), default=-1)):
            blob["position"] = number
        blobs[:] = [*kept, *new]
        changed = {
            "fields": {**row["fields"], **draft.fields}, "metadata": {**row["metadata"], **draft.metadata},
            "key_prefix": draft.key_prefix or row["key_prefix"], **(state_of(draft.contents) if new else {}),
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


def state_of(contents: Sequence[Content]) -> Row:
    """The status of an object of these contents, with the reason where it has failed."""
    reasons = [f"{content.property}: {content.failure}" for content in contents if content.failure]
    status = "FAILED" if reasons else "PENDING"
    return {"status": status, "error": "; ".join(reasons) or None, "processing_error": None}


def blob_row(row: Row, position: int, content: Content) -> Row:
    """The row of a content as a blob of an object."""
    return {
        "blob_id": new_id("blob"), "object_id": row["object_id"], "bucket_id": row["bucket_id"], "position": position,
        "property": content.property, "type": content.type, "store_key": content.store_key, "inline": content.inline,
        "source_url": content.source_url, "filename": content.filename, "mime_type": content.mime_type[:255],
        "size_bytes": content.size, "hash": content.hash,
        "metadata": content.metadata | ({"key_prefix": content.key_prefix} if content.key_prefix else {}),
    }  # fmt: skip
