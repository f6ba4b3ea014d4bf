"""Reading one table: what lives, in which order, and what Lance cannot decide and is rechecked here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.filters import Filter, document_view
from mediatheca.kernel.present import system_fields
from mediatheca.stores.documents.base import Scan, Tombstones
from mediatheca.stores.documents.lance_errors import lance_errors
from mediatheca.stores.documents.lance_filters import lance_bounds
from mediatheca.stores.documents.lance_schema import decode, quote, read_columns
from mediatheca.stores.documents.lance_table import LanceTable, row_filter

PAGE = 1000
"""Rows decoded at a time."""
KEYS = 16_384
"""Ids sorted at a time by an unlimited scan."""
IDS = 1000
"""Ids in one SQL list."""
ALIVE = "deleted = false"
_TOMBSTONE_COLUMNS = ["document_id", "object_id", "root_object_id", "write_seq"]

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Selection:
    """Live documents that match a filter: the part Lance decides, and whether the rest needs a look at the payload."""

    collection_id: str
    native: str | None
    filter: Filter | None
    """What has to be rechecked; None when `native` says it all."""
    tombstones: Tombstones
    certain: str | None = None
    """Rows of `native` that match without a recheck; None: none are known."""

    @classmethod
    def of(cls, collection_id: str, filter: Filter | None, tombstones: Tombstones,
           object_ids: Collection[str] | None = None) -> Selection:  # fmt: skip
        base = ALIVE if object_ids is None else row_filter(ALIVE, _object_filter(object_ids))
        if filter is None:
            return cls(collection_id, base, None, tombstones)
        found = lance_bounds(filter, collection_id)
        native = row_filter(base, found.upper)
        if found.exact:
            return cls(collection_id, native, None, tombstones)
        certain = None if found.lower is None else row_filter(base, found.lower)
        return cls(collection_id, native, filter, tombstones, certain)

    def keeps(self, document: Document) -> bool:
        """The part of the decision that Lance did not make."""
        if self.tombstones.cover(document):
            return False
        if self.filter is None:
            return True
        view = document_view(document.payload, document.document_id, self.collection_id, system_fields(document))
        return bool(self.filter.matches(view))


def rows(handle: Any, condition: str | None, columns: list[str], **options: Any) -> pa.Table:
    """One scan of an immutable handle."""
    with lance_errors("read", handle.uri):
        return handle.scanner(columns=columns, filter=condition, **options).to_table()


def again(table: LanceTable, read: Callable[[Any], Result]) -> Result:
    """`read(handle)`, once more on a newer handle when a cleanup removed files from under the first."""
    handle = table.reader()
    try:
        return read(handle)
    except UnavailableError:
        if not table.restart(handle):
            raise
        return read(table.reader())


def in_list(column: str, values: Sequence[str]) -> str:
    return f"{column} IN ({quote(values)})"


def get_documents(
    table: LanceTable,
    collection_id: str,
    document_ids: Sequence[str],
    tombstones: Tombstones,
    vectors: bool | Collection[str],
) -> list[Document]:
    """Live documents in the order asked, each once per time it was asked for."""

    def read(handle: Any) -> dict[str, Document]:
        columns = read_columns(handle.schema, vectors)
        found: dict[str, Document] = {}
        wanted = list(dict.fromkeys(document_ids))
        for start in range(0, len(wanted), IDS):
            # Without `deleted`: the filter stays a pure look-up in one index.
            page = rows(handle, in_list("document_id", wanted[start : start + IDS]), columns)
            found |= {d.document_id: d for d in decode(page, collection_id)}
        return found

    found = again(table, read) if document_ids else {}
    asked = (found.get(ident) for ident in document_ids)
    return [d for d in asked if d is not None and not d.deleted and not tombstones.cover(d)]


def scan_documents(table: LanceTable, selection: Selection, scan: Scan) -> Iterator[Document]:
    """Ascending by id. Goes on from the last id when a cleanup takes files away in the middle."""
    after, left = scan.after, scan.limit
    if scan.object_ids is not None and not scan.object_ids:
        return
    while left is None or left > 0:
        size = KEYS if left is None else min(max(left, 100), KEYS)
        handle = table.reader()
        try:
            keys = _keys(handle, selection, scan, after, size)
            for document in _fetch(handle, selection.collection_id, keys, scan.vectors):
                after = document.document_id
                if selection.keeps(document):
                    yield document
                    left = None if left is None else left - 1
                    if left == 0:
                        return
        except UnavailableError:
            if not table.restart(handle):
                raise
            continue
        if keys.num_rows < size:
            return


def _keys(handle: Any, selection: Selection, scan: Scan, after: str, size: int) -> pa.Table:
    """The next ids in order with the places of their rows."""
    condition = row_filter(selection.native, f"document_id > {quote([after])}" if after else None)
    # Only an object filter is selective; for half a table the index costs twice a plain scan of the ids.
    return rows(
        handle,
        condition,
        ["document_id"],
        with_row_id=True,
        order_by=["document_id"],
        limit=size,
        use_scalar_index=scan.object_ids is not None,
    )


def _object_filter(object_ids: Collection[str]) -> str:
    ids = sorted(object_ids)
    if not ids:
        return "false"
    return f"{in_list('object_id', ids)} OR {in_list('root_object_id', ids)}"


def _fetch(handle: Any, collection_id: str, keys: pa.Table, vectors: bool | Collection[str]) -> Iterator[Document]:
    """Whole documents for `keys`, in their order, a page at a time."""
    columns = read_columns(handle.schema, vectors)
    places = keys["_rowid"].to_pylist()
    for start in range(0, len(places), PAGE):
        yield from fetch_rows(handle, collection_id, places[start : start + PAGE], columns)


def fetch_rows(handle: Any, collection_id: str, places: Sequence[int], columns: list[str]) -> list[Document]:
    """Documents at the given row ids of this very version, in the order given."""
    if not places:
        return []
    condition = f"_rowid IN ({','.join(map(str, places))})"
    page = rows(handle, condition, columns, with_row_id=True)
    by_place = dict(zip(page["_rowid"].to_pylist(), decode(page, collection_id), strict=True))
    return [by_place[place] for place in places]


def count_documents(table: LanceTable, selection: Selection) -> int:
    """Counts in Lance; reads rows only for tombstones, and those that a filter leaves undecided."""

    def read(handle: Any) -> int:
        if selection.filter is None:
            return _count(handle, selection.native, selection.tombstones)
        certain = selection.certain
        if certain is None:
            return _count_rechecked(handle, selection, selection.native)
        undecided = row_filter(selection.native, f"NOT ({certain})")
        return _count(handle, certain, selection.tombstones) + _count_rechecked(handle, selection, undecided)

    return again(table, read)


def _count(handle: Any, condition: str | None, tombstones: Tombstones) -> int:
    with lance_errors("count", handle.uri):
        total = int(handle.count_rows(condition))
    return total - len(covered_ids(handle, condition, tombstones))


def _count_rechecked(handle: Any, selection: Selection, condition: str | None) -> int:
    columns = read_columns(handle.schema, False)
    total = 0
    with lance_errors("count", handle.uri):
        for batch in handle.scanner(columns=columns, filter=condition, batch_size=PAGE).to_batches():
            documents = decode(pa.Table.from_batches([batch]), selection.collection_id)
            total += sum(map(selection.keeps, documents))
    return total


def covered_ids(handle: Any, condition: str | None, tombstones: Tombstones) -> set[str]:
    """Ids of rows under `condition` that the tombstones cover."""
    found: set[str] = set()
    sources = (
        ("document_id", tombstones.documents),
        ("object_id", tombstones.objects),
        ("root_object_id", tombstones.objects),
    )
    for column, entries in sources:
        keys = list(entries)
        for start in range(0, len(keys), IDS):
            page = rows(handle, row_filter(condition, in_list(column, keys[start : start + IDS])), _TOMBSTONE_COLUMNS)
            found.update(_covered(page, column, entries.__getitem__))
    return found


def _covered(page: pa.Table, column: str, upto: Callable[[str], int]) -> Iterator[str]:
    columns = (page[name].to_pylist() for name in ("document_id", column, "write_seq"))
    return (ident for ident, key, seq in zip(*columns, strict=True) if seq <= upto(key))


def changed_pages(table: LanceTable, collection_id: str, after: int, upto: int | None) -> Iterator[list[Document]]:
    """Pages in ascending `write_seq`. A page never ends inside a commit, so its last number is a safe watermark.

    Each page reads the newest version: a row that was written again meanwhile comes under its later number.
    """

    def windows(handle: Any) -> list[tuple[int, int]]:
        condition = row_filter(f"write_seq > {after}", None if upto is None else f"write_seq <= {upto}")
        seqs = rows(handle, condition, ["write_seq"])["write_seq"].to_numpy()
        return _windows(seqs, after)

    for low, high in again(table, windows):
        page = again(table, lambda handle, low=low, high=high: _page(handle, collection_id, low, high))  # type: ignore[misc]
        if page:
            yield page


def _windows(seqs: Any, after: int) -> list[tuple[int, int]]:
    """Ranges (low, high] of whole commits with about `PAGE` rows each."""
    numbers, sizes = np.unique(seqs, return_counts=True)
    found: list[tuple[int, int]] = []
    low, filled = after, 0
    for position, (number, size) in enumerate(zip(numbers.tolist(), sizes.tolist(), strict=True)):
        filled += size
        last = position + 1 == len(numbers)
        if last or filled + int(sizes[position + 1]) > PAGE:
            found.append((low, number))
            low, filled = number, 0
    return found


def _page(handle: Any, collection_id: str, low: int, high: int) -> list[Document]:
    condition = f"write_seq > {low} AND write_seq <= {high}"
    page = decode(rows(handle, condition, read_columns(handle.schema, True)), collection_id)
    return sorted(page, key=lambda document: (document.write_seq, document.document_id))
