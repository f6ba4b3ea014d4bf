"""New vectors against standing query vectors: which pairs reach the query's floor.

One matrix product for a block of documents, then only what is above a floor is looked at. Scores are those of a search
index: cosine and dot as they are, euclid as 1 / (1 + distance). A search computes them in float32 and in another order,
so a pair within `TOLERANCE` of its floor counts: rather one too many than one too few.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.documents import Metric
from mediatheca.kernel.join import Matrix, unit_rows

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

TOLERANCE = 1e-6
"""Relative to the lengths of the vectors; of unit vectors it is the difference of the scores."""
_DOUBT = 1e-5
"""So close to a floor, the product in float32 decides nothing."""
_ROWS = 1_024
_COLUMNS = 8_192


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of a document and a query, ordered by document: their rows, and the score of each pair."""

    documents: Places
    queries: Places
    scores: Floats

    def __len__(self) -> int:
        return len(self.documents)


class StandingVectors:
    """Query vectors of one vector index.

    Args:
        queries: (queries, dimensions).
    """

    def __init__(self, queries: Matrix, metric: Metric = "cosine") -> None:
        given = np.ascontiguousarray(queries, dtype=np.float32)
        self._metric = metric
        self._queries = unit_rows(given) if metric == "cosine" else given
        self._squares = np.einsum("ij,ij->i", self._queries, self._queries, dtype=np.float64)

    def __len__(self) -> int:
        return len(self._queries)

    def reaching(self, documents: Matrix, floors: Floats) -> Pairs:
        """Every pair whose score is at least the query's floor.

        Args:
            documents: (documents, dimensions).
            floors: (queries,): -inf takes every document, +inf none.
        """
        given = np.ascontiguousarray(documents, dtype=np.float32)
        rows = unit_rows(given) if self._metric == "cosine" else given
        squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        asked = np.flatnonzero(floors < np.inf)
        found = [
            self._block(rows, squares, start, asked[column : column + _COLUMNS], floors)
            for start in range(0, len(rows), _ROWS)
            for column in range(0, len(asked), _COLUMNS)
        ]
        return _joined(found)

    def _block(
        self, rows: Matrix, squares: npt.NDArray[np.float64], start: int, columns: Places, floors: Floats
    ) -> Pairs:
        part = rows[start : start + _ROWS]
        queries = self._queries if len(columns) == len(self._queries) else self._queries[columns]
        products = part @ queries.T
        own, theirs = squares[start : start + _ROWS], self._squares[columns]
        least, slack = self._least(own, theirs, floors[columns].astype(np.float64))
        near, query = np.nonzero(products >= (least - slack).astype(np.float32))
        products64 = products[near, query].astype(np.float64)
        edge, room = _of_pairs(least, near, query), _of_pairs(slack, near, query)
        doubtful = np.flatnonzero(products64 < edge + room) if self._metric != "euclid" else np.arange(len(near))
        if len(doubtful):
            products64[doubtful] = _exact(part, queries, near[doubtful], query[doubtful])
        scores = self._scores(products64, own[near], theirs[query])
        tolerance = TOLERANCE * (room / _DOUBT if self._metric == "dot" else 1.0)
        kept = scores >= floors[columns[query]] - tolerance
        return Pairs(near[kept] + start, columns[query[kept]], scores[kept].astype(np.float32))

    def _least(
        self, own: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], floors: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The dot product that a pair needs, and the doubt about it; each (1 or documents, queries)."""
        if self._metric == "cosine":
            return floors[None, :], np.full((1, 1), _DOUBT)
        if self._metric == "dot":
            return floors[None, :], _DOUBT * np.sqrt(own)[:, None] * np.sqrt(theirs)[None, :]
        with np.errstate(divide="ignore"):
            reach = np.where(floors > 0, 1.0 / floors - 1.0, np.inf)
        reach = np.where(floors > 1, -np.inf, reach) * np.abs(reach)  # no score is above 1
        both = own[:, None] + theirs[None, :]
        return (both - reach[None, :]) / 2.0, _DOUBT * both

    def _scores(
        self, products: npt.NDArray[np.float64], own: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        if self._metric != "euclid":
            return products
        return np.asarray(1.0 / (1.0 + np.sqrt(np.maximum(own + theirs - 2.0 * products, 0.0))))

    def counts(self, documents: Matrix, floors: Floats) -> npt.NDArray[np.int64]:
        """How many of the documents reach the floor of each query, at most a hair too many."""
        counted: npt.NDArray[np.int64] = np.bincount(self.reaching(documents, floors).queries, minlength=len(self))
        return counted


def _of_pairs(values: npt.NDArray[np.float64], rows: Places, columns: Places) -> npt.NDArray[np.float64]:
    """Values of pairs out of a table with one row or one column for all."""
    found: npt.NDArray[np.float64] = values[
        rows if values.shape[0] > 1 else np.zeros_like(rows), columns if values.shape[1] > 1 else np.zeros_like(columns)
    ]
    return found


def _exact(part: Matrix, queries: Matrix, rows: Places, columns: Places) -> npt.NDArray[np.float64]:
    """Dot products of pairs in float64."""
    made = np.empty(len(rows))
    for at in range(0, len(rows), 4_096):
        left = part[rows[at : at + 4_096]].astype(np.float64)
        right = queries[columns[at : at + 4_096]].astype(np.float64)
        made[at : at + 4_096] = np.einsum("ij,ij->i", left, right)
    return made


def _joined(found: list[Pairs]) -> Pairs:
    if not found:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    documents = np.concatenate([pairs.documents for pairs in found])
    queries = np.concatenate([pairs.queries for pairs in found])
    scores = np.concatenate([pairs.scores for pairs in found])
    order = np.lexsort((queries, documents))
    return Pairs(documents[order], queries[order], scores[order])
