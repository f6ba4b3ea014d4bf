"""What travels between the runner and its children: frames on a socket, and rows as plain values.

A frame is its length (8 bytes, little endian) and a pickle. What comes back from a child is read by an unpickler that
knows only plain values, times, decimals and UUIDs: a child that a hostile file has taken over cannot make the parent
import or call anything. Vectors travel as raw bytes (float32, or pairs of a sparse one) beside their shape. Files stay
where the child put them; their names travel, and the parent takes only plain files of that folder.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import re
import socket
import stat
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias, get_args
from uuid import UUID, uuid4

import numpy as np

from mediatheca.extractors import Artifact, ArtifactRole, Dropped, ItemError, Row
from mediatheca.kernel.sparse import PAIRS, checked, is_sparse, unpacked

MAX_ITEM_BYTES = 256 << 20
"""All rows of one item, artifacts that are no files included."""
MAX_FILE_BYTES = 4 << 30
"""All files of one item."""
MAX_DROPPED = 10_000
"""Of one item; the rest is told as one."""
_HEADER = struct.Struct("<Q")
_RECEIVE = 1 << 18
_PLAIN = (list, int, float, bool, str, bytes, complex)
_KINDS: frozenset[type] = frozenset({datetime, date, time, timedelta, timezone, Decimal, UUID})
_NAMES = {(kind.__module__, kind.__qualname__): kind for kind in (*_KINDS, *_PLAIN, bytearray)}

_ROLES = frozenset(get_args(ArtifactRole))
_SUFFIX = re.compile(r"(\.[A-Za-z0-9_]{1,16}){0,2}")
_MIME_TYPE = re.compile(r"[\w.+-]{1,80}/[\w.+-]{1,80}(;[ -~]{1,80})?|", re.ASCII)
_FILE = re.compile(r"[0-9a-f]{32}")
_MAX_TEXT = 2000

WireRow: TypeAlias = tuple[dict[str, Any], dict[str, Any], dict[str, Any], str, int]
WireDropped: TypeAlias = tuple[str, str, str, int | None, str]


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


class Outbox:
    """Where a child leaves the files of its rows: the parent takes them from there, by name."""

    def __init__(self, scratch: Path, folder: Path) -> None:
        self._scratch, self._folder = scratch.resolve(), folder

    def put(self, path: str) -> str:
        """Move a file of the scratch folder here. Returns its name.

        Raises:
            ItemError: it is no plain file in the scratch folder.
        """
        found = Path(path)
        if not found.parent.resolve().is_relative_to(self._scratch) or not found.is_file() or found.is_symlink():
            raise ItemError(f"the extractor made an artifact of '{path}', which is no file in its scratch folder")
        name = uuid4().hex
        found.rename(self._folder / name)
        return name


def encode_rows(rows: list[Row], outbox: Outbox) -> list[WireRow]:
    """Rows as plain values; their files go to the outbox.

    Raises:
        ItemError: a vector is not numbers, or not finite; a field is not a dictionary; an artifact is no file.
    """
    sent: dict[str, str] = {}
    return [_encode(row, outbox, sent) for row in rows]


def _encode(row: Row, outbox: Outbox, sent: dict[str, str]) -> WireRow:
    if not isinstance(row, Row) or not isinstance(row.fields, dict):
        raise ItemError(f"the extractor made a {type(row).__name__} where a Row with a dictionary of fields is due")
    vectors = {name: _encode_vector(name, vector) for name, vector in row.vectors.items()}
    artifacts = {name: _encode_artifact(name, each, outbox, sent) for name, each in row.artifacts.items()}
    return row.fields, vectors, artifacts, row.source_key, row.position


def _encode_artifact(name: str, made: Artifact, outbox: Outbox, sent: dict[str, str]) -> tuple[Any, ...]:
    if made.role not in _ROLES or not _SUFFIX.fullmatch(made.suffix) or not _MIME_TYPE.fullmatch(made.mime_type):
        raise ItemError(f"the extractor made an artifact '{name}' of role '{made.role}', type '{made.mime_type}', "
                        f"suffix '{made.suffix}': those are not allowed")  # fmt: skip
    if made.path is not None and made.path not in sent:
        sent[made.path] = outbox.put(made.path)  # two rows may name one file
    return made.data, made.mime_type, made.suffix, sent.get(made.path or ""), made.role


def encode_dropped(dropped: list[Dropped]) -> list[WireDropped]:
    """What was dropped, as plain values."""
    told = [(d.what[:_MAX_TEXT], d.reason[:_MAX_TEXT], d.source_key, d.position, d.kind) for d in dropped[:MAX_DROPPED]]
    if len(dropped) > MAX_DROPPED:
        told.append(("more", f"{len(dropped) - MAX_DROPPED:,} more were dropped", "", None, dropped[-1].kind))
    return told


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


class Inbox:
    """Takes the files of a child's rows over. The child may be hostile: its folder is held open from the start, and
    only plain files come out of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def take(self, name: str, into: Path) -> tuple[str, int]:
        """Move a file into a folder that the child cannot write to. Returns its path now, and its size.

        Raises:
            ValueError: there is no such plain file.
        """
        if not _FILE.fullmatch(name):
            raise ValueError(f"{name[:40]!r} is no name of a file")
        path = into / name
        os.rename(name, path, src_dir_fd=self._folder)
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            path.unlink(missing_ok=True)
            raise ValueError(f"{name} is no plain file")
        return str(path), found.st_size

    def close(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1


Take: TypeAlias = Callable[[str], tuple[str, int]]
"""Takes a file over by its name: its path and size."""


def decode_rows(rows: list[WireRow], take: Take) -> list[Row]:
    """The rows again; vectors are writable arrays, files are taken over.

    Raises:
        ValueError, TypeError, OSError: these are no rows of ours.
    """
    taken: dict[str, str] = {}
    room = [MAX_FILE_BYTES]
    return [
        Row(
            dict(fields),
            {name: unpacked(shape, data) for name, (shape, data) in vectors.items()},
            {name: _decode_artifact(artifact, take, taken, room) for name, artifact in artifacts.items()},
            source_key,
            position,
        )
        for fields, vectors, artifacts, source_key, position in rows
    ]


def _decode_artifact(wire: tuple[Any, ...], take: Take, taken: dict[str, str], room: list[int]) -> Artifact:
    data, mime_type, suffix, name, role = wire
    if role not in _ROLES or not _SUFFIX.fullmatch(suffix) or not _MIME_TYPE.fullmatch(mime_type):
        raise ValueError("an artifact of no allowed kind")
    if name is not None and name not in taken:
        taken[name], size = take(name)
        room[0] -= size
        if room[0] < 0:
            raise ValueError(f"files of more than {MAX_FILE_BYTES >> 20} MiB")
    return Artifact(bytes(data), mime_type, suffix, None if name is None else taken[name], role)


def decode_dropped(dropped: list[WireDropped]) -> list[Dropped]:
    """Raises ValueError or TypeError: these are none of ours."""
    return [Dropped(str(w), str(r), str(k), None if p is None else int(p), str(kind)) for w, r, k, p, kind in dropped]


def decode_times(times: dict[str, float]) -> dict[str, float]:
    """Seconds by part. Raises ValueError, TypeError or AttributeError: these are none."""
    found = {str(name): float(spent) for name, spent in times.items()}
    if len(found) > 16 or not all(math.isfinite(spent) for spent in found.values()):
        raise ValueError("no times")
    return found


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


def parsed(frame: bytes, take: Take) -> tuple[Any, ...] | None:
    """A child's message, its rows decoded and their files taken over; None when it is none of ours."""
    try:
        answer = load_answer(frame)
        if answer[0] == "rows":
            _, index, rows, dropped, times = answer
            return ("rows", index, decode_rows(rows, take), decode_dropped(dropped), decode_times(times))
    except Exception:
        # The child may have been taken over by the file it decoded: whatever it wrote, only it is at fault.
        return None
    return answer if isinstance(answer, tuple) and answer else None


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
