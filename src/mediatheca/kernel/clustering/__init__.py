"""Algorithms that group vectors, shared by the clusterers and the `cluster` stage. Pure; scikit-learn inside functions.

Every function takes a matrix of shape (items, dimensions) and gives a `Fit`; the same input and seed give the same
labels. Rows are expected to have unit length where cosine is meant: the Euclidean order is the cosine's then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Matrix: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int32]
Floats: TypeAlias = npt.NDArray[np.float32]
NOISE = -1


@dataclass(slots=True)
class Fit:
    """What an algorithm found: a number from 0 for every row, -1 for what belongs to no group."""

    labels: Labels
    probabilities: Floats | None = None
    """How surely a row belongs to its group, 0 to 1, where the algorithm tells."""
    notes: list[str] = field(default_factory=list)
    """What was decided on the caller's behalf, in words: a smaller number of groups, an approximation, …"""


def unit_rows(matrix: Matrix) -> Matrix:
    """Rows of length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / np.where(lengths > 0, lengths, 1.0), np.float32)


def as_labels(found: Any) -> Labels:
    return np.asarray(found, np.int32)


def renumbered(found: Labels) -> Labels:
    """Numbers from 0 in the order in which groups first appear; noise stays -1."""
    groups, first = np.unique(found, return_index=True)
    order = np.argsort(first[groups != NOISE], kind="stable")
    names = dict(zip(groups[groups != NOISE][order].tolist(), range(len(order)), strict=True)) | {NOISE: NOISE}
    return as_labels([names[value] for value in found.tolist()])


def distinct_rows(matrix: Matrix) -> int:
    """How many different rows there are: more groups than that cannot be made."""
    return len({hash(row.tobytes()) for row in np.ascontiguousarray(matrix)})


def trivial(matrix: Matrix) -> Fit | None:
    """One group for what cannot be told apart: fewer than two rows, or equal ones; None when there is work to do."""
    if len(matrix) < 2 or bool((matrix == matrix[0]).all()):
        return Fit(np.zeros(len(matrix), np.int32), np.ones(len(matrix), np.float32))
    return None
