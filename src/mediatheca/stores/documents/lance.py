"""Documents in Lance tables: `{root}/{collection_id}.lance`, on a local disk or in an object store.

Why Lance, and the figures behind every choice here: see docs/ARCHITECTURE.md. The rules that experiments forced:
one writer per table that refreshes its handle first; duplicate ids removed before the commit; full rows only; files
forced to disk before and after the manifest; readers on immutable handles.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from typing import Any

import lance
import pyarrow as pa

from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.errors import ConflictError, UnavailableError, ValidationError
from mediatheca.kernel.filters import Filter
from mediatheca.stores.documents.base import NO_TOMBSTONES, Scan, Tombstones, VectorPage
from mediatheca.stores.documents.lance_durability import local_root
from mediatheca.stores.documents.lance_errors import lance_errors
from mediatheca.stores.documents.lance_nearest import nearest_documents
from mediatheca.stores.documents.lance_reads import (
    ALIVE,
    IDS,
    Selection,
    changed_pages,
    count_documents,
    covered_ids,
    get_documents,
    in_list,
    rows,
    scan_documents,
)
from mediatheca.stores.documents.lance_schema import (
    FIXED,
    check_documents,
    encode,
    keep_created,
    missing_fields,
    unique_last,
    vector_columns,
    vector_field,
)
from mediatheca.stores.documents.lance_table import STORAGE_VERSION, LanceTable, row_filter
from mediatheca.stores.documents.lance_vectors import VectorScan

_COLLECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")
_LINEAGE = ["document_id", "object_id", "root_object_id", "created_at"]
_CACHE_BYTES = 128 << 20
"""Each of the two caches (indexes, file metadata), shared by all tables."""


class LanceDocuments:
    """A `DocumentStore`. `uri`: a local path, `file://…`, `s3://…`, `gs://…` or `az://…`.

    `keep_versions` is how long a version stays readable after a newer one: longer than any single page takes to read.
    """

    def __init__(
        self,
        uri: str,
        storage_options: dict[str, str] | None = None,
        *,
        keep_versions: timedelta = timedelta(minutes=10),
    ) -> None:
        self._uri = uri.rstrip("/")
        self._options = storage_options
        self._keep = keep_versions
        self._session = lance.Session(  # type: ignore[attr-defined]
            index_cache_size_bytes=_CACHE_BYTES, metadata_cache_size_bytes=_CACHE_BYTES
        )
        self._tables: dict[str, LanceTable] = {}
        self._lock = threading.Lock()
        self._closed = False

    def _table(self, collection_id: str) -> LanceTable:
        table = self._tables.get(collection_id)
        if table is not None and not self._closed:
            return table
        if self._closed:
            raise UnavailableError("documents: the store is closed; open a new one")
        if not _COLLECTION.fullmatch(collection_id):
            raise ValidationError.at(
                "collection_id", f"'{collection_id}' cannot name a table: letters, digits, '_', '-' and '.' only"
            )
        with self._lock:
            return self._tables.setdefault(
                collection_id,
                LanceTable(f"{self._uri}/{collection_id}.lance", self._options, self._session, self._keep),
            )

    # -- tables

    def ensure(self, collection_id: str, indexes: Sequence[VectorIndex]) -> None:
        table = self._table(collection_id)
        schema = table.schema()
        if schema is None:
            self._make_root()
            table.create(pa.schema([*FIXED, *(vector_field(index) for index in indexes)]))
        elif missing_fields(schema, indexes):
            with table.writing() as handle:
                table.add_columns(handle, missing_fields(handle.schema, indexes))
        if not table.checked:
            table.repair_indexes()

    def _make_root(self) -> None:
        root = local_root(self._uri)
        if root is not None:
            with lance_errors("create the directory", self._uri):
                root.mkdir(parents=True, exist_ok=True)

    def drop_vectors(self, collection_id: str, names: Collection[str]) -> None:
        table = self._table(collection_id)
        if table.schema() is not None:
            with table.writing() as handle:
                held = vector_columns(handle.schema)
                table.drop_columns(handle, [held[name].column for name in names if name in held])

    def drop(self, collection_id: str) -> None:
        self._table(collection_id).drop()
        with self._lock:
            self._tables.pop(collection_id, None)

    def tag(self, collection_id: str, name: str) -> None:
        self._table(collection_id).tag(name)

    def maintain(self, collection_id: str) -> None:
        self._table(collection_id).maintain()

    # -- writing

    def upsert(
        self, collection_id: str, documents: Sequence[Document], write_seq: int, replace_objects: Collection[str] = ()
    ) -> int:
        check_documents(documents)
        table = self._table(collection_id)
        batch = unique_last(documents)
        schema = table.reader().schema
        # Encoding is the long part and can fail: it happens before the lock.
        encoded = encode(batch, schema, write_seq)
        with table.writing() as handle:
            last = table.last_seq(handle)
            if write_seq <= last:
                raise ConflictError(
                    f"collection '{collection_id}': write_seq {write_seq} is not above {last}, which is committed "
                    "already and may be indexed: take the next number while holding the table's lease"
                )
            existing, places, gone = _present(handle, batch, replace_objects)
            if handle.schema != schema:
                encoded = encode(batch, handle.schema, write_seq)
            if gone:
                encoded = pa.concat_tables([encoded, encode(gone, handle.schema, write_seq)])
            if not encoded.num_rows:
                return 0
            if places:
                table.replace(handle, keep_created(encoded, existing), sorted(places), write_seq)
            else:
                table.append(handle, encoded, write_seq)
            return len(gone)

    def purge(self, collection_id: str, tombstones: Tombstones, dead_before: int) -> int:
        table = self._table(collection_id)
        removed = 0
        with table.writing() as handle:
            dead = rows(handle, f"deleted = true AND write_seq <= {dead_before}", ["document_id"])
            doomed = covered_ids(handle, None, tombstones).union(dead["document_id"].to_pylist())
            if doomed:
                removed = table.remove(handle, sorted(doomed))
        return removed

    # -- reading

    def get(
        self,
        collection_id: str,
        document_ids: Sequence[str],
        *,
        tombstones: Tombstones = NO_TOMBSTONES,
        vectors: bool | Collection[str] = False,
    ) -> list[Document]:
        return get_documents(self._table(collection_id), collection_id, document_ids, tombstones, vectors)

    def scan(self, collection_id: str, scan: Scan, *, tombstones: Tombstones = NO_TOMBSTONES) -> Iterator[Document]:
        selection = Selection.of(collection_id, scan.filter, tombstones, scan.object_ids)
        return scan_documents(self._table(collection_id), selection, scan)

    def count(self, collection_id: str, filter: Filter | None = None, *, tombstones: Tombstones = NO_TOMBSTONES,
              object_ids: Collection[str] | None = None) -> int:  # fmt: skip
        return count_documents(self._table(collection_id), Selection.of(collection_id, filter, tombstones, object_ids))

    def changes(self, collection_id: str, after_seq: int, upto_seq: int | None = None) -> Iterator[list[Document]]:
        return changed_pages(self._table(collection_id), collection_id, after_seq, upto_seq)

    def nearest(
        self,
        collection_id: str,
        index: VectorIndex,
        vector: Vector,
        limit: int,
        filter: Filter | None = None,
        *,
        tombstones: Tombstones = NO_TOMBSTONES,
    ) -> list[tuple[float, Document]]:
        selection = Selection.of(collection_id, filter, tombstones)
        return nearest_documents(self._table(collection_id), selection, index, vector, limit)

    def vectors(
        self,
        collection_id: str,
        index: VectorIndex,
        *,
        filter: Filter | None = None,
        tombstones: Tombstones = NO_TOMBSTONES,
        payload: bool | Collection[str] = False,
        batch: int = 8_192,
    ) -> Iterator[VectorPage]:
        selection = Selection.of(collection_id, filter, tombstones)
        return VectorScan(self._table(collection_id), selection, index, payload, batch).pages()

    def last_seq(self, collection_id: str) -> int:
        table = self._table(collection_id)
        with lance_errors("read", table.uri):
            return table.last_seq(table.reader())

    # -- health

    def check(self) -> None:
        """A real table is written, read and removed: the same path that documents take."""
        if self._closed:
            raise UnavailableError("documents: the store is closed; open a new one")
        self._make_root()
        uri = f"{self._uri}/probe-{uuid.uuid4().hex}.lance"
        probe = pa.table({"probe": pa.array([1], pa.int64())})
        with lance_errors("write and read a probe", self._uri):
            try:
                lance.write_dataset(probe, uri, storage_options=self._options, data_storage_version=STORAGE_VERSION)
                if lance.dataset(uri, storage_options=self._options).count_rows() != 1:
                    raise OSError("a probe that was written cannot be read")
            finally:
                lance.LanceDataset.drop(uri, storage_options=self._options, ignore_not_found=True)

    def close(self) -> None:
        self._closed = True
        self._tables.clear()


def _present(
    handle: Any, batch: Sequence[Document], replace_objects: Collection[str]
) -> tuple[dict[str, int], set[int], list[Document]]:
    """What a commit meets: ids that have a row already, with the creation time to keep (microseconds, 0 for a dead
    row); where these rows are; and the dead rows to write for every other live document of the replaced objects."""
    existing: dict[str, int] = {}
    places: set[int] = set()
    ids = [document.document_id for document in batch]
    for page in _look_up(handle, "document_id", ids, None, ["document_id", "deleted", "created_at"]):
        times = (
            created * (not deleted) for created, deleted in zip(_micros(page), page["deleted"].to_pylist(), strict=True)
        )
        existing.update(zip(page["document_id"].to_pylist(), times, strict=True))
        places.update(page["_rowid"].to_pylist())
    fresh = existing.keys() | set(ids)
    gone: dict[str, Document] = {}
    for column in ("object_id", "root_object_id"):
        for page in _look_up(handle, column, sorted(set(replace_objects)), ALIVE, _LINEAGE):
            names = ("document_id", "object_id", "root_object_id", "_rowid")
            columns = (page[name].to_pylist() for name in names)
            for ident, object_id, root_id, place, created in zip(*columns, _micros(page), strict=True):
                if ident not in fresh:
                    gone[ident] = Document(ident, "", {}, object_id=object_id, root_object_id=root_id, deleted=True)
                    existing[ident] = created
                    places.add(place)
    return existing, places, list(gone.values())


def _look_up(
    handle: Any, column: str, values: Sequence[str], condition: str | None, columns: list[str]
) -> Iterator[pa.Table]:
    for start in range(0, len(values), IDS):
        wanted = row_filter(in_list(column, values[start : start + IDS]), condition)
        yield rows(handle, wanted, columns, with_row_id=True)


def _micros(page: pa.Table) -> list[int]:
    times: list[int] = page["created_at"].cast(pa.int64()).to_pylist()
    return times
