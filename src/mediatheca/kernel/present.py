"""How a document looks to callers: payload at the root, the system's part under `_internal`. Pure.

A hit of a search and a row of the document store look the same: `as_hit` makes the one out of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.documents import Document
from mediatheca.kernel.mapping import MISSING, read_path, write_path
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import Hit

LINEAGE = (
    "root_object_id", "root_bucket_id", "source_type", "source_object_id", "source_document_id", "source_collection_id",
)  # fmt: skip
"""System fields that older clients also read at the root."""

SOURCE_TYPES = ("bucket", "collection", "direct_upsert", "signal")

_ALIASES = (*LINEAGE, "created_at", "updated_at")
_SHOWN_LINEAGE = "_internal.lineage."
_BLOB_TYPES = ("video", "image", "audio", "text", "pdf")


@dataclass(frozen=True, slots=True)
class View:
    """What a caller asked to see."""

    namespace_id: str = ""
    sign: Callable[[str], str] | None = None
    """Blob key → URL for the client; None: keys stay as they are."""
    vectors: bool | Collection[str] = False
    select: tuple[str, ...] = ()
    """Dotted paths to keep besides the ids; empty: everything."""


def as_hit(document: Document) -> Hit:
    """A stored document as a search would give it back; score 0."""
    system = {
        **document.system,
        "object_id": document.object_id,
        "root_object_id": document.root_object_id,
        "write_seq": document.write_seq,
    }
    for name, moment in (("created_at", document.created_at), ("updated_at", document.updated_at)):
        if moment is not None:
            system[name] = wire_time(moment)
    return Hit(document.document_id, document.collection_id, 0.0, document.payload, system, document.vectors)


def present(hit: Hit, view: View) -> dict[str, Any]:
    """The document as the API shows it. The user's own fields win over the system's aliases at the root."""
    system = hit.system
    blobs = _blobs(system, view.sign)
    payload = hit.payload if view.sign is None else _with_urls(hit.payload, blobs)
    internal = _internal(hit, view, blobs)
    aliases = {name: internal["lineage"].get(name) for name in LINEAGE}
    times: dict[str, Any] = {name: system[name] for name in ("created_at", "updated_at") if name in system}
    shown: dict[str, Any] = {**aliases, **times, "metadata": {}, **payload}
    if view.select:
        shown = _selected(shown, internal, view.select)
    else:
        shown["_internal"] = internal
        shown["document_blobs"] = [_public(blob) for blob in blobs]
    shown["document_id"], shown["collection_id"] = hit.document_id, hit.collection_id
    if view.vectors is not False:
        shown["vectors"] = {
            name: vector.tolist()
            for name, vector in hit.vectors.items()
            if view.vectors is True or name in view.vectors
        }
        shown["vector_hydration_incomplete"] = False
    return shown


def field_value(hit: Hit, path: str) -> Any:
    """The value at a path of a document as callers see it: payload, then what `present` adds; None without one."""
    path = stored_path(path)
    value = read_field(hit, path)
    if value is None and path in _ALIASES:
        return hit.system.get(path)
    return value


def stored_path(path: str) -> str:
    """`_internal.lineage.root_bucket_id` is kept as `_internal.root_bucket_id`."""
    if not path.startswith(_SHOWN_LINEAGE):
        return path
    name = path.removeprefix(_SHOWN_LINEAGE)
    return f"_internal.lineage_{name}" if name in ("path", "chain") else f"_internal.{name}"


def lineage(hit: Hit) -> dict[str, Any]:
    """Where the document comes from; `chain` is ordered from the root object to this document."""
    system = hit.system
    found: dict[str, Any] = {name: system.get(name) or None for name in LINEAGE}
    source = system.get("source_type")
    found["source_type"] = source if source in SOURCE_TYPES else "direct_upsert"
    found["path"] = system.get("lineage_path")
    found["chain"] = chain(hit)
    return found


def chain(hit: Hit) -> list[dict[str, Any]]:
    """The processing steps that led to the document, its own last."""
    system = hit.system
    steps = [dict(step) for step in system.get("lineage_chain") or ()]
    extractor = system.get("feature_extractor_id")
    if extractor and not any(step.get("document_id") == hit.document_id for step in steps):
        own = {"collection_id": hit.collection_id, "feature_extractor_id": extractor, "document_id": hit.document_id}
        steps.append({**own, "timestamp": system.get("created_at")})
    return steps


def _internal(hit: Hit, view: View, blobs: list[dict[str, Any]]) -> dict[str, Any]:
    system = hit.system
    shown: dict[str, Any] = {
        "document_id": hit.document_id,
        "collection_id": hit.collection_id,
        "created_at": system.get("created_at"),
        "updated_at": system.get("updated_at"),
        "lineage": lineage(hit),
        "document_blobs": [_public(blob) for blob in blobs if blob["role"] != "source"],
        "source_blobs": [_public(blob) for blob in blobs if blob["role"] == "source"],
    }
    if view.namespace_id:
        shown["namespace_id"] = view.namespace_id
    for name in ("content_hash", "feature_extractor_id", "batch_id", "object_version", "document_schema_version"):
        if system.get(name) is not None:
            shown[name] = system[name]
    return shown


def _blobs(system: Mapping[str, Any], sign: Callable[[str], str] | None) -> list[dict[str, Any]]:
    found = [_blob(entry, str(entry.get("role") or "artifact"), sign) for entry in system.get("document_blobs") or ()]
    return found + [_blob(entry, "source", sign) for entry in system.get("source_blobs") or ()]


def _blob(entry: Mapping[str, Any], role: str, sign: Callable[[str], str] | None) -> dict[str, Any]:
    key, kind = entry.get("key"), str(entry.get("type") or "")
    shown: dict[str, Any] = {"field": entry.get("field") or "file", "role": role, "type": _blob_type(kind), "key": key}
    if "/" in kind:
        shown["content_type"] = kind
    shown["url"] = key or entry.get("url")
    if key and sign is not None:
        shown["presigned_url"] = sign(key)
    return shown


def _blob_type(kind: str) -> str:
    family = "pdf" if kind == "application/pdf" else kind.partition("/")[0]
    return family if family in _BLOB_TYPES else "other"


def _public(blob: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in blob.items() if name != "key"}


def _with_urls(payload: dict[str, Any], blobs: list[dict[str, Any]]) -> dict[str, Any]:
    """Fields that hold the key of one of the document's own blobs hold its URL instead."""
    urls = {blob["key"]: blob["presigned_url"] for blob in blobs if "presigned_url" in blob}
    if not urls:
        return payload
    return {name: _with_url(value, urls) for name, value in payload.items()}


def _with_url(value: Any, urls: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return urls.get(value, value)
    if isinstance(value, dict):
        return {name: _with_url(inner, urls) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_url(inner, urls) for inner in value]
    return value


def _selected(shown: Mapping[str, Any], internal: dict[str, Any], paths: Collection[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    source = {**shown, "_internal": internal}
    for path in paths:
        value = read_path(source, path)
        if value is MISSING:
            continue
        if path in source:
            kept[path] = value
        else:
            write_path(kept, path, value)
    return kept
