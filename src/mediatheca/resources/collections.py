"""Collections: sources, an extractor, and the documents that come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from pydantic import AliasChoices, Field, model_validator

from mediatheca.api.deps import Read, Reader, Write, Writer, answer
from mediatheca.flows.collections import design
from mediatheca.flows.ingest.backfill import Wanted, trigger_collection
from mediatheca.kernel.analysis import language_of
from mediatheca.kernel.errors import ConflictError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.ids import check_name
from mediatheca.resources._applications import (
    LISTS,
    Applications,
    applications_view,
    checked_applications,
    label_what_is_there,
)
from mediatheca.resources._collection_schedule import (
    ScheduleSpec,
    checked_schedule,
    drop_schedule,
    schedules_of,
    set_schedule,
)
from mediatheca.resources.base import Context, Resource, Spec, merge
from mediatheca.stores.db.tx import ReadTx, Record, Tx


class Source(Spec):
    """Where a collection reads from."""

    type: str = "bucket"
    bucket_ids: list[str] = Field(min_length=1)
    source_filters: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_bucket(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("bucket_id"), str) and "bucket_ids" not in data:
            data = {**data, "bucket_ids": [data["bucket_id"]]}
            del data["bucket_id"]
        return data


class ExtractorConfig(Spec):
    """Which extractor, with what parameters, over which fields."""

    feature_extractor_name: str
    version: str = "v1"
    parameters: dict[str, Any] = Field(default_factory=dict, validation_alias=AliasChoices("parameters", "params"))
    input_mappings: dict[str, Any] | list[dict[str, Any]] | None = None
    field_passthrough: list[str | dict[str, Any]] = Field(default_factory=list)
    include_all_source_fields: bool = False

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        """Generated clients send null for what they were not given."""
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


def _single_extractor(data: Any) -> Any:
    """`feature_extractors: [one]` is `feature_extractor`; a longer list has no meaning here."""
    if not isinstance(data, dict) or "feature_extractors" not in data or data.get("feature_extractor"):
        return data
    data = dict(data)
    several = data.pop("feature_extractors")
    if not isinstance(several, list) or len(several) != 1:
        raise ValueError("feature_extractors must hold exactly one extractor; make one collection per extractor")
    return {**data, "feature_extractor": several[0]}


class CollectionSpec(Applications):
    """The body of create."""

    collection_name: str
    description: str | None = None
    source: Source
    feature_extractor: ExtractorConfig
    enabled: bool = True
    metadata: dict[str, Any] = Field(default_factory=dict)
    schedule: ScheduleSpec | None = None
    embedding_task: str | None = None
    language: str | None = Field(None, description="Of the text fields: words are searched by stem; none: as they are.")
    field_languages: dict[str, str] = Field(default_factory=dict, description="Of single text fields.")

    _unwrap = model_validator(mode="before")(_single_extractor)


class CollectionPatch(Applications):
    """What may change later; source and extractor may not: clone the collection with other ones."""

    collection_name: str | None = None
    description: str | None = None
    enabled: bool | None = None
    metadata: dict[str, Any] | None = None
    schedule: ScheduleSpec | None = None


class CloneSpec(Applications):
    """A copy of the declaration under another name; documents are not copied, trigger it to fill it."""

    collection_name: str
    description: str | None = None
    source: Source | None = None
    feature_extractor: ExtractorConfig | None = None
    enabled: bool | None = None
    metadata: dict[str, Any] | None = None

    _unwrap = model_validator(mode="before")(_single_extractor)


class TriggerSpec(Spec):
    """Which objects to process; empty: all of the sources."""

    include_buckets: list[str] | None = None
    object_ids: list[str] | None = None
    source_filters: dict[str, Any] | None = None
    dedup_strategy: str | None = Field(None, pattern="^(skip|replace|force)$")


def create(tx: Tx, spec: CollectionSpec, context: Context) -> tuple[str, dict[str, Any]]:
    return spec.collection_name, _body(tx, spec, context)


def _body(tx: Tx, spec: CollectionSpec, context: Context) -> dict[str, Any]:
    check_name("collection_name", spec.collection_name, "col", low=3)
    if spec.source.type != "bucket":
        raise ValidationError.at("source.type", f"must be 'bucket', got '{spec.source.type}'", "enum")
    buckets = [tx.get("bucket", ident) for ident in spec.source.bucket_ids]
    parse_filter(spec.source.source_filters, path="source.source_filters")
    designed = design(context.services, buckets, spec.feature_extractor.model_dump())
    return {
        "description": spec.description,
        "source": {
            "type": "bucket",
            "bucket_ids": [bucket.id for bucket in buckets],
            "source_filters": spec.source.source_filters,
        },
        "source_bucket_schemas": {bucket.id: bucket.body["bucket_schema"] for bucket in buckets},
        "enabled": spec.enabled,
        "metadata": spec.metadata,
        "embedding_task": spec.embedding_task,
        "languages": _languages(spec, designed["indexed_fields"]),
        **designed,
        **checked_applications(tx, spec),
        "schedule": checked_schedule(spec.schedule),
    }


def _languages(spec: CollectionSpec, indexed: Mapping[str, str]) -> dict[str, str]:
    """The language of each text field that has one.

    Raises:
        ValidationError: no analyser knows the language, or the field is no text field.
    """
    texts = [path for path, kind in indexed.items() if kind == "text"]
    general = language_of(spec.language, "language")
    own = {path: language_of(raw, ("field_languages", path)) for path, raw in spec.field_languages.items()}
    for path in own.keys() - set(texts):
        known = ", ".join(texts) or "none"
        raise ValidationError.at(("field_languages", path), f"is no text field of the documents; they have: {known}")
    return {path: language for path in texts if (language := own.get(path, general))}


def created(tx: Tx, record: Record) -> None:
    """A new collection has a table of documents from the first moment."""
    tx.insert("document_tables", [{"collection_id": record.id}])
    if record.body.get("schedule"):
        set_schedule(tx, record.id, record.body["schedule"])


def change(tx: Tx, record: Record, patch: CollectionPatch, context: Context) -> tuple[str, dict[str, Any]]:
    fixed = sorted({"source", "feature_extractor", "feature_extractors"} & set(patch.model_extra or {}))
    if fixed:
        raise ConflictError(
            f"{', '.join(fixed)} of a collection cannot change; clone it with other values and trigger it"
        )
    name, body = merge(record, patch, "collection_name")
    if patch.schedule is not None:
        set_schedule(tx, record.id, checked_schedule(patch.schedule) or {})
    kept = {listed: record.body[listed] for listed in LISTS if listed in record.body}  # null leaves a list alone
    sent = checked_applications(tx, patch, own=record.id)
    label_what_is_there(tx, context.services, record, sent.get("taxonomy_applications", ()))
    return name, {**body, **kept, **sent}


def remove(tx: Tx, record: Record, context: Context, query: Mapping[str, str]) -> dict[str, Any]:
    """Documents, index and open work go with it; the files are removed by a durable job."""
    where = {"collection_id": record.id}
    tx.update("chunks", {**where, "status": ["PENDING", "PROCESSING"]}, {"status": "CANCELED"})
    for table in ("document_tables", "tombstones", "derivations", "failures"):
        tx.delete(table, where)
    drop_schedule(tx, record.id)
    tx.enqueue("collection.drop", where, group=record.id)
    return {"collection_id": record.id}


def present(tx: ReadTx, records: Sequence[Record], context: Context) -> list[dict[str, Any]]:
    ids = [record.id for record in records]
    counted = tx.sums("derivations", {"collection_id": ids}, ("documents",), by=("collection_id",)) if ids else []
    counts = {row["collection_id"]: int(row["documents"]) for row in counted}
    schedules = schedules_of(tx, ids)
    return [
        {**_view(record, _count(record, counts, context), context), **schedules.get(record.id, {})}
        for record in records
    ]


def _count(record: Record, derived: Mapping[str, int], context: Context) -> int:
    """Documents, directly written ones included, when the index knows; else those derived from objects."""
    indexer = context.services.indexer
    return indexer.index.count(record.id) if indexer.ready(record.id) else derived.get(record.id, 0)


def _view(record: Record, documents: int, context: Context) -> dict[str, Any]:
    body = record.body
    extractor = {key: value for key, value in body["feature_extractor"].items() if key != "inputs"}
    extractor["params"] = extractor["parameters"]
    source = {key: value for key, value in body["source"].items() if value}
    schemas = {"input_schema": body["input_schema"], "output_schema": body["output_schema"]}
    return {
        "collection_id": record.id,
        "collection_name": record.name,
        "description": body["description"],
        "source": source,
        "feature_extractor": extractor,
        **schemas,
        "source_bucket_schemas": body["source_bucket_schemas"],
        "source_lineage": [
            {"source_config": source, "feature_extractor": extractor, "output_schema": body["output_schema"]}
        ],
        "vector_indexes": [_index_view(entry) for entry in body["vector_indexes"]],
        "payload_indexes": [{"field_name": path, "type": kind} for path, kind in body["indexed_fields"].items()],
        "enabled": body["enabled"],
        "metadata": body["metadata"],
        "embedding_task": body["embedding_task"],
        "field_languages": body.get("languages", {}),
        "document_count": documents,
        "vector_count": documents * len(body["vector_indexes"]),
        "schema_version": record.version,
        "lifecycle_state": "active",
        "indexing_status": "quiesced" if context.services.indexer.ready(record.id) else "indexing",
        **applications_view(body),
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }


def _index_view(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": entry["name"],
        "vector_name": entry["name"],
        "feature_uri": entry["feature_uri"],
        "type": "sparse" if entry.get("sparse") else "multi" if entry["multi"] else "single",
        "model": {"name": entry["model"], "weights": entry["weights"], "dimensions": entry["dimensions"]},
        "index": {
            "name": entry["name"],
            "dimensions": entry["dimensions"],
            "distance": entry["metric"],
            "datatype": "float32",
            "inference_name": entry["model"],
        },
    }


routes = APIRouter(tags=["collections"])


@routes.post("/collections/{identifier}/clone", operation_id="clone_collection", response_model=None)
def clone(identifier: str, spec: CloneSpec, tx: Write, caller: Writer) -> Response:
    original = tx.get("collection", identifier)
    body = original.body
    if body["source"]["type"] != "bucket" and spec.source is None:
        raise ConflictError(f"collection '{original.id}' has no bucket as its source; give the clone one: source")
    config = {
        key: value for key, value in body["feature_extractor"].items() if key not in ("inputs", "feature_extractor_id")
    }
    merged = CollectionSpec(
        collection_name=spec.collection_name,
        description=spec.description if spec.description is not None else body["description"],
        source=spec.source or Source(**body["source"]),
        feature_extractor=spec.feature_extractor or ExtractorConfig(**config),
        enabled=body["enabled"] if spec.enabled is None else spec.enabled,
        metadata=body["metadata"] if spec.metadata is None else spec.metadata,
        embedding_task=body["embedding_task"],
        field_languages=body.get("languages", {}),
        **{name: getattr(spec, name) if getattr(spec, name) is not None else body.get(name) for name in LISTS},
    )
    context = Context(caller.services, caller.absolute)
    made = tx.put("collection", "col", merged.collection_name, _body(tx, merged, context))
    created(tx, made)
    tx.emit("collection.created", made.id, {"cloned_from": original.id})
    return answer({"collection": present(tx, [made], context)[0], "source_collection_id": original.id})


@routes.post(
    "/collections/{identifier}/trigger", operation_id="trigger_collection", response_model=None, status_code=202
)
def trigger(identifier: str, tx: Write, caller: Writer, spec: Annotated[TriggerSpec | None, Body()] = None) -> Response:
    """Process the objects of the sources: one batch per bucket, submitted at once."""
    spec = spec or TriggerSpec()
    collection = tx.get("collection", identifier)
    wanted = Wanted(spec.include_buckets, spec.object_ids, spec.source_filters, spec.dedup_strategy)
    batches = trigger_collection(tx, collection, wanted, caller.services.settings.chunk_size)
    count = sum(batch["object_count"] for batch in batches)
    return answer(
        {
            "batch_id": batches[0]["batch_id"],
            "task_id": batches[0]["task_id"],
            "batch_ids": [batch["batch_id"] for batch in batches],
            "task_ids": [batch["task_id"] for batch in batches],
            "batch_count": len(batches),
            "collection_id": collection.id,
            "source_bucket_ids": list(dict.fromkeys(batch["bucket_id"] for batch in batches)),
            "object_count": count,
            "total_tiers": 1,
            "message": f"{count} objects queued",
        },
        202,
    )


@routes.get("/collections/{identifier}/features", operation_id="describe_collection_features", response_model=None)
def features(identifier: str, tx: Read, caller: Reader) -> Response:
    body = tx.get("collection", identifier).body
    extractor = body["feature_extractor"]
    return answer(
        {
            "features": [
                {
                    "feature_address": entry["feature_uri"],
                    "feature_uri": entry["feature_uri"],
                    "feature_extractor_name": extractor["feature_extractor_name"],
                    "version": extractor["version"],
                    "primary": number == 0,
                    "vector_index": {
                        **_index_view(entry)["index"],
                        "description": f"Vectors of {entry['model']}",
                        "type": "sparse" if entry.get("sparse") else "dense",
                        "distance": entry["metric"],
                    },
                }
                for number, entry in enumerate(body["vector_indexes"])
            ]
        }
    )


collection = Resource(
    name="collection",
    path="/collections",
    prefix="col",
    spec=CollectionSpec,
    patch=CollectionPatch,
    present=present,
    create=create,
    change=change,
    remove=remove,
    created=created,
)
