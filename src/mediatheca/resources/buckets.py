"""Buckets: schema-validated containers of raw objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field

from mediatheca.flows.ingest.plan import OPEN, cancel_batch
from mediatheca.flows.objects.content import some_names
from mediatheca.flows.objects.limits import json_size, need_metadata
from mediatheca.flows.removal import delete_objects, fed_by, release_files
from mediatheca.flows.syncs.state import remove_of_bucket
from mediatheca.kernel.errors import ConflictError, NotEnabledError, ValidationError
from mediatheca.kernel.schema import JSON_TYPES, Property, normal_schema, parse_schema, present_schema
from mediatheca.resources.base import Context, Resource, Spec, is_true
from mediatheca.stores.db.tx import ReadTx, Record, Tx

_NOT_YET = ("destination", "ingest_filter", "source_adapter")
_PAGE = 1000
MAX_PROPERTIES = 500
MAX_SCHEMA_BYTES = 256 << 10
_SCHEMA = ("body", "bucket_schema", "properties")
KeyField = Annotated[str, Field(min_length=1, max_length=255)]


class UniqueKey(Spec):
    """Which fields identify an object, and what to do when one exists."""

    fields: list[KeyField] = Field(min_length=1, max_length=10)
    default_policy: Literal["insert", "update", "upsert"] | None = None


class _Common(Spec):
    description: str | None = Field(None, max_length=5000)
    metadata: dict[str, Any] | None = None
    storage_class: Literal["standard", "nearline", "coldline", "archive"] | None = None
    destination: dict[str, Any] | None = None
    ingest_filter: dict[str, Any] | None = None
    source_adapter: dict[str, Any] | None = None

    def refuse_missing_features(self) -> None:
        """Raises NotEnabledError rather than accept what would silently do nothing."""
        given = [name for name in _NOT_YET if getattr(self, name)]
        if given:
            raise NotEnabledError(f"{', '.join(given)}: not available on this server yet; leave it out")


class BucketSpec(_Common):
    """The body of create. `bucket_schema.properties` declares what an object may and must have."""

    bucket_name: str = Field(validation_alias=AliasChoices("bucket_name", "name"))
    bucket_schema: dict[str, Any] = Field(validation_alias=AliasChoices("bucket_schema", "schema"))
    unique_key: UniqueKey | None = None


class BucketPatch(_Common):
    """What may change. Optional properties can be added freely; see `force_schema_break`."""

    bucket_name: str | None = Field(None, min_length=1)
    bucket_schema: dict[str, Any] | None = None
    unique_key: UniqueKey | None = None


def create(tx: Tx, spec: BucketSpec, context: Context) -> tuple[str, dict[str, Any]]:
    spec.refuse_missing_features()
    need_metadata(spec.metadata, "body", "metadata")
    schema = _read_schema(spec.bucket_schema)
    unique = None
    if spec.unique_key is not None:
        unique = spec.unique_key.model_dump(include={"fields", "default_policy"})
        _check_unique(schema, unique["fields"])
    return spec.bucket_name, {
        "description": spec.description,
        "bucket_schema": normal_schema(spec.bucket_schema),
        "unique_key": unique,
        "metadata": spec.metadata or {},
        "storage_class": spec.storage_class or "standard",
    }


def _read_schema(raw: Mapping[str, Any]) -> dict[str, Property]:
    """Properties by name. Raises ValidationError for a schema that is not one, or too large."""
    properties = raw.get("properties")
    if isinstance(properties, Mapping) and len(properties) > MAX_PROPERTIES:
        message = f"must have at most {MAX_PROPERTIES} properties, got {len(properties):,}"
        raise ValidationError.at(_SCHEMA, message, "too_many_properties")
    size = json_size(raw, _SCHEMA)
    if size > MAX_SCHEMA_BYTES:
        message = f"takes {size:,} bytes of JSON; at most {MAX_SCHEMA_BYTES:,} are accepted"
        raise ValidationError.at(_SCHEMA, message, "too_large")
    return parse_schema(raw)


def _check_unique(schema: Mapping[str, Property], fields: Sequence[str]) -> None:
    for number, name in enumerate(fields):
        prop = schema.get(name.split(".")[0])
        where = ("body", "unique_key", "fields", number)
        if prop is None:
            message = f"'{name}' is not a property of the bucket; it has: {some_names(schema)}"
            raise ValidationError.at(where, message, "unknown_property")
        if (prop.media or prop.type in JSON_TYPES) and "." not in name:
            raise ValidationError.at(where, f"'{name}' is of type {prop.type}; a key needs single values", "unique_key")


def change(tx: Tx, record: Record, patch: BucketPatch, context: Context) -> tuple[str, dict[str, Any]]:
    patch.refuse_missing_features()
    need_metadata(patch.metadata, "body", "metadata")
    names = {"description", "metadata", "storage_class"} & patch.model_fields_set
    body = {**record.body, **{name: getattr(patch, name) for name in names}}
    body["metadata"] = body["metadata"] or {}
    body["storage_class"] = body["storage_class"] or record.body["storage_class"]
    if patch.unique_key is not None:
        body["unique_key"] = _changed_key(record, patch.unique_key)
    if patch.bucket_schema is not None:
        schema = _read_schema(patch.bucket_schema)
        if body["unique_key"]:
            _check_unique(schema, body["unique_key"]["fields"])
        body["bucket_schema"] = normal_schema(patch.bucket_schema)
        if not is_true(context.query.get("force_schema_break")):
            _check_schema_change(tx, record, body["bucket_schema"])
    return patch.bucket_name or record.name, body


def _changed_key(record: Record, wanted: UniqueKey) -> dict[str, Any]:
    stored = record.body["unique_key"]
    if stored is None or stored["fields"] != wanted.fields:
        raise ConflictError(
            "unique_key.fields is fixed when the bucket is created; only default_policy can change",
            details={"fields": stored["fields"] if stored else None},
        )
    return {**stored, "default_policy": wanted.default_policy}


def _check_schema_change(tx: Tx, record: Record, wanted: Mapping[str, Any]) -> None:
    before, after = record.body["bucket_schema"]["properties"], wanted["properties"]
    broken = [name for name, old in before.items() if name not in after or after[name]["type"] != old["type"]]
    demanded = [name for name, new in after.items() if new.get("required") and not before.get(name, {}).get("required")]
    if (broken or demanded) and (tx.row("objects", {"bucket_id": record.id}) or fed_by(tx, record.id)):
        parts = [f"removed or retyped: {', '.join(broken)}"] if broken else []
        parts += [f"newly required: {', '.join(demanded)}"] if demanded else []
        raise ConflictError(
            f"bucket_schema: {'; '.join(parts)}; objects or collections use it; ?force_schema_break=true insists",
            details={"properties": [*broken, *demanded]},
        )


def remove(tx: Tx, record: Record, context: Context, query: Mapping[str, str]) -> dict[str, Any]:
    """Objects, their documents, uploads and batches go with it."""
    feeding = fed_by(tx, record.id)
    if feeding and not (is_true(query.get("force")) or is_true(query.get("force_foreclose"))):
        raise ConflictError(
            f"bucket '{record.name}' feeds {len(feeding)} collections; delete them first, or add ?force=true",
            details={"collection_ids": feeding},
        )
    remove_of_bucket(tx, record.id)
    where = {"bucket_id": record.id}
    batches = tx.rows("batches", where)
    for batch in batches:
        if batch["status"] in OPEN:
            cancel_batch(tx, batch, f"bucket '{record.name}' was deleted")
    count = 0
    while rows := tx.rows("objects", where, columns=("object_id",), limit=_PAGE):
        count += len(delete_objects(tx, context.services, record.id, [row["object_id"] for row in rows]))
    release_files(tx, context.services, tx.rows("uploads", where, columns=("store_key",)))
    tx.delete("uploads", where)
    return {"bucket_id": record.id, "deleted_objects": count}


def present(tx: ReadTx, records: Sequence[Record], context: Context) -> list[dict[str, Any]]:
    ids = [record.id for record in records]
    objects: dict[str, list[dict[str, Any]]] = {}
    for row in tx.sums("objects", {"bucket_id": ids}, ("size_bytes",), by=("bucket_id", "status")) if ids else []:
        objects.setdefault(row["bucket_id"], []).append(row)
    batches: dict[str, dict[str, int]] = {}
    for row in tx.sums("batches", {"bucket_id": ids}, (), by=("bucket_id", "status")) if ids else []:
        batches.setdefault(row["bucket_id"], {})[row["status"]] = row["count"]
    return [_view(record, objects.get(record.id, []), batches.get(record.id, {})) for record in records]


def _view(record: Record, objects: list[dict[str, Any]], batches: Mapping[str, int]) -> dict[str, Any]:
    body = record.body
    count, size = sum(row["count"] for row in objects), int(sum(row["size_bytes"] for row in objects))
    return {
        "bucket_id": record.id,
        "bucket_name": record.name,
        "description": body["description"],
        "bucket_schema": present_schema(body["bucket_schema"]),
        "unique_key": body["unique_key"],
        "metadata": body["metadata"],
        "storage_class": body["storage_class"],
        "object_count": count,
        "failed_object_count": sum(row["count"] for row in objects if row["status"] == "FAILED"),
        "total_size_bytes": size,
        "storage_stats": {"total_size_bytes": size, "avg_size_bytes": size // count if count else 0},
        "batch_stats": {
            "total": sum(batches.values()),
            "active": sum(batches.get(status, 0) for status in OPEN),
            "completed": sum(batches.get(status, 0) for status in ("COMPLETED", "COMPLETED_WITH_ERRORS")),
            "failed": batches.get("FAILED", 0),
        },
        "status": "ACTIVE",
        "is_locked": False,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }


bucket = Resource(
    name="bucket",
    path="/buckets",
    prefix="bkt",
    spec=BucketSpec,
    patch=BucketPatch,
    present=present,
    create=create,
    change=change,
    remove=remove,
)
