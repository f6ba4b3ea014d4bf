"""What an extractor gave for one item, as an Arrow IPC file: one row for each `Row`, read back bit for bit.

Fields are their JSON text, as documents store them; vectors are little-endian float32 beside their shape, or pairs of a
sparse one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from mediatheca.extractors import Artifact, Row
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.sparse import PAIRS, is_sparse, unpacked
from mediatheca.stores.documents.payloads import encode_json

if TYPE_CHECKING:
    import pyarrow as pa

_KEY = b"mediatheca.key"
_FLOATS = np.dtype("<f4")


class CorruptFileError(Exception):
    """These are not the bytes that were written under this key."""


@cache
def _schema() -> pa.Schema:
    import pyarrow as pa

    vector = pa.struct({"name": pa.string(), "shape": pa.list_(pa.int32()), "values": pa.binary()})
    artifact = {"name": pa.string(), "data": pa.binary(), "mime_type": pa.string(), "suffix": pa.string()}
    return pa.schema(
        {
            "source_key": pa.string(),
            "position": pa.int64(),
            "fields": pa.binary(),
            "vectors": pa.list_(vector),
            "artifacts": pa.list_(pa.struct(artifact)),
        }
    )


def encode(key: str, rows: Sequence[Row]) -> bytes | None:
    """The file; the same rows always give the same bytes. None for rows that no document can be made of."""
    import pyarrow as pa

    try:
        records = [_record(row) for row in rows]
        schema = _schema().with_metadata({_KEY: key})
        batch = pa.RecordBatch.from_pylist(records, schema=schema)
    except (ValidationError, pa.ArrowException, UnicodeError, OverflowError, TypeError):
        return None  # whoever makes documents of them says what is wrong
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _record(row: Row) -> dict[str, Any]:
    return {
        "source_key": row.source_key,
        "position": row.position,
        "fields": encode_json(row.fields, row.source_key, "fields"),
        "vectors": [
            {"name": name, "shape": PAIRS, "values": vector.tobytes()}
            if is_sparse(vector)
            else {"name": name, "shape": vector.shape, "values": vector.astype(_FLOATS, copy=False).tobytes()}
            for name, vector in row.vectors.items()
        ],
        "artifacts": [
            {"name": name, "data": made.data, "mime_type": made.mime_type, "suffix": made.suffix}
            for name, made in row.artifacts.items()
        ],
    }


def decode(key: str, data: bytes) -> list[Row]:
    """The rows of `encode`.

    Raises:
        CorruptFileError: truncated, damaged, or the file of another key.
    """
    import pyarrow as pa

    try:
        table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
        if (table.schema.metadata or {}).get(_KEY) != key.encode() or not table.schema.equals(_schema()):
            raise CorruptFileError(key)
        return [_row(record) for record in table.to_pylist()]
    except (pa.ArrowException, ValueError, OSError) as error:
        raise CorruptFileError(key) from error


def _row(record: Mapping[str, Any]) -> Row:
    return Row(
        orjson.loads(record["fields"]),
        {entry["name"]: unpacked(entry["shape"], bytearray(entry["values"])) for entry in record["vectors"]},
        {entry["name"]: Artifact(entry["data"], entry["mime_type"], entry["suffix"]) for entry in record["artifacts"]},
        record["source_key"],
        record["position"],
    )
