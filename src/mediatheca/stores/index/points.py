"""How a document lies in an index point, the same in every engine.

The user's payload sits at the root, so that engine filters reach it by its own paths. Beside it:

* `document_id`, `collection_id`: the real ones (a point id must be a UUID, a document id may be any string);
* `_internal`: the document's system fields, object ids, `write_seq` and timestamps (ISO-8601);
* `_f`: the folded shadow of the payload, for filters that ignore case;
* `_odd`: "1" when the point id is not the document id (a string: qdrant-edge 0.9.0 never matches a boolean);
* `_kept`: user's own keys that one of these names would hide, only when there are any.
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.errors import ConflictError, ValidationError
from mediatheca.kernel.filter_values import fold_shadow
from mediatheca.kernel.present import system_fields
from mediatheca.kernel.search import Hit
from mediatheca.kernel.sparse import checked, is_sparse, sparse_vector, to_wire

WRITE_SEQ = "_internal.write_seq"
OBJECT_ID = "_internal.object_id"
ROOT_OBJECT_ID = "_internal.root_object_id"
ODD = "_odd"
SLICE = 100
"""Points per engine call: an engine may hold the GIL for the whole call."""

SparseClass: TypeAlias = Callable[..., Any]
"""The engine's class of sparse vectors, made of `indices` and `values`."""

_OWN = ("document_id", "collection_id", "_internal", "_f", "_odd", "_kept")
_OWN_SET = frozenset(_OWN)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ODD_IDS = uuid.UUID("6d656469-6174-6865-6361-000000000002")


@dataclass(slots=True)
class Raw:
    """One point as an engine gives it back."""

    payload: dict[str, Any]
    score: float = 0.0
    vectors: dict[str, Any] = field(default_factory=dict)


def is_uuid(document_id: str) -> bool:
    """True for the canonical lower-case form only: two spellings of one UUID are two document ids."""
    return _UUID.fullmatch(document_id) is not None


def point_id(document_id: str) -> str:
    """The document id itself when it is a canonical UUID, otherwise a UUID derived from it."""
    return document_id if is_uuid(document_id) else str(uuid.uuid5(_ODD_IDS, document_id))


def encode(document: Document) -> dict[str, Any]:
    """The point payload of a document."""
    user = document.payload
    point = {
        **user,
        "document_id": document.document_id,
        "collection_id": document.collection_id,
        "_internal": system_fields(document),
        "_f": fold_shadow(user),
    }
    if not _OWN_SET.isdisjoint(user):
        point["_kept"] = {key: user[key] for key in _OWN if key in user}
        point.pop("_odd", None)
    if not is_uuid(document.document_id):
        point["_odd"] = "1"
    return point


def decode(raw: Raw) -> Hit:
    """The hit of a point; takes its payload over (the dict is not usable afterwards)."""
    payload = raw.payload
    document_id, collection_id = payload.pop("document_id"), payload.pop("collection_id")
    system = payload.pop("_internal")
    payload.pop("_f", None)
    payload.pop("_odd", None)
    kept = payload.pop("_kept", None)
    if kept:
        payload.update(kept)
    vectors = {name: from_engine(vector) for name, vector in raw.vectors.items()} if raw.vectors else {}
    return Hit(document_id, collection_id, raw.score, payload, system, vectors)


BARE = ("document_id",)
"""What is read of the payload of a bare hit."""


def decode_bare(raw: Raw, collection_id: str) -> Hit:
    """The hit of a point of which only `BARE` was read."""
    vectors = {name: from_engine(vector) for name, vector in raw.vectors.items()} if raw.vectors else {}
    return Hit(raw.payload["document_id"], collection_id, raw.score, {}, {}, vectors)


def engine_vectors(document: Document, indexes: dict[str, VectorIndex], sparse: SparseClass) -> dict[str, Any]:
    """Vectors as nested lists: an engine converts those twice as fast as numpy rows. Sparse ones as the engine's own
    class; an empty one is left out, nothing can find it.

    Raises:
        ValidationError: unknown index, wrong shape, no row, or a number that is not finite.
    """
    found = {name: check_vector(name, vector, indexes) for name, vector in document.vectors.items()}
    return {
        name: native_sparse(vector, sparse) if is_sparse(vector) else vector.tolist()
        for name, vector in found.items()
        if len(vector)
    }


def native_sparse(vector: Vector, sparse: SparseClass) -> Any:
    """A sparse vector as the engine takes it."""
    return sparse(**to_wire(vector))


