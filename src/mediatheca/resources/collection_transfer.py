"""Collections as files, documents of other systems, and the schema that documents really have."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from pydantic import Field

from mediatheca.api.deps import Caller, Reader, Writer, answer, in_slow_thread
from mediatheca.flows.document_rows import upsertion
from mediatheca.flows.documents import Change
from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.ingest.plan import add_task, change_task
from mediatheca.flows.transfer.export import SHOWN_SHARDS, Exported, ExportRequest, Format, export_collection
from mediatheca.flows.transfer.importing import MAX_ROWS, infer, problems, reconstruct, targets
from mediatheca.flows.transfer.schema_sync import add_fields, observed, sample, schema_version, tell_downstream
from mediatheca.kernel import clock
from mediatheca.kernel.errors import MediathecaError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.resources.base import Spec, notes_on
from mediatheca.stores.db.tx import Record, Tx

router = APIRouter(tags=["collections"])
TASK = "api_collections_export"
URL_S = 3_600


class ExportSpec(Spec):
    """What is exported, and how."""

    format: Format | None = None
    include_vectors: bool = False
    include_lineage: bool = False
    select_fields: list[str] | None = Field(None, max_length=200)
    filters: dict[str, Any] | None = None
    sample_size: int | None = Field(None, ge=1, le=1_000_000)
    include_media: bool = Field(False, description="WebDataset: the source files beside their rows.")
    samples_per_shard: int = Field(1_000, ge=1, le=100_000)
    destination: dict[str, Any] | None = None


class InferSpec(Spec):
    """Rows as they come from elsewhere."""

    sample_rows: list[dict[str, Any]] | None = Field(None, max_length=MAX_ROWS)
    source_schema: dict[str, Any] | None = None
    sample_size: int = Field(100, ge=1, le=MAX_ROWS)
    known_index_dims: dict[str, int] | None = None


class MappingSpec(Spec):
    """A mapping, and what is known of both sides."""

    mapping: dict[str, Any]
    source_fields: list[dict[str, Any]] | None = None
    known_index_dims: dict[str, int] | None = None


class ImportSpec(Spec):
    """Rows, and how they become documents."""

    export: dict[str, Any] | None = None
    mapping: dict[str, Any]
    explode: dict[str, Any] | None = None
    dry_run: bool = False
    seed_ledger: bool = False


class SyncSpec(Spec):
    sample_size: int = Field(1_000, ge=1, le=10_000)
    force: bool = Field(False, description="Tell collections made from it of every field, not of new ones only.")
    cascade_to_downstream: bool = Field(True, description="Collections made from it may map the new fields.")


# ---- export


@router.post("/collections/{identifier}/export", operation_id="export_collection", response_model=None)
async def export(identifier: str, caller: Reader, spec: Annotated[ExportSpec | None, Body()] = None) -> Response:
    """Files for download: their URLs are good for an hour, the files are kept for seven days."""
    spec = spec or ExportSpec()
    notes = notes_on(caller, spec)
    if spec.destination:
        message = "writing into your own storage is not supported here; download the files"
        raise ValidationError.at(("body", "destination"), message, "unsupported")
    if spec.include_media and spec.format != "webdataset":
        raise ValidationError.at(("body", "include_media"), "is for format webdataset", "unsupported")

    def work() -> Response:
        with caller.services.db.read(caller.scope) as tx:
            collection = tx.get("collection", identifier)
        asked = _asked(spec)
        made = export_collection(caller.services, caller.scope, collection, asked)
        shown = _exported(caller, made, asked.format)
        with caller.services.db.begin(caller.scope, caller.actor.key_id) as write:
            task = add_task(write, TASK, {"collection_id": collection.id, "format": asked.format}, "COMPLETED")
            change_task(write, task, "COMPLETED", {"s3_path": made.key, "document_count": made.documents})
        return answer({**shown, "task_id": task} | notes)

    return await in_slow_thread(work)


def _asked(spec: ExportSpec) -> ExportRequest:
    tree = parse_filter(spec.filters, path="filters")
    return ExportRequest(
        spec.format or "parquet", spec.include_vectors, spec.include_lineage, tuple(spec.select_fields or ()), tree,
        spec.sample_size, spec.include_media, spec.samples_per_shard,
    )  # fmt: skip


def _exported(caller: Caller, made: Exported, kind: Format) -> dict[str, Any]:
    first = made.shards[0][0] if made.shards else made.key
    shown: dict[str, Any] = {
        "download_url": _signed(caller, first),
        "s3_path": made.key,
        "format": kind,
        "document_count": made.documents,
        "file_size_bytes": made.size,
        "exported_at": clock.now(),
        "vectors_download_url": _signed(caller, made.vectors_key) if made.vectors_key else None,
        "vectors_s3_path": made.vectors_key,
    }
    if kind == "webdataset":
        last = len(made.shards) - 1
        shown |= {
            "shard_count": len(made.shards),
            "shard_pattern": f"documents-{{{0:06d}..{last:06d}}}.tar",
            "shards": [
                {"filename": key.rpartition("/")[2], "s3_path": key, "download_url": _signed(caller, key),
                 "sample_count": samples, "file_size_bytes": size}
                for key, samples, size in made.shards[:SHOWN_SHARDS]
            ],
            "media": {name: made.media.get(name, 0) for name in _MEDIA} if made.media else None,
        }  # fmt: skip
    return shown


_MEDIA = (
    "samples_with_media", "samples_without_media", "members_written", "members_skipped_too_large", "objects_not_found",
    "download_failures", "media_bytes",
)  # fmt: skip


def _signed(caller: Caller, key: str) -> str:
    return caller.absolute(caller.services.blobs.sign("GET", key, expires_s=2 * URL_S - int(time.time()) % URL_S))


# ---- import


@router.post("/collections/import/infer", operation_id="infer_import_schema", response_model=None)
def infer_schema(spec: InferSpec, caller: Reader) -> Response:
    """The fields of sample rows, and where each would go."""
    notes = notes_on(caller, spec)
    rows = (spec.sample_rows or [])[: spec.sample_size]
    warnings = [] if rows else ["no sample_rows were given: nothing can be inferred"]
    found = infer(rows, spec.known_index_dims or {})
    return answer({"fields": found, "warnings": [*warnings, *notes.get("warnings", [])]})


@router.post("/collections/import/validate-mapping", operation_id="validate_import_mapping", response_model=None)
def validate_mapping(spec: MappingSpec, caller: Reader) -> Response:
    """What is wrong with a mapping, before anything is written."""
    notes = notes_on(caller, spec)
    types = {str(entry.get("path") or entry.get("name")): str(entry.get("type")) for entry in spec.source_fields or []}
    found = problems(targets(spec.mapping), types, spec.known_index_dims or {})
    return answer({"ok": not found, "errors": found} | notes)


@router.post("/collections/{identifier}/import", operation_id="import_collection", response_model=None)
async def import_rows(identifier: str, spec: ImportSpec, caller: Writer) -> Response:
    """Write the rows of an export as documents; a row that is wrong is told and the others are written."""
    notes = notes_on(caller, spec)

    def work() -> Response:
        with caller.services.db.read(caller.scope) as tx:
            collection = tx.get("collection", identifier)
        return answer(_imported(caller, collection, spec) | notes)

    return await in_slow_thread(work)


def _imported(caller: Caller, collection: Record, spec: ImportSpec) -> dict[str, Any]:
    mapped = targets(spec.mapping)
    dims = {index.name: index.dimensions for index in stored_vectors(collection.body)}
    wrong = problems(mapped, {}, dims)
    if wrong:
        message = "; ".join(f"{entry['field'] or 'mapping'}: {entry['error']}" for entry in wrong[:10])
        raise ValidationError.at(("body", "mapping"), message, "mapping")
    rows = reconstruct(spec.export or {}, mapped, str((spec.explode or {}).get("explode_axis") or ""))
    changes: list[Change] = []
    for number, row in enumerate(rows.documents):
        try:
            changes.append(upsertion(collection, row, ("body", "export", number))[0])
        except MediathecaError as error:
            rows.errors.append({"row": number, "error": error.message})
    imported = 0
    if not spec.dry_run and changes:
        outcomes = caller.services.writer.write(caller.scope, caller.actor.key_id, collection, changes)
        imported = sum(outcome.error is None for outcome in outcomes)
        rows.errors += [{"row": n, "error": o.error.message} for n, o in enumerate(outcomes) if o.error is not None]
    return {
        "imported": imported,
        "reconstructed": len(changes),
        "skipped": len(rows.errors),
        "dry_run": spec.dry_run,
        "errors": rows.errors[:100],
        "warnings": ["seed_ledger has no effect here"] if spec.seed_ledger else [],
    }


# ---- schema


@router.post("/collections/{identifier}/sync-schema", operation_id="sync_collection_schema", response_model=None)
async def sync_schema(identifier: str, caller: Writer, spec: Annotated[SyncSpec | None, Body()] = None) -> Response:
    """Fields that documents have and the schema lacks are added to it."""
    spec = spec or SyncSpec()
    notes = notes_on(caller, spec)

    def work() -> Response:
        services, scope = caller.services, caller.scope
        with services.db.read(scope) as tx:
            collection = tx.get("collection", identifier)
        documents = sample(services, scope, collection, spec.sample_size)
        found = observed(documents)

        def sync(tx: Tx) -> tuple[Record, list[str], list[str]]:
            changed, added = add_fields(tx, tx.get("collection", collection.id), found)
            names = changed.body["output_schema"]["properties"] if spec.force else added
            return changed, added, tell_downstream(tx, changed, names) if spec.cascade_to_downstream else []

        changed, added, told = services.db.run(scope, sync, caller.actor.key_id)
        for ident in [collection.id, *told] if added or told else ():
            services.indexer.refresh(scope, ident)
        message = f"{len(added)} fields added" if added else "the schema has every field of the sampled documents"
        return answer({
            "success": True,
            "collection_id": collection.id,
            "schema_version": schema_version(changed.body),
            "previous_version": schema_version(collection.body),
            "fields_added": added,
            "fields_total": len(changed.body["output_schema"]["properties"]),
            "documents_sampled": len(documents),
            "downstream_collections_updated": told,
            "message": message,
        } | notes)  # fmt: skip

    return await in_slow_thread(work)
