"""A collection as a file: JSON lines, CSV, Parquet, or WebDataset shards. Written page by page, so that its size costs
disk and no memory."""

from __future__ import annotations

import csv
import io
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, TypeAlias

import orjson

from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.services import Services
from mediatheca.kernel import clock
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import NotFoundError, PayloadTooLargeError
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.mapping import MISSING, read_path, write_path
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.sparse import is_sparse, to_wire
from mediatheca.stores.db.tx import Record
from mediatheca.stores.documents.base import Scan

Format: TypeAlias = Literal["json", "csv", "parquet", "webdataset"]
MAX_DOCUMENTS = 1_000_000
KEPT_DAYS = 7
SHOWN_SHARDS = 200
MAX_COLUMNS = 10_000
"""Of a table: formats with columns have one for every field of any document."""
MAX_MEDIA = 100 << 30
"""Bytes of source files in one export."""
MAX_MEMBER = 512 << 20
"""Larger source files are left out of shards and counted."""
_PAGE = 1_000
_TYPES = {
    "json": ("application/x-ndjson", "jsonl"), "csv": ("text/csv", "csv"),
    "parquet": ("application/vnd.apache.parquet", "parquet"), "webdataset": ("application/x-tar", "tar"),
}  # fmt: skip
_DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a cell begins that a spreadsheet would run."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What is written, and how."""

    format: Format = "parquet"
    include_vectors: bool = False
    include_lineage: bool = False
    select_fields: Sequence[str] = ()
    filter: Filter | None = None
    sample_size: int | None = None
    include_media: bool = False
    samples_per_shard: int = 1_000


@dataclass(slots=True)
class Exported:
    """Files of an export by their keys, and what was counted."""

    key: str
    documents: int = 0
    size: int = 0
    vectors_key: str | None = None
    shards: list[tuple[str, int, int]] = field(default_factory=list)
    """(key, samples, bytes)."""
    media: dict[str, int] = field(default_factory=dict)


def export_collection(services: Services, scope: Scope, collection: Record, asked: ExportRequest) -> Exported:
    """Write the files into the blob store, below a prefix that is swept after `KEPT_DAYS`.

    Raises:
        PayloadTooLargeError: there are more documents than one export takes.
    """
    export = _Export(services, scope, collection, asked)
    with tempfile.TemporaryDirectory(prefix="mediatheca-export-") as folder:
        return export.write(Path(folder))