def from_engine(vector: Any) -> Vector:
    """A vector as an engine gives it back: lists of numbers, or its class of sparse vectors."""
    if hasattr(vector, "indices"):
        return sparse_vector(vector.indices, vector.values)
    if vector and isinstance(vector[0], float):  # half the time of np.asarray
        return np.frombuffer(bytearray(struct.pack(f"{len(vector)}f", *vector)), np.float32)
    return np.asarray(vector, np.float32)


def check_vector(name: str, vector: Vector, indexes: dict[str, VectorIndex]) -> Vector:
    """Refuse what an engine would take silently (NaN) or refuse with an error of its own."""
    index = indexes.get(name)
    if index is None:
        known = ", ".join(sorted(indexes)) or "none"
        raise ValidationError.at(f"vectors.{name}", f"is not a vector index of this collection; it has: {known}")
    if index.sparse or is_sparse(vector):
        return _check_sparse(name, vector, index)
    vector = np.asarray(vector, np.float32)
    rank = 2 if index.multi else 1
    if vector.ndim != rank or vector.shape[-1] != index.dimensions or not vector.size:
        wanted = f"(tokens, {index.dimensions})" if index.multi else f"({index.dimensions},)"
        raise ValidationError.at(f"vectors.{name}", f"must have shape {wanted}, got {vector.shape}")
    if not np.isfinite(vector).all():
        raise ValidationError.at(f"vectors.{name}", "holds NaN or infinity; every number must be finite")
    return vector


def _check_sparse(name: str, vector: Vector, index: VectorIndex) -> Vector:
    if not index.sparse:
        raise ValidationError.at(f"vectors.{name}", "is sparse; the index takes dense vectors")
    try:
        return checked(vector)
    except ValueError as error:
        raise ValidationError.at(f"vectors.{name}", f"{error}; the index is sparse") from error


def check_same_shape(held: VectorIndex, index: VectorIndex) -> None:
    """Raises ConflictError when a vector index of this name holds other dimensions, metric or kind."""
    if _shape(held) != _shape(index):
        raise ConflictError(
            f"vector index '{index.name}' holds {_told(held)}, not {_told(index)}: use a new name or rebuild the index"
        )


def _shape(index: VectorIndex) -> tuple[int, str, bool, bool]:
    return (index.dimensions, index.metric, index.multi, index.sparse)


def _told(index: VectorIndex) -> str:
    if index.sparse:
        return "sparse vectors"
    return f"{index.dimensions} dimensions ({index.metric}, multi={index.multi})"


def newest(documents: Sequence[Document]) -> list[Document]:
    """One document per id: the one with the highest `write_seq`, the last of equals."""
    best: dict[str, Document] = {}
    for document in documents:
        held = best.get(document.document_id)
        if held is None or document.write_seq >= held.write_seq:
            best[document.document_id] = document
    return list(best.values()) if len(best) < len(documents) else list(documents)


def index_path(path: str) -> str | None:
    """A dotted payload path as an engine's JSON path, or None where the engine cannot say it."""
    parts = path.split(".")
    if any(not part or '"' in part or "\\" in part for part in parts):
        return None
    return ".".join(part if re.fullmatch(r"[\w-]+", part) else f'"{part}"' for part in parts)


def first_uuid_from(after: str) -> str | None:
    """The smallest canonical UUID text >= `after` in string order, None when there is none."""
    form = "00000000-0000-0000-0000-000000000000"
    for at, low in enumerate(form):
        if at >= len(after):
            return after + form[at:]
        char = after[at]
        if char == low or (low != "-" and char in "0123456789abcdef"):
            continue
        choices = [c for c in ("-" if low == "-" else "0123456789abcdef") if c > char]
        return after[:at] + choices[0] + form[at + 1 :] if choices else _next_uuid(after[:at], form)
    return after if len(after) == len(form) else _next_uuid(after[: len(form)], form)


def _next_uuid(prefix: str, form: str) -> str | None:
    """The smallest UUID text greater than every UUID that begins with `prefix`."""
    digits = "0123456789abcdef"
    for at in range(len(prefix) - 1, -1, -1):
        if form[at] != "-" and prefix[at] != "f":
            return prefix[:at] + digits[digits.index(prefix[at]) + 1] + form[at + 1 :]
    return None


def search_ef(points: int, limit: int) -> int:
    """Width of a graph search: at a fixed one recall falls with the number of points (0.94 at 100k, 0.90 at 500k)."""
    return int(max(min(1024.0, 400 * (points / 100_000) ** 0.5), 320, 2 * limit))
