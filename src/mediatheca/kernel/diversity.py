"""Maximal marginal relevance, and the similarities it needs. Pure, on numpy arrays.

A `Similar` gives the similarities of one candidate to all of them, shape (candidates,): only the rows of chosen
candidates are ever computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.hits import value_key

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Similar: TypeAlias = Callable[[int], Floats]
Metric: TypeAlias = Literal["cosine", "dot", "euclidean"]
FULL_MATRIX = 128
"""From this many picks on, all similarities at once are cheaper than row by row."""


def mmr(relevance: Sequence[float], similar: Similar, balance: float, count: int) -> list[tuple[int, float]]:
    """Pick `count` candidates, each time the one with the highest λ·relevance - (1-λ)·(similarity to the nearest pick).

    Candidates must be in the order that breaks ties, the most relevant first. A similarity below 0 counts as 0: what is
    opposite is no more different than what is unrelated, and so scores never rise from pick to pick.

    Args:
        balance: λ; 1 is relevance alone, 0 diversity alone (after the first, which is the most relevant).

    Returns:
        (candidate, score) in the order of picking.

    Source: Carbonell and Goldstein (SIGIR 1998).
    """
    gain = balance * np.asarray(relevance, np.float64)
    values, nearest = gain.copy(), np.zeros(len(gain))
    picked: list[tuple[int, float]] = []
    for _ in range(min(count, len(gain))):
        choice = int(values.argmax())
        picked.append((choice, float(values[choice])))
        gain[choice] = -np.inf
        if len(picked) < count:
            np.maximum(nearest, similar(choice), out=nearest)
            np.multiply(nearest, balance - 1.0, out=values)
            values += gain
    return picked


def by_vectors(matrix: Floats, metric: Metric, picks: int) -> Similar:
    """Similarity of vectors, shape (candidates, dimensions): cosine, dot product, or 1 / (1 + distance).

    A row of zeros stands for a candidate without a vector: it is similar to nothing.
    """
    rows: npt.NDArray[np.float32] = np.ascontiguousarray(matrix, np.float32)
    norms: npt.NDArray[np.float32] = np.linalg.norm(rows, axis=1)
    present = norms > 0
    if metric == "cosine":
        rows = rows / np.where(present, norms, 1.0).astype(np.float32)[:, None]
    if metric == "euclidean":
        return _by_distance(rows, norms, present)
    if picks < FULL_MATRIX:
        return lambda index: rows @ rows[index]
    full = rows @ rows.T
    return lambda index: full[index]


def _by_distance(rows: Floats, norms: Floats, present: npt.NDArray[np.bool_]) -> Similar:
    squares = norms.astype(np.float64) ** 2

    def similar(index: int) -> Floats:
        distance = np.sqrt(np.maximum(squares + squares[index] - 2.0 * (rows @ rows[index]), 0.0))
        return np.where(present & present[index], 1.0 / (1.0 + distance), 0.0)

    return similar


def by_values(columns: Sequence[Sequence[Any]], weights: Sequence[float]) -> Similar:
    """The weighted share of fields with equal values; `columns` holds the values of a field each. None equals none."""
    codes = np.stack([_codes(column) for column in columns])
    shares = np.asarray(weights, np.float64) / sum(weights)

    def similar(index: int) -> Floats:
        own = codes[:, index]
        equal = (codes == own[:, None]) & (own >= 0)[:, None]
        made: Floats = shares @ equal
        return made

    return similar


def _codes(column: Sequence[Any]) -> npt.NDArray[np.int64]:
    known: dict[bytes, int] = {}
    found = [-1 if value is None else known.setdefault(value_key(value), len(known)) for value in column]
    return np.asarray(found, np.int64)


def weighted(parts: Sequence[tuple[float, Similar]]) -> Similar:
    """Several similarities as one; weights are relative."""
    if len(parts) == 1:
        return parts[0][1]
    total = sum(weight for weight, _ in parts)

    def similar(index: int) -> Floats:
        made: Floats = sum((weight / total * part(index) for weight, part in parts), np.zeros(1))
        return made

    return similar


def by_blocks(blocks: Sequence[tuple[npt.NDArray[np.int64], Similar]], count: int) -> Similar:
    """Candidates in separate spaces (vectors of different models): similar only within their own."""
    home: dict[int, tuple[int, int]] = {
        int(candidate): (number, place)
        for number, (members, _) in enumerate(blocks)
        for place, candidate in enumerate(members)
    }

    def similar(index: int) -> Floats:
        made = np.zeros(count)
        if index in home:
            number, place = home[index]
            members, inner = blocks[number]
            made[members] = inner(place)
        return made

    return similar