@dataclass(slots=True)
class _Export:
    services: Services
    scope: Scope
    collection: Record
    asked: ExportRequest
    prefix: str = ""

    def write(self, folder: Path) -> Exported:
        root = f"{self.scope.organization_id}/{self.scope.namespace_id}/exports"
        _sweep(self.services, root)
        self.prefix = f"{root}/{clock.now():%Y%m%d}/{new_id('exp')}"
        rows, vectors = folder / "rows.jsonl", folder / "vectors.parquet"
        with open(rows, "wb") as file, _VectorFile(vectors, self._names()) as kept:
            count = 0
            for document in self._documents():
                file.write(orjson.dumps(self._row(document), option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z))
                kept.add(document)
                count += 1
        if self.asked.format == "webdataset":
            made = self._shards(rows, folder)
        else:
            made = self._file(rows, folder)
        made.documents = count
        if self.asked.include_vectors:
            made.vectors_key = f"{self.prefix}/vectors.parquet"
            self.services.blobs.put_file(made.vectors_key, vectors, _TYPES["parquet"][0])
        return made

    def _names(self) -> list[str]:
        if not self.asked.include_vectors:
            return []
        return [index.name for index in stored_vectors(self.collection.body)]

    def _documents(self) -> Iterator[Document]:
        with self.services.db.read(self.scope) as tx:
            row = tx.row("document_tables", {"collection_id": self.collection.id})
        if row is None:
            raise NotFoundError("collection", self.collection.id)
        if not row["committed_seq"]:
            return
        dead = self.services.indexer.tombstones(self.scope, self.collection.id)
        wanted, seen, after = self.asked.sample_size or MAX_DOCUMENTS + 1, 0, ""
        while seen < wanted:
            page = Scan(self.asked.filter, after, min(_PAGE, wanted - seen), self._names())
            found = list(self.services.documents.scan(self.collection.id, page, tombstones=dead))
            seen += len(found)
            if seen > MAX_DOCUMENTS:
                raise PayloadTooLargeError(
                    f"more than {MAX_DOCUMENTS:,} documents match; give filters or a sample_size"
                )
            yield from found
            if len(found) < min(_PAGE, wanted):
                return
            after = found[-1].document_id

    def _row(self, document: Document) -> dict[str, Any]:
        payload: dict[str, Any] = document.payload
        if self.asked.select_fields:
            payload = {}
            for path in self.asked.select_fields:
                value = read_path(document.payload, path)
                if value is not MISSING:
                    write_path(payload, path, value)
        row = {"document_id": document.document_id, **payload}
        if self.asked.include_lineage or self.asked.include_media:
            row |= _lineage(document)
        return row

    # ---- one file

    def _file(self, rows: Path, folder: Path) -> Exported:
        kind, suffix = _TYPES[self.asked.format]
        path = folder / f"documents.{suffix}"
        if self.asked.format == "json":
            path = rows
        elif self.asked.format == "csv":
            _write_csv(rows, path)
        else:
            _write_parquet(rows, path)
        key = f"{self.prefix}/documents.{suffix}"
        self.services.blobs.put_file(key, path, kind)
        return Exported(key, size=path.stat().st_size)

    # ---- shards

    def _shards(self, rows: Path, folder: Path) -> Exported:
        made = Exported(f"{self.prefix}/")
        media = _Media(self.services, made) if self.asked.include_media else None
        number, left = 0, True
        with open(rows, "rb") as file:
            while left:
                path = folder / f"documents-{number:06d}.tar"
                samples, left = self._shard(file, path, media)
                if samples or not number:
                    key = f"{self.prefix}/{path.name}"
                    self.services.blobs.put_file(key, path, _TYPES["webdataset"][0])
                    made.shards.append((key, samples, path.stat().st_size))
                    made.size += path.stat().st_size
                path.unlink()
                number += 1
        return made

    def _shard(self, rows: IO[bytes], path: Path, media: _Media | None) -> tuple[int, bool]:
        """Samples in it, and whether there may be more."""
        with tarfile.open(path, "w") as shard:
            for samples in range(self.asked.samples_per_shard):
                line = rows.readline()
                if not line:
                    return samples, False
                row = orjson.loads(line)
                name = _sample_name(row["document_id"])
                _member(shard, f"{name}.json", orjson.dumps(row))
                if media is not None:
                    media.add(shard, name, row)
        return self.asked.samples_per_shard, True


def _lineage(document: Document) -> dict[str, Any]:
    system = document.system
    return {
        "root_object_id": document.root_object_id,
        "source_object_id": document.object_id,
        "lineage_path": system.get("lineage_path"),
        "lineage_chain": system.get("lineage_chain") or [],
        "source_blobs": [blob.get("key") or blob.get("url") for blob in system.get("source_blobs") or []],
    }


def _sample_name(document_id: str) -> str:
    """WebDataset splits names at the first dot, and a sample's name is no path."""
    return "".join(char if char.isalnum() or char in "-_" else "_" for char in document_id)[:200]


def _member(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    shard.addfile(entry, io.BytesIO(data))


@dataclass(slots=True)
class _Media:
    """The files of source objects, as members of a sample."""

    services: Services
    made: Exported

    def add(self, shard: tarfile.TarFile, name: str, row: Mapping[str, Any]) -> None:
        before = self.made.media.get("members_written", 0)
        for number, key in enumerate(key for key in row["source_blobs"] if key and "://" not in key):
            self._file(shard, name, number, key)
        with_media = self.made.media.get("members_written", 0) > before
        self._count("samples_with_media" if with_media else "samples_without_media")

    def _file(self, shard: tarfile.TarFile, name: str, number: int, key: str) -> None:
        found = self.services.blobs.head(key)
        if found is None:
            self._count("objects_not_found")
            return
        if found.size > MAX_MEMBER:
            self._count("members_skipped_too_large")
            return
        if self.made.media.get("media_bytes", 0) + found.size > MAX_MEDIA:
            raise PayloadTooLargeError(f"the source files have more than {MAX_MEDIA >> 30} GB; give filters")
        suffix = PurePosixPath(key).suffix or ".bin"
        entry = tarfile.TarInfo(f"{name}{f'.{number}' if number else ''}{suffix}")
        entry.size = found.size
        with self.services.blobs.open(key) as file:
            shard.addfile(entry, file)
        self._count("members_written")
        self._count("media_bytes", found.size)

    def _count(self, name: str, by: int = 1) -> None:
        self.made.media[name] = self.made.media.get(name, 0) + by


# ---- formats


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, "rb") as file:
        for line in file:
            yield orjson.loads(line)


