"""What travels between the runner and its children: frames on a socket, and rows as plain values.

A frame is its length (8 bytes, little endian) and a pickle. What comes back from a child is read by an unpickler that
knows only plain values, times, decimals and UUIDs: a child that a hostile file has taken over cannot make the parent
import or call anything. Vectors travel as raw bytes (float32, or pairs of a sparse one) beside their shape.
"""

from __future__ import annotations

import io
import pickle
import socket
import struct
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np

from mediatheca.extractors import Artifact, ItemError, Row
from mediatheca.kernel.sparse import PAIRS, checked, is_sparse, unpacked

MAX_ITEM_BYTES = 256 << 20
"""All rows of one item, artifacts included."""
_HEADER = struct.Struct("<Q")
_RECEIVE = 1 << 18
_PLAIN = (list, int, float, bool, str, bytes, complex)
_KINDS: frozenset[type] = frozenset({datetime, date, time, timedelta, timezone, Decimal, UUID})
_NAMES = {(kind.__module__, kind.__qualname__): kind for kind in (*_KINDS, *_PLAIN, bytearray)}

WireRow: TypeAlias = tuple[dict[str, Any], dict[str, Any], dict[str, Any], str, int]


class _RowPickler(pickle.Pickler):
    """Takes plain values and `_KINDS`; numpy values become plain ones, everything else is refused."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind is datetime and value.tzinfo is not None and type(value.tzinfo) is not timezone:
            return value.astimezone(UTC).__reduce_ex__(5)
        if kind in _KINDS or (kind is type and (value in _KINDS or value in _PLAIN)):
            return NotImplemented
        if isinstance(value, np.ndarray) and value.dtype != object:
            return list, (value.tolist(),)
        if isinstance(value, np.generic) and type(value.item()) in _PLAIN:
            return type(value.item()), (value.item(),)
        if kind is bytearray:
            return NotImplemented
        raise pickle.PicklingError(f"it holds a value of type {kind.__module__}.{kind.__qualname__}")


class _RowUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} may not come from a child") from None


def encode_rows(rows: list[Row]) -> list[WireRow]:
    """Rows as plain values.

    Raises:
        ItemError: a vector is not numbers, or not finite; a field is not a dictionary.
    """
    return [_encode(row) for row in rows]


def _encode(row: Row) -> WireRow:
    if not isinstance(row, Row) or not isinstance(row.fields, dict):
        raise ItemError(f"the extractor made a {type(row).__name__} where a Row with a dictionary of fields is due")
    vectors = {name: _encode_vector(name, vector) for name, vector in row.vectors.items()}
    artifacts = {name: (each.data, each.mime_type, each.suffix) for name, each in row.artifacts.items()}
    return row.fields, vectors, artifacts, row.source_key, row.position


def _encode_vector(name: str, vector: Any) -> tuple[tuple[int, ...], bytearray]:
    if is_sparse(vector):
        try:
            return PAIRS, bytearray(checked(vector).tobytes())
        except ValueError as error:
            raise ItemError(f"the extractor made a vector '{name}' that {error}") from error
    try:
        array = np.ascontiguousarray(vector, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ItemError(f"the extractor made a vector '{name}' that is not numbers: {error}") from error
    if not np.isfinite(array).all():
        raise ItemError(f"the extractor made a vector '{name}' with NaN or infinite values")
    return array.shape, bytearray(array.data.cast("B")) if array.size else bytearray()


def decode_rows(rows: list[WireRow]) -> list[Row]:
    """The rows again; vectors are writable arrays."""
    return [
        Row(
            fields,
            {name: unpacked(shape, data) for name, (shape, data) in vectors.items()},
            {name: Artifact(*artifact) for name, artifact in artifacts.items()},
            source_key,
            position,
        )
        for fields, vectors, artifacts, source_key, position in rows
    ]


def dump_answer(answer: tuple[Any, ...]) -> bytes:
    """A child's message.

    Raises:
        ItemError: it is too large, or holds something that may not travel.
    """
    buffer = io.BytesIO()
    try:
        _RowPickler(buffer, protocol=5).dump(answer)
    except MemoryError:
        raise
    except Exception as error:
        raise ItemError(f"the extractor's rows cannot be stored: {error}; use JSON values and dates") from error
    if buffer.tell() > MAX_ITEM_BYTES:
        raise ItemError(f"the extractor made {buffer.tell() >> 20} MiB of rows; {MAX_ITEM_BYTES >> 20} are the limit")
    return buffer.getvalue()


def load_answer(frame: bytes) -> Any:
    """A child's message, plain values only.

    Raises:
        pickle.UnpicklingError: something else was in it.
    """
    return _RowUnpickler(io.BytesIO(frame)).load()


def send_frame(connection: socket.socket, payload: bytes) -> None:
    """Write one frame. Raises OSError when the other side is gone or does not read in time."""
    if len(payload) < _RECEIVE:
        connection.sendall(_HEADER.pack(len(payload)) + payload)
    else:
        connection.sendall(_HEADER.pack(len(payload)))
        connection.sendall(payload)


class FrameReader:
    """Puts frames together from what arrives."""

    def __init__(self, connection: socket.socket, largest: int | None = None) -> None:
        self._connection, self._largest = connection, largest
        self._buffer = bytearray()

    def receive(self) -> list[bytes]:
        """Read once and return the frames that are whole now.

        Raises:
            EOFError: the other side is gone.
            ValueError: a frame larger than allowed.
        """
        chunk = self._connection.recv(_RECEIVE)
        if not chunk:
            raise EOFError
        self._buffer += chunk
        frames: list[bytes] = []
        start = 0
        while (end := self._end_of_frame(start)) is not None:
            frames.append(bytes(memoryview(self._buffer)[start + _HEADER.size : end]))
            start = end
        del self._buffer[:start]
        return frames

    def _end_of_frame(self, start: int) -> int | None:
        if len(self._buffer) - start < _HEADER.size:
            return None
        (size,) = _HEADER.unpack_from(self._buffer, start)
        if self._largest is not None and size > self._largest:
            raise ValueError(f"a frame of {size} bytes")
        end: int = start + _HEADER.size + size
        return end if end <= len(self._buffer) else None
