"""Documents to Arrow and back: the columns of a table, one per fixed field and one per vector index."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from mediatheca.kernel.clock import now
from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.errors import ConflictError, ValidationError
from mediatheca.stores.documents.lance_sparse import SPARSE_TYPE, encode_sparse, is_sparse_type, split_sparse
from mediatheca.stores.documents.payloads import encode_json

_JSON = pa.json_(pa.utf8())
_TIME = pa.timestamp("us", tz="UTC")
_NAME_KEY = b"mediatheca.index"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MAX_ID = 512

FIXED = pa.schema(
    [
        pa.field("document_id", pa.utf8(), nullable=False),
        pa.field("object_id", pa.utf8(), nullable=False),
        pa.field("root_object_id", pa.utf8(), nullable=False),
        pa.field("write_seq", pa.int64(), nullable=False),
        pa.field("deleted", pa.bool_(), nullable=False),
        pa.field("created_at", _TIME, nullable=False),
        pa.field("updated_at", _TIME, nullable=False),
        pa.field("payload", _JSON, nullable=False),
        pa.field("system", _JSON, nullable=False),
    ]
)
INDEXED = ("document_id", "object_id", "root_object_id", "write_seq")
"""Columns with a BTREE."""


@dataclass(frozen=True, slots=True)
class VectorColumn:
    """Where the vectors of one index live."""

    name: str
    column: str
    dimensions: int
    multi: bool
    sparse: bool = False


def column_name(index_name: str) -> str:
    """A column name that is safe in SQL and unique per index, whatever characters the index name has."""
    slug = re.sub(r"[^a-z0-9_]", "_", index_name.lower())
    if slug == index_name:
        return f"v_{slug}"
    return f"v_{slug}_{hashlib.sha256(index_name.encode()).hexdigest()[:8]}"


def vector_field(index: VectorIndex) -> pa.Field:
    """The column of an index: FixedSizeList<float32>[dimensions], a list of those for a multi-vector, a list of
    (index, value) for a sparse one."""
    kind: pa.DataType = SPARSE_TYPE if index.sparse else pa.list_(pa.float32(), index.dimensions)
    if index.multi:
        kind = pa.list_(kind)
    return pa.field(column_name(index.name), kind, metadata={_NAME_KEY: index.name.encode()})


def vector_columns(schema: pa.Schema) -> dict[str, VectorColumn]:
    """The vector columns of a table by index name."""
    found = {}
    for field in schema:
        name = (field.metadata or {}).get(_NAME_KEY)
        if name is not None:
            if is_sparse_type(field.type):
                found[name.decode()] = VectorColumn(name.decode(), field.name, 0, False, sparse=True)
                continue
            multi = not pa.types.is_fixed_size_list(field.type)
            size = (field.type.value_type if multi else field.type).list_size
            found[name.decode()] = VectorColumn(name.decode(), field.name, size, multi)
    return found


def missing_fields(schema: pa.Schema, indexes: Sequence[VectorIndex]) -> list[pa.Field]:
    """The columns that `indexes` need and the table lacks.

    Raises:
        ConflictError: an index exists with another shape.
    """
    present = vector_columns(schema)
    missing = []
    for index in indexes:
        column = present.get(index.name)
        if column is None:
            missing.append(vector_field(index))
        elif (column.dimensions, column.multi, column.sparse) != (index.dimensions, index.multi, index.sparse):
            raise ConflictError(f"vector index '{index.name}' already holds {_shape(column)}, "
                                f"not {_shape(index)}: use another name or a new collection")  # fmt: skip
    return missing


def check_documents(documents: Iterable[Document]) -> None:
    """Ids must be usable as keys; the error names the document."""
    for document in documents:
        for field in ("document_id", "object_id", "root_object_id"):
            fault = _id_fault(getattr(document, field), optional=field != "document_id")
            if fault:
                raise ValidationError.at(("documents", str(document.document_id), field), fault, "id")


def _id_fault(value: object, *, optional: bool) -> str:
    if not isinstance(value, str):
        return f"must be a string, got {type(value).__name__}"
    if not (optional or value):
        return "must not be empty"
    if len(value) > _MAX_ID:
        return f"must have at most {_MAX_ID} characters, got {len(value)}"
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        return "must be plain Unicode text without NUL"
    return ""


def encode(documents: Sequence[Document], schema: pa.Schema, write_seq: int) -> pa.Table:
    """Rows of one commit, with every column of the table.

    Raises:
        ValidationError: a vector of the wrong shape or with a value that is not finite, or a payload that is not JSON.
    """
    moment = _micros(now())
    columns = {
        "document_id": pa.array([d.document_id for d in documents], pa.utf8()),
        "object_id": pa.array([d.object_id for d in documents], pa.utf8()),
        "root_object_id": pa.array([d.root_object_id for d in documents], pa.utf8()),
        "write_seq": pa.array(np.full(len(documents), write_seq, np.int64)),
        "deleted": pa.array([d.deleted for d in documents], pa.bool_()),
        "created_at": _times([_micros(d.created_at) or moment for d in documents]),
        "updated_at": _times([_micros(d.updated_at) or moment for d in documents]),
        "payload": _json([b"{}" if d.deleted else encode_json(d.payload, d.document_id, "payload") for d in documents]),
        "system": _json([b"{}" if d.deleted else encode_json(d.system, d.document_id, "system") for d in documents]),
    }
    columns |= encode_vectors(documents, schema)
    return pa.table([columns[name] for name in schema.names], schema=schema_of(schema, columns))


def keep_created(rows: pa.Table, created: Mapping[str, int]) -> pa.Table:
    """The rows with the creation time (microseconds) of those that exist already."""
    given = zip(rows["document_id"].to_pylist(), rows["created_at"].cast(pa.int64()).to_pylist(), strict=True)
    times = _times([created.get(ident) or time for ident, time in given])
    position = rows.schema.get_field_index("created_at")
    return rows.set_column(position, rows.schema.field(position), times)


def schema_of(schema: pa.Schema, columns: Mapping[str, pa.Array]) -> pa.Schema:
    """The table's schema with the types as written: Lance reports its JSON columns as it stores them."""
    return pa.schema([field.with_type(columns[field.name].type) for field in schema])