def _columns(path: Path) -> dict[str, str]:
    """Column → the one kind of all its values: `bool`, `int`, `float`, `text`, or `json` for anything else."""
    kinds: dict[str, set[str]] = {}
    for row in _lines(path):
        for name, value in row.items():
            kinds.setdefault(name, set()).add(_kind(value))
        if len(kinds) > MAX_COLUMNS:
            raise PayloadTooLargeError(f"the documents have more than {MAX_COLUMNS:,} fields; use json, or choose some")
    return {name: _common(found - {"null"}) for name, found in kinds.items()} or {"document_id": "text"}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "json"
    return "float" if isinstance(value, float) else "text" if isinstance(value, str) else "json"


def _common(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "float" if kinds == {"int", "float"} else "text" if not kinds else "json"


def _write_csv(rows: Path, path: Path) -> None:
    names = list(_columns(rows))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_cell(name) for name in names])
        for row in _lines(rows):
            writer.writerow([_cell(row.get(name)) for name in names])


def _cell(value: Any) -> Any:
    """Nested values as JSON; a text that a spreadsheet would take for a formula is quoted."""
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    return f"'{value}" if isinstance(value, str) and value.startswith(_DANGEROUS) else value


def _write_parquet(rows: Path, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = _columns(rows)
    types = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.string(), "json": pa.string()}
    schema = pa.schema([pa.field(name, types[kind]) for name, kind in kinds.items()])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for row in _lines(rows):
            batch.append({name: _stored(row.get(name), kind) for name, kind in kinds.items()})
            if len(batch) == _PAGE:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                batch = []
        if batch:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))


def _stored(value: Any, kind: str) -> Any:
    if value is None or kind != "json":
        return float(value) if kind == "float" and value is not None else value
    return orjson.dumps(value).decode()


class _VectorFile:
    """Vectors beside the documents: one row a document, one column an index. Without names nothing is written."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._path, self._names = path, names
        self._writer: Any = None
        self._rows: list[dict[str, Any]] = []
        self._schema: Any = None

    def __enter__(self) -> _VectorFile:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._names:
            columns = [pa.field(name, pa.string()) for name in ("document_id",)]
            self._schema = pa.schema([*columns, *(pa.field(name, pa.string()) for name in self._names)])
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        return self

    def add(self, document: Document) -> None:
        if self._writer is None:
            return
        row: dict[str, Any] = {"document_id": document.document_id}
        for name in self._names:
            vector = document.vectors.get(name)
            if vector is not None:
                wire = to_wire(vector) if is_sparse(vector) else vector.tolist()
                row[name] = orjson.dumps(wire).decode()
        self._rows.append(row)
        if len(self._rows) == _PAGE:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def __exit__(self, *reason: object) -> None:
        if self._writer is not None:
            self._flush()
            self._writer.close()


def _sweep(services: Services, root: str) -> None:
    """Exports of the namespace that are older than they are kept; their keys begin with the day."""
    oldest = f"{clock.now() - timedelta(days=KEPT_DAYS):%Y%m%d}"
    old = {key.split("/")[-3] for key in _keys(services, root)}
    for day in sorted(day for day in old if day < oldest):
        services.blobs.delete_prefix(f"{root}/{day}/")


def _keys(services: Services, root: str) -> Iterator[str]:
    for info in services.blobs.list(f"{root}/"):
        if info.key.count("/") == root.count("/") + 3:
            yield info.key
