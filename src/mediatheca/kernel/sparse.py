"""Sparse vectors: weights of the few terms that are not zero, as learned term expansion (SPLADE) or BM25 gives them.

In memory a sparse vector is an array of `SPARSE` pairs, index ascending, each index once, no zero weights: whatever
carries vectors carries it unchanged. On the wire it is `{"indices": [...], "values": [...]}`. It may be empty; then
nothing finds it. Two of them compare by the dot product over the terms they share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.documents import Vector
from mediatheca.kernel.errors import ValidationError

SPARSE = np.dtype([("index", "<u4"), ("value", "<f4")])
MAX_TERMS = 65_536
"""Of one vector."""
MAX_INDEX = 2**32 - 1
_FORM = 'must be {"indices": [whole numbers], "values": [numbers]}, both of one length'


def sparse_vector(indices: npt.ArrayLike, values: npt.ArrayLike) -> Vector:
    """A sparse vector of indices (0 to 2³²-1, each once, in any order) and their weights.

    Raises:
        ValueError: not of one length, too many, a repeated index, an index out of range, a weight that is not finite.
    """
    places, weights = _indices(indices), np.asarray(values)
    if weights.size and weights.dtype.kind not in "iuf":
        raise ValueError("every value must be a number")
    if places.ndim != 1 or places.shape != weights.shape:
        raise ValueError(f"{places.size} indices do not go with {weights.size} values")
    if len(places) > MAX_TERMS:
        raise ValueError(f"has {len(places):,} terms; at most {MAX_TERMS:,}")
    made = np.empty(len(places), SPARSE)
    with np.errstate(over="ignore"):
        made["index"], made["value"] = places, weights
    return checked(cast(Vector, made))


def _indices(raw: npt.ArrayLike) -> npt.NDArray[Any]:
    found = np.asarray(raw)
    if found.size and (found.dtype.kind not in "iu" or int(found.min()) < 0 or int(found.max()) > MAX_INDEX):
        raise ValueError(f"every index must be a whole number from 0 to {MAX_INDEX}")
    return found


def is_sparse(vector: Any) -> bool:
    return isinstance(vector, np.ndarray) and vector.dtype == SPARSE


def checked(vector: Vector) -> Vector:
    """The vector in canonical form: sorted, without zero weights.

    Raises:
        ValueError: not a sparse vector, too long, a repeated index, or a weight that is not finite.
    """
    if not is_sparse(vector) or vector.ndim != 1:
        raise ValueError("is not a sparse vector: make one with mediatheca.kernel.sparse.sparse_vector")
    if len(vector) > MAX_TERMS:
        raise ValueError(f"has {len(vector):,} terms; at most {MAX_TERMS:,}")
    pairs = cast(npt.NDArray[Any], vector)
    if not np.isfinite(pairs["value"]).all():
        raise ValueError("holds NaN, infinity or a number too large for 32 bits")
    steps = np.diff(pairs["index"].astype(np.int64))
    if (steps <= 0).any():
        pairs = pairs[np.argsort(pairs["index"], kind="stable")]
        if (np.diff(pairs["index"].astype(np.int64)) == 0).any():
            raise ValueError("names an index twice")
    kept = pairs["value"] != 0
    return cast(Vector, pairs if kept.all() else pairs[kept])


def from_wire(raw: Any, where: str | tuple[str | int, ...]) -> Vector:
    """The sparse vector of `{"indices": [...], "values": [...]}`.

    Raises:
        ValidationError: it is something else; at `where`.
    """
    if not isinstance(raw, Mapping) or set(raw) != {"indices", "values"}:
        raise ValidationError.at(where, f"{_FORM}, got {str(raw)[:80]}", "sparse_vector")
    indices, values = raw["indices"], raw["values"]
    if not (_numbers(indices, (int,)) and _numbers(values, (int, float))):
        raise ValidationError.at(where, _FORM, "sparse_vector")
    try:
        return sparse_vector(indices, values)
    except (ValueError, OverflowError) as error:
        raise ValidationError.at(where, f"{_FORM}: {error}", "sparse_vector") from error


def _numbers(raw: Any, kinds: tuple[type, ...]) -> bool:
    """A list of plain numbers; a boolean is none. Anything longer than a vector can be is left to the length check."""
    return isinstance(raw, list | tuple) and all(type(item) in kinds for item in raw[: MAX_TERMS + 1])


def to_wire(vector: Vector) -> dict[str, list[Any]]:
    """`{"indices": [...], "values": [...]}`."""
    pairs = cast(npt.NDArray[Any], vector)
    return {"indices": pairs["index"].tolist(), "values": pairs["value"].tolist()}


def shown(vector: Vector) -> Any:
    """A vector of any kind as JSON shows it."""
    return to_wire(vector) if is_sparse(vector) else vector.tolist()


def dots(query: Vector, flat: Vector, lengths: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The dot product of a query with every document, in float64.

    Args:
        flat: the pairs of all documents one after the other; `lengths`: how many belong to each.
    """
    asked, held = cast(npt.NDArray[Any], query), cast(npt.NDArray[Any], flat)
    sizes = np.asarray(lengths, np.int64)
    if not len(asked) or not len(held):
        return np.zeros(len(sizes))
    places = np.minimum(np.searchsorted(asked["index"], held["index"]), len(asked) - 1)
    shared = asked["index"][places] == held["index"]
    owners = np.repeat(np.arange(len(sizes)), sizes)[shared]
    products = asked["value"][places[shared]].astype(np.float64) * held["value"][shared]
    return cast(npt.NDArray[np.float64], np.bincount(owners, products, minlength=len(sizes)))


PAIRS = (-1,)
"""The shape that raw bytes of a sparse vector travel under: no array has it."""


def unpacked(shape: Sequence[int], data: bytes | bytearray) -> Vector:
    """A vector of any kind from its raw little-endian bytes: float32 of this shape, or pairs."""
    if tuple(shape) == PAIRS:
        return cast(Vector, np.frombuffer(data, SPARSE))
    return np.frombuffer(data, np.dtype("<f4")).reshape(tuple(shape))