def encode_vectors(documents: Sequence[Document], schema: pa.Schema) -> dict[str, pa.Array]:
    """One Arrow array per vector column; a document without that vector has null there."""
    specs = vector_columns(schema)
    for document in documents:
        unknown = document.vectors.keys() - specs.keys()
        if unknown:
            known = ", ".join(sorted(specs)) or "none"
            raise _vector_error(document, min(unknown), f"is no vector index of the collection; it has: {known}")
    return {spec.column: _vectors(documents, spec) for spec in specs.values()}


def _vectors(documents: Sequence[Document], spec: VectorColumn) -> pa.Array:
    owners = [d for d in documents if spec.name in d.vectors and not d.deleted]
    blocks = [] if spec.sparse else [_checked(d, spec) for d in owners]
    have = np.fromiter((spec.name in d.vectors and not d.deleted for d in documents), bool, len(documents))
    if spec.sparse:
        return encode_sparse([d.vectors[spec.name] if has else None for d, has in zip(documents, have, strict=True)],
                             lambda row, error: _vector_error(documents[row], spec.name, error))  # fmt: skip
    if spec.multi:
        flat = np.concatenate(blocks) if blocks else np.empty((0, spec.dimensions), np.float32)
        _check_finite(flat, np.repeat(np.arange(len(blocks)), [len(block) for block in blocks]), owners, spec)
        lengths = np.zeros(len(documents), np.int64)
        lengths[have] = [len(block) for block in blocks]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), _fixed(flat), mask=pa.array(~have))
    matrix = np.zeros((len(documents), spec.dimensions), np.float32)
    if blocks:
        matrix[have] = np.stack(blocks)
        _check_finite(matrix[have], np.arange(len(blocks)), owners, spec)
    return _fixed(matrix, pa.array(~have))


def _fixed(matrix: npt.NDArray[np.float32], mask: pa.Array | None = None) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1], mask=mask)


def _checked(document: Document, spec: VectorColumn) -> Vector:
    """The vector as float32, or a ValidationError that says which shape the index takes."""
    given = document.vectors[spec.name]
    try:
        with np.errstate(over="ignore"):
            vector = np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise _vector_error(document, spec.name, f"is not an array of numbers: {error}") from error
    fits = vector.ndim == 1 + spec.multi and vector.shape[-1] == spec.dimensions and len(vector) > 0
    if not fits:
        raise _vector_error(document, spec.name, f"has shape {vector.shape}; the index takes {_shape(spec)}")
    return vector


