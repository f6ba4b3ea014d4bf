"""The fields that documents really have, added to the schema of their collection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mediatheca.flows.services import Services
from mediatheca.kernel import clock
from mediatheca.kernel.documents import Document
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Record, Tx
from mediatheca.stores.documents.base import Scan

MAX_FIELDS = 1_000
_INDEXED = {"string": "keyword", "integer": "float", "number": "float", "boolean": "bool"}


def observed(documents: Iterable[Document]) -> dict[str, dict[str, Any]]:
    """Top-level payload fields with the type of their values; `string` where they differ."""
    types: dict[str, set[str]] = {}
    for document in documents:
        for name, value in document.payload.items():
            if value is not None:
                types.setdefault(name, set()).add(_type(value))
    return {name: {"type": _one(found), "observed": True} for name, found in sorted(types.items())}


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "object" if isinstance(value, dict) else "array" if isinstance(value, list) else "string"


def _one(types: set[str]) -> str:
    if len(types) == 1:
        return next(iter(types))
    return "number" if types == {"integer", "number"} else "string"


def sample(services: Services, scope: Scope, collection: Record, size: int) -> list[Document]:
    """The first documents by id, without vectors."""
    with services.db.read(scope) as tx:
        row = tx.row("document_tables", {"collection_id": collection.id})
    if row is None or not row["committed_seq"]:
        return []
    dead = services.indexer.tombstones(scope, collection.id)
    return list(services.documents.scan(collection.id, Scan(limit=size), tombstones=dead))


def schema_version(body: Mapping[str, Any]) -> int:
    """How often fields were added to the schema of a collection, from 1."""
    return int(body.get("schema_version", 1))


def add_fields(tx: Tx, collection: Record, found: Mapping[str, dict[str, Any]]) -> tuple[Record, list[str]]:
    """The collection with fields its schema lacks, and their names. What is declared stays as it is; that it was
    looked at is noted."""
    held = collection.body["output_schema"]["properties"]
    room = max(0, MAX_FIELDS - len(held))
    fresh = {name: rule for name, rule in found.items() if name not in held}
    fresh = dict(list(fresh.items())[:room])
    looked = {"last_schema_sync": clock.wire_time(clock.now())}
    if not fresh:
        return tx.change(collection, {**collection.body, **looked}), []
    indexed = {name: _INDEXED[rule["type"]] for name, rule in fresh.items() if rule["type"] in _INDEXED}
    body = {
        **collection.body,
        **looked,
        "schema_version": schema_version(collection.body) + 1,
        "output_schema": {**collection.body["output_schema"], "properties": {**held, **fresh}},
        "indexed_fields": {**indexed, **collection.body["indexed_fields"]},
    }
    changed = tx.change(collection, body)
    tx.emit("collection.schema_synced", collection.id, {"fields_added": sorted(fresh)})
    return changed, sorted(fresh)


def tell_downstream(tx: Tx, collection: Record, names: Iterable[str]) -> list[str]:
    """Let collections made from this one map these fields of it, and have them where they take every field; gives
    the ids of those that changed. A source with a field map names its fields itself."""
    rules = {name: collection.body["output_schema"]["properties"][name] for name in names}
    ids = [each.id for each in tx.resources("collection") if _takes(each.body["source"], collection.id)]
    told: dict[str, None] = {}
    for ident in ids if rules else ():
        record = tx.get("collection", ident)
        held = record.body["input_schema"]["properties"]
        if rules.keys() - held.keys():
            told[ident] = None
            record = tx.change(record, {**record.body, "input_schema": {"properties": {**rules, **held}}})
        if record.body["feature_extractor"].get("include_all_source_fields"):
            changed, more = add_fields(tx, record, rules)
            told |= dict.fromkeys([ident] if more else [])
            told |= dict.fromkeys(tell_downstream(tx, changed, more))
    return list(told)


def _takes(source: Mapping[str, Any], ident: str) -> bool:
    return ident in (source.get("collection_ids") or ()) and ident not in (source.get("field_map") or {})
