"""Changing the payload of a point and leaving its vectors alone: only what differs is sent to the engine.

Writing a point anew costs the analysis of all its texts and a place in the graph; an enrichment changes a field or two.
Measured on 1,000 documents of 384 dimensions and a text field: 0.08 s against 0.24 to 0.75 s for an upsert.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from mediatheca.kernel.documents import Document
from mediatheca.stores.index.points import Raw, encode, newest, point_id

KEPT_VECTORS = "kept_vectors"
"""System field of a row whose vectors are those of an earlier commit: `[number of that commit, number of this one]`."""

NESTED = ("_f", "_internal")
"""Objects of a point's payload of which only what differs is set; the one with the `write_seq` comes last."""
_SCALARS = frozenset((str, int, float, bool, type(None)))
_PLAIN = re.compile(r"[\w-]+")
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class PointPatch:
    """How one point changes: first `removed`, then `values`, then `nested`, so that a crash in between leaves a point
    that is older than its document."""

    point_id: str
    write_seq: int
    removed: tuple[str, ...]
    """JSON paths."""
    values: dict[str, Any]
    nested: tuple[dict[str, Any], ...]
    """What changes in each object of `NESTED`."""


def vectors_since(document: Document) -> int:
    """The number of the commit that wrote the document's vectors; its own number where nobody kept count."""
    since, seq = document.system.get(KEPT_VECTORS) or (0, 0)
    # A row that was copied with its system fields and written otherwise has another number.
    return int(since) if seq == document.write_seq else document.write_seq


def plan_patches(documents: Sequence[Document], held: Iterable[Raw]) -> tuple[list[PointPatch], list[Document]]:
    """Patches for those whose point holds their vectors, and the documents that must be written anew. A point that is
    as new as its document is left out."""
    old = {raw.payload["document_id"]: raw.payload for raw in held}
    patches, rest = [], []
    for document in newest(documents):
        point = old.get(document.document_id)
        seq = -1 if point is None else point["_internal"].get("write_seq", -1)
        if seq >= document.write_seq:
            continue
        patch = None if point is None or seq < vectors_since(document) else _patch(point, document)
        if patch is None:
            rest.append(document)
        else:
            patches.append(patch)
    return patches, rest


def _patch(old: dict[str, Any], document: Document) -> PointPatch | None:
    """None where an engine cannot say it: a name that has to go, or null, which it takes for "remove"."""
    new = encode(document)
    values, gone = _difference(old, new)
    removed = [_quoted(name) for name in gone]
    nested = []
    for key in NESTED:
        values.pop(key, None)
        changed, lost = _difference(old.get(key) or {}, new[key])
        nested.append(changed)
        removed += [None if (name := _quoted(part)) is None else f"{key}.{name}" for part in lost]
    said = [path for path in removed if path is not None]
    if len(said) < len(removed) or any(None in changed.values() for changed in (values, *nested)):
        return None
    return PointPatch(point_id(document.document_id), document.write_seq, tuple(said), values, tuple(nested))


def _difference(old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What is new or other, and the names that are gone."""
    changed = {name: value for name, value in new.items() if name not in old or not _same(old[name], value)}
    return changed, [name for name in old if name not in new]


def _same(one: Any, other: Any) -> bool:
    """As JSON: 1, 1.0 and true are three values."""
    if type(one) is not type(other):
        return False
    return bool(one == other) if type(one) in _SCALARS else _json(one) == _json(other)


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _quoted(name: str) -> str | None:
    """One name as a part of an engine's JSON path."""
    if _PLAIN.fullmatch(name):
        return name
    return None if '"' in name or "\\" in name or not name else f'"{name}"'


def together(changes: Iterable[tuple[str, K]]) -> Iterator[tuple[list[Any], K]]:
    """(point ids, change): equal changes are one, so that a thousand documents of one label cost one operation."""
    found: dict[bytes, tuple[list[Any], K]] = {}
    for ident, change in changes:
        if change:
            found.setdefault(_json(change), ([], change))[0].append(ident)
    yield from found.values()
