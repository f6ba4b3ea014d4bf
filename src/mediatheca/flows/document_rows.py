"""What callers may write into a document: reserved keys, vectors, lineage, sizes. One `Change` per row of a request.

Every error names the row and the field. The check of the whole payload runs on the document as it will be stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeAlias

import numpy as np

from mediatheca.flows.documents import MAX_ID, Change, possible_id
from mediatheca.flows.indexing import stored_vectors
from mediatheca.kernel import clock
from mediatheca.kernel.documents import RESERVED_PREFIX, Document, Vector, VectorIndex
from mediatheca.kernel.errors import ConflictError, FieldError, NotFoundError, ValidationError
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.present import SOURCE_TYPES
from mediatheca.kernel.sparse import from_wire
from mediatheca.kernel.uris import parse_feature_uri
from mediatheca.stores.db.tx import Record
from mediatheca.stores.documents.payloads import encode_json

Loc: TypeAlias = tuple[str | int, ...]

_LINEAGE = (
    "root_bucket_id", "source_type", "source_object_id", "source_document_id", "source_collection_id", "lineage_path",
    "content_hash", "document_schema_version",
)  # fmt: skip
"""Lineage a caller may give a document it creates; kept beside the payload."""

_SYSTEM = frozenset(
    (
        *_LINEAGE, "document_id", "collection_id", "namespace_id", "internal_id", "root_object_id", "lineage_chain",
        "document_blobs", "searchable_at", "vector_hydration_incomplete",
    )
)  # fmt: skip


def is_system_key(name: str) -> bool:
    """Whether a payload key belongs to the system and cannot be written."""
    return name in _SYSTEM or name.startswith((RESERVED_PREFIX, "__"))


def check_keys(payload: Mapping[str, Any], where: Loc) -> None:
    """Raises ValidationError naming every key of the system."""
    bad = [name for name in payload if is_system_key(name)]
    if bad:
        errors = [
            FieldError((*where, clean_text(name)), "is set by the system and cannot be written", "reserved")
            for name in bad
        ]
        raise ValidationError.of(errors)


def check_document_id(raw: Any, where: Loc) -> str:
    """Raises ValidationError unless it is a text of 1 to 512 characters that fits into a path."""
    if not isinstance(raw, str) or not possible_id(raw):
        rule = f"must be a string of 1 to {MAX_ID} characters without '/', control characters or broken Unicode"
        raise ValidationError.at(where, f"{rule}, got {_short(raw)}", "string")
    return raw


def parse_vectors(indexes: tuple[VectorIndex, ...], raw: Any, where: Loc) -> dict[str, Vector]:
    """Vectors by index name; given by index name, feature URI, or the last part of one.

    Raises:
        ValidationError: every name no index has, every wrong shape or number.
    """
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ValidationError.at(where, f"must be an object of index name to numbers, got {_short(raw)}", "dict_type")
    found, errors = {}, []
    for name, values in raw.items():
        try:
            at = (*where, clean_text(name))
            index = _index(indexes, name, at)
            found[index.name] = _vector(index, values, at)
        except ValidationError as error:
            errors += error.errors
    if errors:
        raise ValidationError.of(errors)
    return found


def _index(indexes: tuple[VectorIndex, ...], name: str, where: Loc) -> VectorIndex:
    wanted = str(parse_feature_uri(name)) if "://" in name else name
    exact = [index for index in indexes if wanted in (index.name, index.feature_uri)]
    fitting = exact or [index for index in indexes if index.feature_uri.rsplit("/", 1)[-1] == wanted]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(index.name for index in indexes) or "none"
    problem = "names several vector indexes" if fitting else "is no vector index of the collection"
    raise ValidationError.at(where, f"{problem}; it has: {known}", "vector_index")


def _vector(index: VectorIndex, raw: Any, where: Loc) -> Vector:
    if index.sparse:
        return from_wire(raw, where)
    rank = 2 if index.multi else 1
    wanted = f"{'a list of lists' if index.multi else 'a list'} of {index.dimensions} numbers"
    if not isinstance(raw, list) or not raw:
        raise ValidationError.at(where, f"must be {wanted}, got {_short(raw)}", "vector")
    rows = raw if index.multi else [raw]
    if not all(isinstance(row, list) and all(type(value) in (int, float) for value in row) for row in rows):
        raise ValidationError.at(where, f"must be {wanted}; something else is in it", "vector")
    lengths = {len(row) for row in rows}
    if lengths != {index.dimensions}:
        given = ", ".join(map(str, sorted(lengths)))
        raise ValidationError.at(where, f"must have {index.dimensions} dimensions, got {given}", "vector_dimensions")
    with np.errstate(over="ignore"):
        vector = np.asarray(raw, np.float64).astype(np.float32)
    if vector.ndim != rank or not np.isfinite(vector).all():
        raise ValidationError.at(where, "holds NaN, infinity or a number too large for 32 bits", "vector")
    return vector


def creation(collection: Record, raw: Mapping[str, Any], where: Loc = ("body",)) -> Change:
    """A new document: lineage and vectors apart, every other key is payload, `metadata` included.

    Raises:
        ValidationError: naming the offending field.
    """
    data = dict(raw)
    if data.pop("collection_id", None) not in (None, collection.id, collection.name):
        raise ValidationError.at((*where, "collection_id"), f"does not name collection '{collection.id}' of the path")
    made = _draft(collection, data, where)

    def apply(held: Document | None) -> Document:
        if held is not None:
            message = f"document '{held.document_id}' exists already; change it with PATCH or PUT"
            raise ConflictError(message, details={"existing_id": held.document_id})
        return made

    return Change(made.document_id, apply)


def upsertion(collection: Record, raw: Any, where: Loc) -> tuple[Change, list[str]]:
    """A row with its own vectors, replacing what was there; and the payload keys that were dropped.

    Raises:
        ValidationError: naming the offending field.
    """
    if not isinstance(raw, dict):
        raise ValidationError.at(where, f"must be an object, got {_short(raw)}", "dict_type")
    data = dict(raw)
    if data.pop("acl", None) is not None:
        raise ValidationError.at((*where, "acl"), "document permissions are not enforced here yet; leave it out", "acl")
    payload = data.pop("payload", None) or {}
    if not isinstance(payload, dict):
        raise ValidationError.at((*where, "payload"), f"must be an object, got {_short(payload)}", "dict_type")
    dropped = sorted(name for name in payload if is_system_key(name))
    kept = {name: value for name, value in payload.items() if name not in dropped}
    made = _draft(collection, {**kept, **data}, where)

    def apply(held: Document | None) -> Document:
        if held is not None and held.object_id:
            raise ConflictError(
                f"document '{held.document_id}' was derived from object '{held.object_id}'; use another id"
            )
        return made if held is None else replace(made, created_at=held.created_at, updated_at=_later(held))

    return Change(made.document_id, apply), dropped


def _draft(collection: Record, data: dict[str, Any], where: Loc) -> Document:
    """Takes `data` apart."""
    given = data.pop("document_id", None)
    ident = new_id("doc") if given is None else check_document_id(given, (*where, "document_id"))
    vectors = parse_vectors(stored_vectors(collection.body), data.pop("vectors", None), (*where, "vectors"))
    vectors |= _features(collection, data, where)
    root = _text(data, "root_object_id", where)
    system: dict[str, Any] = {name: value for name in _LINEAGE if (value := _text(data, name, where))}
    source = system.setdefault("source_type", "direct_upsert")
    if source not in SOURCE_TYPES:
        accepted = ", ".join(SOURCE_TYPES)
        raise ValidationError.at((*where, "source_type"), f"must be one of {accepted}, got '{source}'", "enum")
    steps = data.pop("lineage_chain", None)
    steps = [] if steps is None else steps
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ValidationError.at((*where, "lineage_chain"), "must be a list of objects", "list_type")
    if steps:
        system["lineage_chain"] = steps
    check_keys(data, where)
    moment = clock.now()
    made = Document(ident, collection.id, data, vectors, "", root or "", system, moment, moment)
    return _checked(made, where)


def _features(collection: Record, data: dict[str, Any], where: Loc) -> dict[str, Vector]:
    """`features: [{feature_extractor_id, payload, vectors}]`, the long form of payload and vectors."""
    features = data.pop("features", None)
    if features is None:
        return {}
    if not isinstance(features, list):
        raise ValidationError.at((*where, "features"), f"must be a list, got {_short(features)}", "list_type")
    found: dict[str, Vector] = {}
    for number, feature in enumerate(features):
        at = (*where, "features", number)
        if not isinstance(feature, dict):
            raise ValidationError.at(at, f"must be an object, got {_short(feature)}", "dict_type")
        payload = feature.get("payload") or {}
        if not isinstance(payload, dict):
            raise ValidationError.at((*at, "payload"), f"must be an object, got {_short(payload)}", "dict_type")
        for name, value in payload.items():
            data.setdefault(name, value)
        found |= parse_vectors(stored_vectors(collection.body), feature.get("vectors"), (*at, "vectors"))
    return found


def patching(collection: Record, document_id: str, raw: Mapping[str, Any], where: Loc = ("body",)) -> Change:
    """Merge fields into a document: a null removes the key, `metadata` merges key by key, `vectors` by index.

    Raises:
        ValidationError: naming the offending field.
    """
    check_document_id(document_id, (*where, "document_id"))
    data, vectors = _split(collection, raw, where)
    metadata = data.get("metadata")

    def apply(held: Document | None) -> Document:
        held = _existing(held, document_id)
        payload = _merged(held.payload, data)
        if isinstance(metadata, dict):
            old = held.payload.get("metadata")
            payload["metadata"] = _merged(old if isinstance(old, dict) else {}, metadata)
        return _checked(_changed(held, payload, {**held.vectors, **vectors}), where)

    return Change(document_id, apply)


def replacement(collection: Record, document_id: str, raw: Mapping[str, Any], where: Loc = ("body",)) -> Change:
    """Replace a document's payload; lineage stays, vectors stay unless given.

    Raises:
        ValidationError: naming the offending field.
    """
    check_document_id(document_id, (*where, "document_id"))
    data, vectors = _split(collection, raw, where)

    def apply(held: Document | None) -> Document:
        held = _existing(held, document_id)
        return _checked(_changed(held, dict(data), {**held.vectors, **vectors}), where)

    return Change(document_id, apply)


def _split(collection: Record, raw: Mapping[str, Any], where: Loc) -> tuple[dict[str, Any], dict[str, Vector]]:
    data = dict(raw)
    vectors = parse_vectors(stored_vectors(collection.body), data.pop("vectors", None), (*where, "vectors"))
    check_keys(data, where)
    if data.get("metadata") is not None and not isinstance(data["metadata"], dict):
        raise ValidationError.at(
            (*where, "metadata"), f"must be an object, got {_short(data['metadata'])}", "dict_type"
        )
    return data, vectors


def _existing(held: Document | None, document_id: str) -> Document:
    if held is None:
        raise NotFoundError("document", document_id)
    return held


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**old, **new}.items() if value is not None or name not in new}


def _changed(held: Document, payload: dict[str, Any], vectors: dict[str, Vector]) -> Document:
    return replace(held, payload=payload, vectors=vectors, updated_at=_later(held))


def _later(held: Document) -> Any:
    """Now, and strictly after the last change also on coarse clocks."""
    moment = clock.now()
    return moment if held.updated_at is None else max(moment, held.updated_at + timedelta(microseconds=1))


def _checked(document: Document, where: Loc) -> Document:
    """The payload as JSON, at most 1 MiB: one bad row would fail a whole commit."""
    metadata = document.payload.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise ValidationError.at((*where, "metadata"), f"must be an object, got {_short(metadata)}", "dict_type")
    for column, value in (("payload", document.payload), ("system", document.system)):
        try:
            encode_json(value, document.document_id, column)
        except ValidationError as error:
            found = [
                FieldError((*where, *map(_clean_part, e.loc[3:])), clean_text(e.msg), e.type) for e in error.errors
            ]
            raise ValidationError.of(found) from error
    return document


def _text(data: dict[str, Any], name: str, where: Loc) -> str | None:
    value = data.pop(name, None)
    if value is not None and (not isinstance(value, str) or len(value) > MAX_ID):
        message = f"must be a string of at most {MAX_ID} characters, got {_short(value)}"
        raise ValidationError.at((*where, name), message, "string_type")
    return value


def clean_text(text: str) -> str:
    """Text that can be sent: JSON may hold half of a surrogate pair, UTF-8 may not."""
    return text.encode("utf-8", "backslashreplace").decode()


def _clean_part(part: str | int) -> str | int:
    return clean_text(part) if isinstance(part, str) else part


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:50]}…"
