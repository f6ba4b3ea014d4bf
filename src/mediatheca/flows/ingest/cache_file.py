"""What an extractor gave for one item, as an Arrow IPC file: one row for each `Row`, read back bit for bit.

Fields are their JSON text, as documents store them; vectors are little-endian float32 beside their shape, or pairs of a
sparse one. Small artifacts lie in the file, large ones are blobs beside it, named in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from mediatheca.extractors import Artifact, Dropped, Row
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.sparse import PAIRS, is_sparse, unpacked
from mediatheca.stores.documents.payloads import encode_json

if TYPE_CHECKING:
    import pyarrow as pa

INLINE_BYTES = 1 << 20
"""Larger artifacts are blobs of their own."""
_KEY, _DROPPED = b"mediatheca.key", b"mediatheca.dropped"
_FLOATS = np.dtype("<f4")


class CorruptFileError(Exception):
    """These are not the bytes that were written under this key."""


@dataclass(frozen=True, slots=True)
class StoredArtifact(Artifact):
    """An artifact that is a blob already; whoever keeps it copies the blob."""

    key: str = ""
    hash: str = ""
    length: int = 0

    def read(self) -> bytes:
        raise TypeError(f"the bytes of this artifact are the blob '{self.key}'")

    def size(self) -> int:
        return self.length

    def digest(self) -> str:
        return self.hash


@dataclass(frozen=True, slots=True)
class Entry:
    """What an extractor gave for an item."""

    rows: Sequence[Row]
    dropped: Sequence[Dropped] = ()


@dataclass(frozen=True, slots=True)
class Encoded:
    """The file of an entry, and the blobs beside it by their keys."""

    data: bytes
    files: Mapping[str, Artifact]

    def size(self) -> int:
        return len(self.data) + sum(made.size() for made in self.files.values())


@cache
def _schema() -> pa.Schema:
    import pyarrow as pa

    text = ("name", "mime_type", "suffix", "role", "key", "hash")
    artifact = {**dict.fromkeys(text, pa.string()), "data": pa.binary(), "length": pa.int64()}
    vector = pa.struct({"name": pa.string(), "shape": pa.list_(pa.int32()), "values": pa.binary()})
    return pa.schema(
        {
            "source_key": pa.string(),
            "position": pa.int64(),
            "fields": pa.binary(),
            "vectors": pa.list_(vector),
            "artifacts": pa.list_(pa.struct(artifact)),
        }
    )


def encode(key: str, entry: Entry, folder: str = "") -> Encoded | None:
    """The file; the same rows always give the same bytes. None for rows that no document can be made of.

    `folder`: what the keys of its blobs begin with.
    """
    import pyarrow as pa

    files: dict[str, Artifact] = {}
    try:
        records = [_record(row, folder, files) for row in entry.rows]
        dropped = orjson.dumps([astuple(each) for each in entry.dropped])
        schema = _schema().with_metadata({_KEY: key, _DROPPED: dropped})
        batch = pa.RecordBatch.from_pylist(records, schema=schema)
    except (ValidationError, pa.ArrowException, UnicodeError, OverflowError, TypeError):
        return None  # whoever makes documents of them says what is wrong
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)
    return Encoded(bytes(sink.getvalue()), files)


def _record(row: Row, folder: str, files: dict[str, Artifact]) -> dict[str, Any]:
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
        "artifacts": [{"name": name, **_artifact(made, folder, files)} for name, made in row.artifacts.items()],
    }


def _artifact(made: Artifact, folder: str, files: dict[str, Artifact]) -> dict[str, Any]:
    record: dict[str, Any] = {"mime_type": made.mime_type, "suffix": made.suffix, "role": made.role}
    if made.path is None and len(made.data) <= INLINE_BYTES:
        return {**record, "data": made.data}
    digest = made.digest()
    key = f"{folder}{digest}{made.suffix}"
    files[key] = made
    return {**record, "key": key, "hash": digest, "length": made.size()}


def decode(key: str, data: bytes) -> Entry:
    """The entry of `encode`.

    Raises:
        CorruptFileError: truncated, damaged, or the file of another key.
    """
    import pyarrow as pa

    try:
        table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
        about = table.schema.metadata or {}
        if about.get(_KEY) != key.encode() or not table.schema.equals(_schema()):
            raise CorruptFileError(key)
        dropped = [Dropped(*each) for each in orjson.loads(about[_DROPPED])]
        return Entry([_row(record) for record in table.to_pylist()], dropped)
    except (pa.ArrowException, ValueError, OSError, KeyError, TypeError) as error:
        raise CorruptFileError(key) from error


def _row(record: Mapping[str, Any]) -> Row:
    return Row(
        orjson.loads(record["fields"]),
        {entry["name"]: unpacked(entry["shape"], bytearray(entry["values"])) for entry in record["vectors"]},
        {entry["name"]: _stored(entry) for entry in record["artifacts"]},
        record["source_key"],
        record["position"],
    )


def _stored(entry: Mapping[str, Any]) -> Artifact:
    about = {name: entry[name] for name in ("mime_type", "suffix", "role")}
    if entry["key"] is None:
        return Artifact(entry["data"], **about)
    return StoredArtifact(**about, key=entry["key"], hash=entry["hash"], length=entry["length"])
