"""Steps: parts of an extraction that are kept by themselves, so that a changed parameter recomputes only what depends
on it. A transcript does not change when the frames are to be described otherwise.

A step's key is everything that decides its result: its name, its version, and `parts`, which the caller gives: the hash
of the source, the few parameters that matter, the weights of the models. The result is JSON values and float32 arrays.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from mediatheca import __version__
from mediatheca.kernel.desk import Desk

MAX_RESULT_BYTES = 32 << 20
"""Larger results are computed again."""
_MAGIC = b"mstep1"
_HEADER = struct.Struct("<6s32s")
"""Magic, and the SHA-256 of all that follows."""
_SIZES = struct.Struct("<II")
"""Of the JSON, and of the shapes of its arrays, also JSON."""
_ARRAY = "$array"
_FLOATS = np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class Step:
    """A kind of step. Raise `version` with every change of code that changes results."""

    name: str
    version: int


class CorruptResultError(Exception):
    """These are not the bytes of a result."""


def step(desk: Desk, step: Step, parts: Sequence[Any], make: Callable[[], Any]) -> Any:
    """The result of a step: remembered, or made now by `make` and remembered.

    `parts` and the result are JSON values; the result may also hold float32 arrays. It comes back as it is remembered,
    the first time too: tuples as lists, dataclasses as dictionaries.

    Raises:
        TypeError: `parts` or the result hold something else.
    """
    key = key_of(step, parts)
    held = desk.recall(key)
    if held is not None:
        try:
            return decode_result(held)
        except CorruptResultError:
            pass  # as if it was not there: it is overwritten below
    data = encode_result(make())
    if len(data) <= MAX_RESULT_BYTES:
        desk.remember(key, data)
    return decode_result(data)


def key_of(step: Step, parts: Sequence[Any]) -> str:
    """64 hex digits."""
    content = [__version__, step.name, step.version, list(parts)]
    return hashlib.sha256(b"step " + orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


def encode_result(result: Any) -> bytes:
    """JSON, then the raw arrays it refers to; the same result always gives the same bytes.

    Raises:
        TypeError: the result holds something that is neither JSON nor an array of numbers.
    """
    arrays: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    text = orjson.dumps(_without_arrays(result, arrays), option=orjson.OPT_SORT_KEYS)
    shapes = orjson.dumps([list(array.shape) for array in arrays])
    body = b"".join((_SIZES.pack(len(text), len(shapes)), text, shapes, *(array.tobytes() for array in arrays)))
    return _HEADER.pack(_MAGIC, hashlib.sha256(body).digest()) + body


def _without_arrays(value: Any, arrays: list[np.ndarray[Any, np.dtype[np.float32]]]) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            raise TypeError(f"an array of {value.dtype} is no result of a step: it must hold numbers")
        arrays.append(np.ascontiguousarray(value, _FLOATS))
        return {_ARRAY: len(arrays) - 1}
    if isinstance(value, Mapping):
        if _ARRAY in value:
            raise TypeError(f"'{_ARRAY}' is no key for the result of a step")
        return {key: _without_arrays(value[key], arrays) for key in sorted(value)}  # arrays are numbered in this order
    if isinstance(value, list | tuple):
        return [_without_arrays(each, arrays) for each in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def decode_result(data: bytes) -> Any:
    """The result of `encode_result`; its arrays are writable.

    Raises:
        CorruptResultError: truncated, damaged, or of another format.
    """
    try:
        magic, digest = _HEADER.unpack_from(data)
        body = memoryview(data)[_HEADER.size :]
        if magic != _MAGIC or hashlib.sha256(body).digest() != digest:
            raise CorruptResultError
        text_size, shapes_size = _SIZES.unpack_from(body)
        middle, start = _SIZES.size + text_size, _SIZES.size + text_size + shapes_size
        text, arrays = body[_SIZES.size : middle], []
        for shape in orjson.loads(body[middle:start]):
            size = 4 * int(np.prod(shape, dtype=np.int64))
            arrays.append(np.frombuffer(body[start : start + size], _FLOATS).reshape(shape).copy())
            start += size
        return _with_arrays(orjson.loads(text), arrays)
    except (struct.error, ValueError, IndexError, TypeError, KeyError) as error:
        raise CorruptResultError from error


def _with_arrays(value: Any, arrays: Sequence[np.ndarray[Any, np.dtype[np.float32]]]) -> Any:
    if isinstance(value, dict):
        if _ARRAY in value:
            return arrays[value[_ARRAY]]
        return {key: _with_arrays(each, arrays) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_arrays(each, arrays) for each in value]
    return value
