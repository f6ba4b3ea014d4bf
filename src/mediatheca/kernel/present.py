"""How a document looks to callers: payload at the root, the system's part under `_internal`. Pure.

Reads of documents and results of a search show the same: `present` makes the document, `result` adds how it was found.
A row of the document store becomes a hit first (`as_hit`), so both start from the same thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.documents import Document
from mediatheca.kernel.mapping import MISSING, read_path, write_path
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.search import FINDINGS, Hit
from mediatheca.kernel.sparse import shown as shown_vector

LINEAGE = (
    "root_object_id", "root_bucket_id", "source_type", "source_object_id", "source_document_id", "source_collection_id",
)  # fmt: skip
"""System fields that older clients also read at the root."""

SOURCE_TYPES = ("bucket", "collection", "direct_upsert", "signal")

_ALIASES = (*LINEAGE, "created_at", "updated_at")
_SHOWN_LINEAGE = "_internal.lineage."
_SHOWN_OTHERWISE = frozenset(
    {*LINEAGE, "lineage_path", "lineage_chain", "document_blobs", "source_blobs", "kept_vectors"}
)
"""System fields that `_internal` shows in a form of their own, or not at all; the others stand there as they are."""
_BLOB_TYPES = ("video", "image", "audio", "text", "pdf")
_DOCUMENT = ("document_id", "collection_id")
_RESULT = (*_DOCUMENT, "score", "feature_id", *FINDINGS)


@dataclass(frozen=True, slots=True)
class View:
    """What a caller asked to see."""

    namespace_id: str = ""
    sign: Callable[[str], str] | None = None
    """Blob key → URL for the client; None: keys stay as they are."""
    vectors: bool | Collection[str] = False
    select: Sequence[str] = ()
    """Dotted paths to keep besides the identity; empty: everything."""


def system_fields(document: Document) -> dict[str, Any]:
    """The system's part of a document as hits, index points and filters hold it: columns among it, times as text."""
    system = {
        **document.system,
        "object_id": document.object_id,
        "root_object_id": document.root_object_id,
        "write_seq": document.write_seq,
    }
    if document.created_at is not None:
        system["created_at"] = wire_time(document.created_at)
    if document.updated_at is not None:
        system["updated_at"] = wire_time(document.updated_at)
    return system


def as_hit(document: Document, score: float = 0.0) -> Hit:
    """A stored document as a search would give it back."""
    system = system_fields(document)
    return Hit(document.document_id, document.collection_id, score, document.payload, system, document.vectors)


def present(hit: Hit, view: View) -> dict[str, Any]:
    """The document as the API shows it. The user's own fields win over the system's aliases at the root."""
    return _finished(_whole(hit, view), hit, view, _DOCUMENT)


def result(hit: Hit, view: View) -> dict[str, Any]:
    """The document, and how a search found it. `score` is always a number."""
    shown = _whole(hit, view)
    shown["score"] = hit.score if math.isfinite(hit.score) else 0.0
    shown["scores"] = hit.scores
    if not hit.scores.keys().isdisjoint(FINDINGS):
        shown["scores"] = {name: value for name, value in hit.scores.items() if name not in FINDINGS}
        shown |= {name: hit.scores[name] for name in FINDINGS if name in hit.scores}
    shown["feature_id"] = hit.document_id
    return _finished(shown, hit, view, _RESULT)


def _whole(hit: Hit, view: View) -> dict[str, Any]:
    system = hit.system
    blobs, urls = _blobs(system, view.sign)
    internal = _internal(hit, view, blobs)
    origin = internal["lineage"]
    shown: dict[str, Any] = {name: origin[name] for name in LINEAGE}
    for name in ("created_at", "updated_at"):
        if name in system:
            shown[name] = system[name]
    shown["metadata"] = {}
    shown |= _with_url(hit.payload, urls) if urls else hit.payload
    if not isinstance(shown["metadata"], dict):  # clients read it as an object
        shown["metadata"] = {} if shown["metadata"] is None else {"value": shown["metadata"]}
    shown["_internal"] = internal
    shown["document_blobs"] = blobs
    shown["source_blobs"] = internal["source_blobs"]
    shown["document_id"], shown["collection_id"] = hit.document_id, hit.collection_id
    return shown


