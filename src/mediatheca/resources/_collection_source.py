"""Where a collection reads from: buckets, or other collections of its namespace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator

from mediatheca.flows.ingest.graph import MAX_SOURCES, check_acyclic, upstream
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import leaves, parse_filter
from mediatheca.kernel.mapping import parse_passthrough
from mediatheca.kernel.present import LINEAGE
from mediatheca.resources.base import Spec
from mediatheca.stores.db.tx import ReadTx, Record

_IDS = {"bucket": "bucket_ids", "collection": "collection_ids"}
_ALWAYS = frozenset({"metadata", "_internal", "document_id", "collection_id", "created_at", "updated_at", *LINEAGE})
"""Fields of documents that no schema names."""


class Source(Spec):
    """Where a collection reads from. `field_map`: id of a bucket or collection → which of its fields, and as what."""

    type: str = "bucket"
    bucket_ids: list[str] | None = Field(None, max_length=MAX_SOURCES)
    collection_ids: list[str] | None = Field(None, max_length=MAX_SOURCES)
    source_namespace_id: str | None = None
    source_filters: dict[str, Any] | None = None
    field_map: dict[str, list[str | dict[str, Any]]] | None = Field(None, max_length=MAX_SOURCES)

    @model_validator(mode="before")
    @classmethod
    def _one(cls, data: Any) -> Any:
        """Singular forms, what generated clients wrap filters in, and the type where only one is possible."""
        if not isinstance(data, dict):
            return data
        data = {key: value for key, value in data.items() if value is not None}
        for kind, ids in _IDS.items():
            single = data.get(f"{kind}_id")
            if isinstance(single, str):
                del data[f"{kind}_id"]
                data.setdefault(ids, [single])
        filters = data.get("source_filters")
        if isinstance(filters, dict) and filters.keys() == {"filters"}:
            data["source_filters"] = filters["filters"]
        if "type" not in data and "collection_ids" in data and "bucket_ids" not in data:
            data["type"] = "collection"
        return data


@dataclass(frozen=True, slots=True)
class Resolved:
    """A source as it is stored, and what can be mapped from it."""

    stored: dict[str, Any]
    schemas: list[Mapping[str, Any]]
    """Properties of each bucket or collection, under the names that the field map gives them."""
    bucket_schemas: dict[str, Any]
    warnings: list[str]


def resolve_source(tx: ReadTx, source: Source, own_id: str | None = None) -> Resolved:
    """The source of a collection with ids in the place of names.

    Raises:
        ValidationError: the source is incomplete or contradicts itself.
        NotFoundError: a bucket or a collection does not exist in this namespace.
        ConflictError: the collection would read from itself.
    """
    if source.type not in _IDS:
        raise ValidationError.at("source.type", f"must be 'bucket' or 'collection', got '{source.type[:50]}'", "enum")
    named = _named(tx, source)
    records = [tx.get(source.type, ident) for ident in dict.fromkeys(named)]
    if source.type == "collection":
        check_acyclic(tx, own_id, [record.id for record in records])
    properties = {record.id: _properties(record) for record in records}
    tree = parse_filter(source.source_filters, path="source.source_filters")
    field_map = _field_map(source, {name: record.id for record in records for name in (record.id, record.name)})
    ids = list(properties)
    stored: dict[str, Any] = {"type": source.type, "bucket_ids": [], _IDS[source.type]: ids}
    stored |= {"source_filters": source.source_filters, "field_map": field_map}
    if source.type == "collection":
        stored["inherited_bucket_ids"] = inherited(tx, records)
    schemas = [_chosen(ident, own, field_map) for ident, own in properties.items()]
    _check_collisions(field_map, schemas, ids)
    buckets = {record.id: record.body["bucket_schema"] for record in records if source.type == "bucket"}
    fields = [leaf.field for leaf in leaves(tree)] if tree is not None and source.type == "collection" else []
    return Resolved(stored, schemas, buckets, list(_unknown_fields(fields, properties)))


def _named(tx: ReadTx, source: Source) -> list[str]:
    other = "collection" if source.type == "bucket" else "bucket"
    wanted, refused = getattr(source, _IDS[source.type]), getattr(source, _IDS[other])
    if not wanted:
        raise ValidationError.at(f"source.{_IDS[source.type]}", f"must name at least one {source.type}", "missing")
    if refused:
        raise ValidationError.at(f"source.{_IDS[other]}", f"does not go with type '{source.type}'", "extra_forbidden")
    elsewhere = source.source_namespace_id
    if elsewhere and elsewhere != tx.scope.namespace_id:
        message = (
            f"must be the collection's own namespace, '{tx.scope.namespace_id}'; make the collection beside its bucket"
        )
        raise ValidationError.at("source.source_namespace_id", message)
    return list(wanted)


def inherited(tx: ReadTx, records: Sequence[Record]) -> list[str]:
    """The buckets that everything above these collections comes from."""
    found: dict[str, None] = {}
    seen: set[str] = set()
    waiting = list(records)
    while waiting:
        record = waiting.pop()
        if record.id in seen:
            continue
        seen.add(record.id)
        found |= dict.fromkeys(record.body["source"].get("bucket_ids") or ())
        above = [tx.find("collection", ident) for ident in upstream(record)]
        waiting += [each for each in above if each is not None]
    return list(found)


def _properties(record: Record) -> Mapping[str, Any]:
    schema = record.body.get("bucket_schema" if record.kind == "bucket" else "output_schema") or {}
    found: Mapping[str, Any] = schema.get("properties", {})
    return found


def _field_map(source: Source, ids: Mapping[str, str]) -> dict[str, list[dict[str, Any]]] | None:
    """With ids; every entry in its long form."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, entries in (source.field_map or {}).items():
        if name not in ids:
            known = ", ".join(sorted(set(ids.values())))
            raise ValidationError.at(
                ("source", "field_map", name), f"is no source of this collection; they are: {known}"
            )
        found[ids[name]] = [entry.as_dict() for entry in parse_passthrough(entries)]
    return found or None


