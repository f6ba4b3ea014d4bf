"""Collections without a source, to which documents are written directly; the one behind a standalone namespace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mediatheca.kernel.documents import Metric, VectorIndex
from mediatheca.kernel.errors import ConflictError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import Record

NAME = "documents"
DIRECT = "direct_upsert"
"""The type of its source: nothing is processed, documents are written."""
_METRICS: dict[str, Metric] = {"cosine": "cosine", "dot": "dot", "euclid": "euclid", "euclidean": "euclid"}
_INDEXED = {name: name for name in ("keyword", "integer", "float", "bool", "datetime", "text")} | {"uuid": "keyword"}


def direct_collection(database: Database, scope: Scope, actor: str) -> Record | None:
    """The collection of a standalone namespace, made when it is first needed; None in a managed namespace."""
    with database.read(Scope(scope.organization_id)) as tx:
        namespace = tx.get("namespace", scope.namespace_id or "").body
    if namespace["mode"] != "standalone" or not namespace["vector_configs"]:
        return None
    try:
        with database.begin(scope, actor) as tx:
            held = tx.find("collection", NAME)
            if held is not None:
                return held
            made = tx.put("collection", "col", NAME, _body(namespace))
            tx.insert("document_tables", [{"collection_id": made.id}])
            tx.emit("collection.created", made.id, {"name": NAME})
            return made
    except ConflictError:  # another request was faster
        with database.read(scope) as tx:
            return tx.get("collection", NAME)


def _body(namespace: Mapping[str, Any]) -> dict[str, Any]:
    vectors = [
        VectorIndex(v["name"], v["name"], v["dimension"], _METRICS[v["metric"]], modalities=("vector",))
        for v in namespace["vector_configs"]
    ]
    kinds = {entry["field_name"]: entry["type"] for entry in namespace["payload_indexes"]}
    indexed = {name: _INDEXED[kind] for name, kind in kinds.items() if kind in _INDEXED}
    return direct_body("Documents written directly, with the caller's own vectors.", vectors, {}, indexed)


def direct_body(
    description: str, indexes: Sequence[VectorIndex], output: Mapping[str, Any], indexed: Mapping[str, str]
) -> dict[str, Any]:
    """The body of a collection without a source: nothing is extracted, documents are written.

    Args:
        output: the properties that its documents have.
        indexed: field to the kind of its payload index.
    """
    extractor: dict[str, Any] = {"feature_extractor_name": "passthrough_extractor", "version": "v1"}
    extractor |= {"feature_extractor_id": "passthrough_extractor_v1", "parameters": {}, "input_mappings": {}}
    return {
        "description": description,
        "source": {"type": DIRECT, "bucket_ids": [], "source_filters": None},
        "source_bucket_schemas": {},
        "enabled": True,
        "metadata": {},
        "feature_extractor": {**extractor, "inputs": {}, "field_passthrough": [], "include_all_source_fields": False},
        "input_schema": {"properties": {}},
        "output_schema": {"properties": dict(output)},
        "vector_indexes": [asdict(index) for index in indexes],
        "indexed_fields": dict(indexed),
    }
