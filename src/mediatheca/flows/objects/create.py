"""Creating objects: read and check each, store the files, then write everything in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mediatheca.flows.objects.content import fetch_into
from mediatheca.flows.objects.drafts import Draft, read_draft
from mediatheca.flows.objects.files import ObjectFiles, PutAgain
from mediatheca.flows.objects.keys import check_policy, unique_hash
from mediatheca.flows.objects.requests import Author, Options, Outcome
from mediatheca.flows.objects.rows import RowWriter
from mediatheca.flows.services import Services
from mediatheca.kernel.errors import ConflictError, FieldError, MediathecaError, ValidationError
from mediatheca.kernel.schema import invalid, parse_schema
from mediatheca.stores.db.engine import ContentionError
from mediatheca.stores.db.tx import ReadTx, Record, Row

MAX_OBJECTS = 1000
_ATTEMPTS = 5


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
    check_policy(bucket, options.policy)
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
    _store(author, bucket, drafts, outcomes, options)
    return outcomes


def _uploads(tx: ReadTx, bucket_id: str, raws: Iterable[Any]) -> dict[str, Row]:
    given = [raw.get("blobs") for raw in raws if isinstance(raw, Mapping)]
    blobs = (blob for listed in given if isinstance(listed, list) for blob in listed)
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


def _identify(draft: Draft, bucket: Record) -> None:
    unique = bucket.body.get("unique_key")
    if unique:
        inline = {content.property: content.inline for content in draft.contents if content.inline is not None}
        draft.unique_key = unique_hash(unique["fields"], {**inline, **draft.fields})


def _store(author: Author, bucket: Record, drafts: dict[int, Draft], outcomes: list[Outcome], options: Options) -> None:
    """Put the files, then everything else in one transaction; again when somebody else was faster."""
    files = ObjectFiles(author.services, author.scope)
    for attempt in range(_ATTEMPTS):
        files.put([content for draft in drafts.values() for content in draft.contents])
        _leave_out_lost(author.services, drafts, outcomes)
        writer = RowWriter(author, bucket, outcomes, options)
        try:
            with author.services.db.begin(author.scope, author.actor) as tx:
                writer.look_up(tx, drafts.values())
                files.hold(tx)
                writer.write(tx, drafts)
            break
        except PutAgain:
            continue
        except (ConflictError, ContentionError):  # somebody took a key or a row between our look and our write
            if attempt == _ATTEMPTS - 1:
                raise
    else:
        raise ConflictError("other requests deleted the files that these objects share, again and again; send it again")
    files.drop_unused({blob["store_key"] for outcome in outcomes for blob in outcome.blobs})


def _leave_out_lost(services: Services, drafts: dict[int, Draft], outcomes: Sequence[Outcome]) -> None:
    """The file of an upload goes with the last object that was made of it."""
    for index, draft in list(drafts.items()):
        for content in draft.contents:
            if content.upload_id and services.blobs.head(content.store_key or "lost") is None:
                message = f"the file of upload '{content.upload_id}' was deleted with its object; upload it again"
                outcomes[index].error = ValidationError.at((*content.loc, "upload_id"), message, "upload_gone")
                del drafts[index]
                break
