"""Sparse vectors as an Arrow column: a list of (index, value), null for a document without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mediatheca.kernel.documents import Vector
from mediatheca.kernel.sparse import SPARSE, checked

_PAIR = pa.struct([pa.field("index", pa.uint32(), nullable=False), pa.field("value", pa.float32(), nullable=False)])
SPARSE_TYPE: pa.DataType = pa.list_(_PAIR)


def is_sparse_type(kind: pa.DataType) -> bool:
    """The type as written, whatever the store names its elements."""
    return bool(pa.types.is_list(kind) and pa.types.is_struct(kind.value_type))


def encode_sparse(vectors: Sequence[Vector | None], refuse: Callable[[int, str], Exception]) -> pa.ListArray:
    """One row for each vector. `refuse`: the error for a row that is no sparse vector."""
    blocks: list[Vector] = []
    lengths = np.zeros(len(vectors), np.int64)
    for row, vector in enumerate(vectors):
        if vector is None:
            continue
        try:
            blocks.append(checked(vector))
        except ValueError as error:
            raise refuse(row, str(error)) from error
        lengths[row] = len(blocks[-1])
    flat = cast(npt.NDArray[Any], np.concatenate(blocks) if blocks else np.empty(0, SPARSE))
    columns = [pa.array(np.ascontiguousarray(flat[name])) for name in ("index", "value")]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    absent = pa.array([vector is None for vector in vectors], pa.bool_())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(columns, fields=list(_PAIR)), mask=absent)


def flat_pairs(array: pa.ListArray) -> tuple[Vector, npt.NDArray[np.int64]]:
    """The pairs of the rows that have a vector, one after the other, and how many belong to each row."""
    present = array.drop_null()
    pairs = present.flatten()
    flat = np.empty(len(pairs), SPARSE)
    for number, name in enumerate(("index", "value")):
        flat[name] = pairs.field(number).to_numpy(zero_copy_only=False)
    lengths = np.asarray(present.value_lengths().to_numpy(zero_copy_only=False), np.int64)
    return cast(Vector, flat), lengths


def split_sparse(array: pa.ListArray) -> list[Vector]:
    """The vectors of the rows that have one, in order."""
    flat, lengths = flat_pairs(array)
    return np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else []
