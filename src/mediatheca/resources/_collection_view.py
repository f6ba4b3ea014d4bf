"""What callers read of a collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mediatheca.flows.transfer.schema_sync import schema_version
from mediatheca.resources._applications import applications_view
from mediatheca.resources._collection_schedule import schedules_of
from mediatheca.resources.base import Context
from mediatheca.stores.db.tx import ReadTx, Record


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
    extractor = {key: value for key, value in body["feature_extractor"].items() if key not in ("inputs", "weight")}
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
        "disabled_reason": body.get("disabled_reason"),
        "document_schema": body.get("document_schema"),
        "schema_validation": body.get("schema_validation") or "off",
        **({"warnings": body["warnings"]} if body.get("warnings") else {}),
        "metadata": body["metadata"],
        "embedding_task": extractor["parameters"].get("embedding_task"),
        "field_languages": body.get("languages", {}),
        "document_count": documents,
        "vector_count": documents * len(body["vector_indexes"]),
        "index_map": body.get("index_map") or None,
        "schema_version": schema_version(body),
        "last_schema_sync": body.get("last_schema_sync"),
        "schema_sync_enabled": False,  # only when it is asked for
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
        "model": {"name": entry["model"], "weights": entry["weights"], "dimensions": _dimensions(entry)},
        "index": {
            "name": entry["name"],
            "dimensions": _dimensions(entry),
            "distance": entry["metric"],
            "datatype": "float32",
            "inference_name": entry["model"],
        },
    }


def _dimensions(entry: Mapping[str, Any]) -> int | None:
    """A sparse index has none."""
    return None if entry.get("sparse") else entry["dimensions"]


def feature_views(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The vectors of a collection as features that searches name."""
    extractor = body["feature_extractor"]
    return [
        {
            "feature_address": entry["feature_uri"],
            "feature_uri": entry["feature_uri"],
            "feature_extractor_name": extractor["feature_extractor_name"],
            "version": extractor["version"],
            "primary": number == 0,
            "vector_index": {
                **_index_view(entry)["index"],
                "description": f"Vectors of {entry['model']}",
                "type": "sparse" if entry.get("sparse") else "multi_dense" if entry["multi"] else "dense",
                "distance": entry["metric"],
            },
        }
        for number, entry in enumerate(body["vector_indexes"])
    ]