def _finished(shown: dict[str, Any], hit: Hit, view: View, identity: Sequence[str]) -> dict[str, Any]:
    if view.select:
        shown = {**_selected(shown, view.select), **{name: shown[name] for name in identity if name in shown}}
    if view.vectors is not False:
        shown["vectors"] = {
            name: shown_vector(vector)
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
    if found["source_type"] not in SOURCE_TYPES:
        found["source_type"] = "direct_upsert"
    if found["source_object_id"] is None:
        found["source_object_id"] = system.get("object_id") or None
    found["path"] = system.get("lineage_path")
    found["chain"] = chain(hit)
    return found


def chain(hit: Hit) -> list[dict[str, Any]]:
    """The processing steps that led to the document, its own last."""
    system = hit.system
    steps = [dict(step) for step in system.get("lineage_chain") or ()]
    extractor = system.get("feature_extractor_id")
    if extractor and hit.document_id not in [step.get("document_id") for step in steps]:
        own = {"collection_id": hit.collection_id, "feature_extractor_id": extractor, "document_id": hit.document_id}
        steps.append({**own, "timestamp": system.get("created_at")})
    return steps


def _internal(hit: Hit, view: View, blobs: list[dict[str, Any]]) -> dict[str, Any]:
    system = hit.system
    shown: dict[str, Any] = {
        name: value for name, value in system.items() if value is not None and name not in _SHOWN_OTHERWISE
    }
    shown["document_id"], shown["collection_id"] = hit.document_id, hit.collection_id
    shown["created_at"], shown["updated_at"] = system.get("created_at"), system.get("updated_at")
    shown["lineage"] = lineage(hit)
    shown["document_blobs"] = [blob for blob in blobs if blob["role"] != "source"]
    shown["source_blobs"] = [blob for blob in blobs if blob["role"] == "source"]
    if view.namespace_id:
        shown["namespace_id"] = view.namespace_id
    return shown


def _blobs(system: Mapping[str, Any], sign: Callable[[str], str] | None) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The document's files as the API shows them, and the URL of each of their keys."""
    found: list[dict[str, Any]] = []
    urls: dict[str, str] = {}
    for name, role in (("document_blobs", "artifact"), ("source_blobs", "source")):
        for entry in system.get(name) or ():
            key, kind = entry.get("key"), str(entry.get("type") or "")
            shown = {"field": entry.get("field") or "file", "role": role, "type": _blob_type(kind)}
            if role == "artifact" and entry.get("role"):
                shown["role"] = str(entry["role"])
            if "/" in kind:
                shown["content_type"] = kind
            shown["url"] = key or entry.get("url")
            if sign is not None and shown["url"]:
                shown["presigned_url"] = sign(key) if key else shown["url"]
                urls[key or ""] = shown["presigned_url"]
            found.append(shown)
    urls.pop("", None)
    return found, urls


def _blob_type(kind: str) -> str:
    family = "pdf" if kind == "application/pdf" else kind.partition("/")[0]
    return family if family in _BLOB_TYPES else "other"


def _with_url(value: Any, urls: Mapping[str, str]) -> Any:
    """Fields that hold the key of one of the document's own files hold its URL instead."""
    if isinstance(value, str):
        return urls.get(value, value)
    if isinstance(value, dict):
        return {name: _with_url(inner, urls) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_url(inner, urls) for inner in value]
    return value


def _selected(shown: Mapping[str, Any], paths: Collection[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for path in paths:
        value = read_path(shown, path)
        if value is MISSING:
            continue
        if path in shown:
            kept[path] = value
        else:
            write_path(kept, path, value)
    return kept