def _check_finite(
    rows: npt.NDArray[np.float32], owner: npt.NDArray[np.int64], owners: Sequence[Document], spec: VectorColumn
) -> None:
    if not np.isfinite(rows).all():
        row = int(np.argmin(np.isfinite(rows).all(axis=1)))
        raise _vector_error(owners[int(owner[row])], spec.name, "holds NaN or infinity; every value must be finite")


def _shape(of: VectorColumn | VectorIndex) -> str:
    if of.sparse:
        return "sparse vectors"
    return f"(tokens, {of.dimensions}) with at least one token" if of.multi else f"({of.dimensions},)"


def _vector_error(document: Document, name: str, message: str) -> ValidationError:
    return ValidationError.at(("documents", document.document_id, "vectors", name), message, "vector")


def _json(texts: list[bytes]) -> pa.Array:
    return pa.ExtensionArray.from_storage(_JSON, pa.array(texts, pa.utf8()))


def _times(micros: list[int]) -> pa.Array:
    return pa.array(np.array(micros, np.int64)).cast(_TIME)


def _micros(moment: datetime | None) -> int:
    """Microseconds since 1970, exact; a naive time is UTC; 0 for none."""
    if moment is None:
        return 0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND


def read_columns(schema: pa.Schema, vectors: bool | Collection[str]) -> list[str]:
    """The columns to read for whole documents with all, none or some vectors; unknown index names read nothing."""
    specs = vector_columns(schema).values()
    wanted = [spec.column for spec in specs if vectors is True or (vectors is not False and spec.name in vectors)]
    return [*FIXED.names, *wanted]


def decode(table: pa.Table, collection_id: str) -> list[Document]:
    """Documents of rows read with `read_columns`, in the order of the rows. Vectors are read-only views."""
    text = {name: table[name].to_pylist() for name in ("document_id", "object_id", "root_object_id")}
    rows = zip(
        text["document_id"],
        repeat(collection_id),
        map(orjson.loads, table["payload"].to_pylist()),
        _decode_vectors(table),
        text["object_id"],
        text["root_object_id"],
        map(orjson.loads, table["system"].to_pylist()),
        _moments(table["created_at"]),
        _moments(table["updated_at"]),
        table["write_seq"].to_pylist(),
        table["deleted"].to_pylist(),
        strict=False,
    )
    return [Document(*row) for row in rows]


def _moments(column: pa.ChunkedArray) -> Iterator[datetime]:
    """Rows of one commit share their times, so few are computed."""
    micros = column.cast(pa.int64()).to_pylist()
    known = {number: _EPOCH + timedelta(microseconds=number) for number in set(micros)}
    return map(known.__getitem__, micros)


def _decode_vectors(table: pa.Table) -> list[dict[str, Vector]]:
    found: list[dict[str, Vector]] = [{} for _ in range(table.num_rows)]
    for spec in vector_columns(table.schema).values():
        array = table[spec.column].combine_chunks()
        rows = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False))
        for row, vector in zip(rows.tolist(), split_vectors(array, spec), strict=True):
            found[row][spec.name] = vector
    return found


def split_vectors(array: Any, spec: VectorColumn) -> Iterable[Vector]:
    """The vectors of the rows that have one, in order, without copying."""
    if spec.sparse:
        return split_sparse(array)
    if not spec.multi:
        matrix: npt.NDArray[np.float32] = flat_matrix(array, spec.dimensions)
        return matrix
    present = array.drop_null()
    lengths = present.value_lengths().to_numpy(zero_copy_only=False)
    return np.split(flat_matrix(present.flatten(), spec.dimensions), np.cumsum(lengths)[:-1])


def flat_matrix(array: Any, dimensions: int) -> npt.NDArray[np.float32]:
    """Shape (rows with a vector, dimensions)."""
    values: npt.NDArray[np.float32] = array.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, dimensions)


def unique_last(documents: Sequence[Document]) -> list[Document]:
    """One document per id: the last wins. Lance would insert both, or fail the whole call."""
    return list({document.document_id: document for document in documents}.values())


def quote(values: Iterable[str]) -> str:
    """A SQL list of string literals: `'a','it''s'`."""
    return ",".join("'" + value.replace("'", "''") + "'" for value in values)
