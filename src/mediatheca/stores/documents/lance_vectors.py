"""Every vector of an index as matrices, in the order of storage: for what looks at whole collections."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.stores.documents.base import Tombstones, VectorPage
from mediatheca.stores.documents.lance_errors import lance_errors
from mediatheca.stores.documents.lance_reads import Selection
from mediatheca.stores.documents.lance_schema import FIXED, VectorColumn, decode, flat_matrix, vector_columns
from mediatheca.stores.documents.lance_table import LanceTable

_READ_AHEAD = 2
"""Batches read before they are asked for: Lance's own number holds hundreds of megabytes."""

Rows = npt.NDArray[np.bool_]


@dataclass(slots=True)
class VectorScan:
    """One pass over a table. `payload`: whether, or which top-level fields of it, come along."""

    table: LanceTable
    selection: Selection
    index: VectorIndex
    payload: bool | Collection[str]
    batch: int
    _seen: list[npt.NDArray[np.int64]] = field(default_factory=list)
    """Hashes of the ids of each page that was given out."""

    def pages(self) -> Iterator[VectorPage]:
        """When a cleanup takes files away in the middle, the rest is read from the newest version.

        Raises:
            ValidationError: the index is sparse, which has no matrix.
        """
        if self.index.sparse:
            raise ValidationError.at("index", f"'{self.index.name}' is sparse: it cannot be read as a matrix", "sparse")
        while True:
            handle = self.table.reader()
            try:
                yield from self._pages(handle)
                return
            except UnavailableError:
                if not self.table.restart(handle):
                    raise

    def _pages(self, handle: Any) -> Iterator[VectorPage]:
        column = vector_columns(handle.schema).get(self.index.name)
        before = np.concatenate(self._seen) if self._seen else None
        for rows in self._tables(handle, column):
            ids = rows["document_id"].to_pylist()
            hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
            kept = self._kept(rows, ids)
            if before is not None:
                kept &= ~np.isin(hashes, before)
            self._seen.append(hashes)
            if kept.any():
                yield self._page(rows, ids, kept, column)

    def _tables(self, handle: Any, column: VectorColumn | None) -> Iterator[pa.Table]:
        """Tables of about `batch` rows: commits of single documents leave fragments of one row."""
        wanted = ["document_id", "write_seq", *self._extra(), *([column.column] if column else [])]
        options = {"batch_size": self.batch, "batch_readahead": _READ_AHEAD, "fragment_readahead": _READ_AHEAD}
        held: list[pa.RecordBatch] = []
        with lance_errors("read", handle.uri):
            scanner = handle.scanner(columns=list(dict.fromkeys(wanted)), filter=self.selection.native, **options)
            batches = iter(scanner.to_batches())
        while (found := _next(batches, handle.uri)) is not None:
            held.append(found)
            if sum(batch.num_rows for batch in held) >= self.batch:
                yield pa.Table.from_batches(held)
                held = []
        if held:
            yield pa.Table.from_batches(held)

    def _extra(self) -> list[str]:
        if self.selection.filter is not None:
            return list(FIXED.names)
        dead = self.selection.tombstones
        lineage = ["object_id", "root_object_id"] if dead.objects else []
        return [*lineage, *(["payload"] if self.payload is not False else [])]

    def _kept(self, rows: pa.Table, ids: list[str]) -> Rows:
        if self.selection.filter is not None:
            documents = decode(rows.select(FIXED.names), self.selection.collection_id)
            return np.fromiter(map(self.selection.keeps, documents), bool, len(ids))
        return ~_covered(rows, ids, self.selection.tombstones)

    def _page(self, rows: pa.Table, ids: list[str], kept: Rows, column: VectorColumn | None) -> VectorPage:
        has = np.zeros(len(ids), bool)
        tokens, offsets = np.empty((0, self.index.dimensions), np.float32), np.zeros(1, np.int64)
        if column is not None:
            array = rows[column.column].combine_chunks()
            has = array.is_valid().to_numpy(zero_copy_only=False)
            tokens, offsets = _tokens(array, column, kept[has])
        chosen = np.flatnonzero(kept & has)
        return VectorPage(
            document_ids=[ids[at] for at in chosen],
            vectors=tokens,
            write_seqs=rows["write_seq"].to_numpy()[chosen],
            payloads=self._payloads(rows, chosen),
            offsets=offsets,
            without=int(kept.sum()) - len(chosen),
        )

    def _payloads(self, rows: pa.Table, chosen: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
        if self.payload is False:
            return []
        texts = rows["payload"].to_pylist()
        found = (orjson.loads(texts[at]) for at in chosen)
        if self.payload is True:
            return list(found)
        names = tuple(self.payload)
        return [{name: payload[name] for name in names if name in payload} for payload in found]


def _next(batches: Iterator[pa.RecordBatch], uri: str) -> pa.RecordBatch | None:
    with lance_errors("read", uri):
        return next(batches, None)


def _tokens(array: Any, column: VectorColumn, kept: Rows) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The rows of the kept vectors, and where each begins. `kept`: of the rows that have one."""
    if not column.multi:
        matrix = flat_matrix(array, column.dimensions)
        matrix = matrix if kept.all() else matrix[kept]
        return matrix, np.arange(len(matrix) + 1)
    present = array.drop_null().filter(pa.array(kept))
    lengths = present.value_lengths().to_numpy(zero_copy_only=False)
    return flat_matrix(present.flatten(), column.dimensions), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _covered(rows: pa.Table, ids: list[str], dead: Tombstones) -> Rows:
    """Which rows a tombstone covers."""
    found = np.zeros(len(ids), bool)
    seqs = rows["write_seq"].to_numpy()
    sources = [(ids, dead.documents)]
    if dead.objects:
        sources += [(rows[name].to_pylist(), dead.objects) for name in ("object_id", "root_object_id")]
    for keys, entries in sources:
        if entries:
            found |= seqs <= np.fromiter((entries.get(key, -1) for key in keys), np.int64, len(ids))
    return found
