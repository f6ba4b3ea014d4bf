"""The labels of a join in memory: a matrix of vectors and the fields that are read of each label document."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mediatheca.flows.indexing import Indexer
from mediatheca.flows.taxonomies.ways import MAX_LABELS
from mediatheca.kernel.filters import to_wire
from mediatheca.kernel.hierarchy import MAX_NODES, path_of
from mediatheca.kernel.hits import value_key
from mediatheca.kernel.mapping import MISSING, read_path, write_path
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.taxonomies import Chain, Join, Side, label_of, needed_paths
from mediatheca.stores.documents.base import Scan

MAX_BYTES = 256 << 20
"""Of all tables that are kept; the one in use may be larger."""
MAX_ANCESTORS = 20


class TooManyLabels(Exception):
    """There are more than fit into memory: the index must be asked."""


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Rows in the order of their ids."""

    ids: list[str]
    matrix: npt.NDArray[np.float32]
    """Shape (labels, dimensions)."""
    fields: list[Mapping[str, Any]]
    chains: Chain = field(default_factory=dict)
    digest: str = ""
    """Of everything above."""


class LabelTables:
    """Keeps the tables that were used last; one per process. A table is read again when its collection has changed."""

    def __init__(self, indexer: Indexer, max_bytes: int = MAX_BYTES) -> None:
        self._indexer = indexer
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, tuple[int, LabelTable]] = OrderedDict()

    def get(self, side: Side, join: Join) -> LabelTable:
        """The labels of a side.

        Raises:
            TooManyLabels: ask the index.
            NotFoundError: their collection is gone.
        """
        version = self._indexer.version(join.collection_id)
        key = value_key(
            [join.collection_id, join.index.name, to_wire(join.keep) if join.keep else None, needed_paths(side),
             side.parent_field, side.label_field]
        )  # fmt: skip
        with self._lock:
            held = self._kept.get(key)
            if held is not None and held[0] == version:
                self._kept.move_to_end(key)
                return held[1]
        table = self._read(side, join)
        if version is not None:
            self._keep(key, version, table)
        return table

    def _keep(self, key: bytes, version: int, table: LabelTable) -> None:
        with self._lock:
            self._kept[key] = (version, table)
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(t.matrix.nbytes for _, t in self._kept.values()) > self._max_bytes:
                self._kept.popitem(last=False)

    def _read(self, side: Side, join: Join) -> LabelTable:
        ids: list[str] = []
        parts: list[npt.NDArray[np.float32]] = []
        fields: list[Mapping[str, Any]] = []
        paths = needed_paths(side)
        if not self._indexer.unwritten(join.collection_id):
            dead = self._indexer.tombstones_of(join.collection_id)
            heads = True if paths is None else {path.partition(".")[0] for path in paths}
            pages = self._indexer.documents.vectors(
                join.collection_id, join.index, filter=join.keep, tombstones=dead, payload=heads
            )
            for page in pages:
                ids += page.document_ids
                if len(ids) > MAX_LABELS:
                    raise TooManyLabels
                parts.append(np.array(page.vectors, np.float32))
                fields += [_only(payload, paths) for payload in page.payloads]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        matrix = np.concatenate(parts) if parts else np.empty((0, join.index.dimensions), np.float32)
        ids, fields = [ids[n] for n in order], [fields[n] for n in order]
        matrix = np.ascontiguousarray(matrix[order])
        made = hashlib.blake2b(value_key([ids, fields]), digest_size=12)
        made.update(matrix.tobytes())
        chains = chains_of(side, ids, fields) if side.parent_field else {}
        return LabelTable(ids, matrix, fields, chains, made.hexdigest())


def _only(payload: Mapping[str, Any], paths: Sequence[str] | None) -> Mapping[str, Any]:
    if paths is None:
        return payload
    kept: dict[str, Any] = {}
    for path in paths:
        value = read_path(payload, path)
        if value is not MISSING:
            if path in payload:
                kept[path] = value
            else:
                write_path(kept, path, value)
    return kept


def label_paths(indexer: Indexer, scope: Scope, body: Mapping[str, Any], limit: int = MAX_NODES) -> list[str]:
    """The paths that the label documents of a hierarchy have, written with its separator."""
    config = body["config"]
    field_, separator = config.get("path_field"), config.get("path_separator") or "/"
    found: dict[str, None] = {}
    for collection_id in body["labels"] if field_ else ():
        if indexer.unwritten(collection_id):
            continue
        dead = indexer.tombstones(scope, collection_id)
        for document in indexer.documents.scan(collection_id, Scan(), tombstones=dead):
            value = read_path(document.payload, field_)
            steps = path_of(None if value is MISSING else value, separator)
            if steps:
                found[separator.join(steps)] = None
            if len(found) >= limit:
                return sorted(found)
    return sorted(found)


def chains_of(side: Side, ids: Sequence[str], fields: Sequence[Mapping[str, Any]]) -> Chain:
    """Label document → (node id, label) from the root to itself, by the id or the label that its parent field names.

    A circle ends where it closes.
    """
    labels = {ident: label_of(side, held, ident) for ident, held in zip(ids, fields, strict=True)}
    by_label = {label: ident for ident, label in reversed(labels.items())}
    above = {ident: _parent(side, held, labels, by_label) for ident, held in zip(ids, fields, strict=True)}
    return {ident: _chain(ident, above.__getitem__, labels) for ident in ids}


def _parent(side: Side, held: Mapping[str, Any], labels: Mapping[str, str], by_label: Mapping[str, str]) -> str:
    named = read_path(held, side.parent_field)
    if not isinstance(named, str) or not named:
        return ""
    return named if named in labels else by_label.get(named, "")


def _chain(ident: str, above: Callable[[str], str], labels: Mapping[str, str]) -> list[tuple[str, str]]:
    found = [ident]
    parent = above(ident)
    while parent and parent not in found and len(found) < MAX_ANCESTORS:
        found.append(parent)
        parent = above(parent)
    return [(name, labels[name]) for name in reversed(found)]