def _chosen(
    ident: str, properties: Mapping[str, Any], field_map: Mapping[str, Sequence[Mapping[str, Any]]] | None
) -> Mapping[str, Any]:
    """The properties of one source under the names that they get."""
    if field_map is None or ident not in field_map:
        return properties
    found: dict[str, Any] = {}
    for entry in field_map[ident]:
        path, target = entry["source_path"], entry["target_path"]
        if path.split(".")[0] not in (*properties, "metadata"):
            known = ", ".join(properties) or "none"
            raise ValidationError.at(("source", "field_map", ident), f"'{path}' is no field of it; it has: {known}")
        found[target] = properties.get(path, {"type": "string"})
    return found


def _check_collisions(
    field_map: Mapping[str, Any] | None, schemas: Sequence[Mapping[str, Any]], ids: Sequence[str]
) -> None:
    """Two sources must not put different things under one name; without a map, equal names mean the same."""
    by_target: dict[str, str] = {}
    for ident, schema in zip(ids, schemas, strict=True):
        for target in schema if field_map else ():
            other = by_target.setdefault(target, ident)
            if other != ident and (ident in (field_map or {}) or other in (field_map or {})):
                raise ValidationError.at(
                    ("source", "field_map"),
                    f"'{target}' would come from '{other}' and '{ident}'; give one another target_path",
                )


def _unknown_fields(fields: Sequence[str], properties: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    known = {name for own in properties.values() for name in own} | _ALWAYS
    for field in dict.fromkeys(fields):
        if field.split(".")[0] not in known:
            yield (
                f"source_filters: '{field}' is no field that the source declares; nothing is selected until something "
                "else (a taxonomy, a write of your own) puts it into the documents"
            )
