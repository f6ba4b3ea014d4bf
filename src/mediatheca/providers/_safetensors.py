"""Reading safetensors files: a JSON header and raw arrays behind it. Nothing in such a file is ever executed.

Format: 8 bytes length of the header (little endian), the header (`name → {dtype, shape, data_offsets}`), the arrays.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_HEADER = 100_000_000
"""Bytes; what the format itself allows."""
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}


class SafetensorsError(ValueError):
    """Not a safetensors file, or one that lies about its contents."""


def load_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Every array of the file, read-only views of its bytes.

    Raises:
        SafetensorsError: damaged, or holding a kind of number that is not read here.
    """
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= size <= min(MAX_HEADER, len(data) - 8):
        raise SafetensorsError(f"{path.name} is no safetensors file: its header does not fit into it")
    try:
        header = json.loads(data[8 : 8 + size])
        body = memoryview(data)[8 + size :]
        return {name: _tensor(name, entry, body) for name, entry in header.items() if name != "__metadata__"}
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SafetensorsError(f"{path.name} is damaged: {error}") from error


def _tensor(name: str, entry: dict[str, Any], body: memoryview) -> npt.NDArray[Any]:
    if entry["dtype"] not in _TYPES:
        raise ValueError(f"'{name}' holds {entry['dtype']}; {', '.join(_TYPES)} are read")
    kind = np.dtype(_TYPES[entry["dtype"]])
    shape = tuple(int(side) for side in entry["shape"])
    begin, end = (int(offset) for offset in entry["data_offsets"])
    fits = all(side >= 0 for side in shape) and 0 <= begin <= end <= len(body)
    if not fits or end - begin != math.prod(shape) * kind.itemsize:
        raise ValueError(f"the bytes of '{name}' are not where its header says")
    return np.frombuffer(body[begin:end], kind).reshape(shape)
