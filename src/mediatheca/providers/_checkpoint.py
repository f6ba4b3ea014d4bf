"""Reads legacy torch checkpoints (not the zip kind) without torch, as untrusted input.

Layout: five pickles (magic number, protocol, system info, state dict, storage keys), then for every storage an int64
count and that many little-endian numbers. The unpickler knows four names and nothing else, and every view into a
storage is checked before numpy is asked for it.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_TYPES: dict[str, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class CheckpointError(Exception):
    """The file is not a checkpoint of this format, or it is damaged or hostile."""


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor as the pickle describes it: a strided window into a storage."""

    storage: tuple[str, str]
    """Key and element type."""
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements. Weights converted from TensorFlow are stored in its order: ignoring strides gives nonsense."""


def _rebuild(storage: tuple[str, str], offset: int, shape: Any, strides: Any, *_rest: Any) -> _View:
    return _View(storage, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in _TYPES:
            return name
        raise CheckpointError(f"the checkpoint refers to {module}.{name}, which is not allowed")

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        kind, dtype, key = pid[:3]
        if kind != "storage" or dtype not in _TYPES:
            raise CheckpointError(f"the checkpoint refers to a {kind!r} of {dtype!r}")
        return str(key), dtype


def load_checkpoint(path: Path) -> dict[str, Array]:
    """Parameter name → array, C-contiguous.

    Raises:
        CheckpointError: damaged, truncated, of another format, or referring to anything but plain tensors.
    """
    with path.open("rb") as file:
        try:
            views, keys = _header(file)
            storages = _storages(file, views, keys)
            return {name: _array(name, view, storages) for name, view in views.items()}
        except (
            pickle.UnpicklingError,
            EOFError,
            struct.error,
            ValueError,
            TypeError,
            AttributeError,
            KeyError,
        ) as error:
            raise CheckpointError(f"{path.name} is not a readable checkpoint: {error}") from error


def _header(file: BinaryIO) -> tuple[dict[str, _View], list[str]]:
    head = file.read(16)
    file.seek(0)
    if not head.startswith(b"\x80\x02\x8a\x0a"):
        raise CheckpointError("not a legacy torch checkpoint")
    if _Unpickler(file).load() != _MAGIC or _Unpickler(file).load() != _PROTOCOL:
        raise CheckpointError("not a legacy torch checkpoint")
    if not _Unpickler(file).load()["little_endian"]:
        raise CheckpointError("big-endian checkpoints are not supported")
    state, keys = _Unpickler(file).load(), _Unpickler(file).load()
    views = {name: view for name, view in state.items() if isinstance(view, _View)}
    if len(views) != len(state):
        raise CheckpointError("the checkpoint holds something that is not a tensor")
    return views, [str(key) for key in keys]


def _storages(file: BinaryIO, views: dict[str, _View], keys: list[str]) -> dict[str, Array]:
    types = {view.storage[0]: _TYPES[view.storage[1]] for view in views.values()}
    end = os.fstat(file.fileno()).st_size
    storages: dict[str, Array] = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        size = count * types[key].itemsize
        if not 0 <= size <= end - file.tell():  # before reading: a hostile count must not become an allocation
            raise CheckpointError(f"storage {key} is truncated: {size} bytes announced, {end - file.tell()} left")
        storages[key] = np.frombuffer(file.read(size), types[key])
    if file.read(1):
        raise CheckpointError("bytes are left over after the last storage")
    return storages


def _array(name: str, view: _View, storages: dict[str, Array]) -> Array:
    """The window as an array of its own; scalars become shape (1,)."""
    raw = storages[view.storage[0]]
    shape, strides = view.shape or (1,), view.strides or (1,)
    last = view.offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min((view.offset, *strides)) < 0 or min(shape) < 1 or last >= raw.size:
        raise CheckpointError(f"tensor {name} reaches outside its storage")
    window = np.lib.stride_tricks.as_strided(raw[view.offset :], shape, [s * raw.itemsize for s in strides])
    return np.ascontiguousarray(window)
