"""Exact nearest neighbours without an index: while the index is rebuilt, and in the tiers that have none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.documents import Document, Metric, Vector, VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.sparse import checked, dots
from mediatheca.stores.documents.lance_errors import lance_errors
from mediatheca.stores.documents.lance_reads import Selection, again, fetch_rows
from mediatheca.stores.documents.lance_schema import VectorColumn, flat_matrix, read_columns, vector_columns
from mediatheca.stores.documents.lance_sparse import flat_pairs
from mediatheca.stores.documents.lance_table import LanceTable, row_filter

_LANCE_METRIC = {"cosine": "cosine", "dot": "dot", "euclid": "l2"}
_BATCH = 8192

Scores = npt.NDArray[np.float64]
Ranked = list[tuple[float, Document]]


def nearest_documents(
    table: LanceTable, selection: Selection, index: VectorIndex, vector: Vector, limit: int
) -> Ranked:
    """Best first, equal scores by id. Every score is computed here, in float64, from the stored vector."""
    query = _query(index, vector)
    if limit <= 0 or not len(query):
        return []

    def read(handle: Any) -> Ranked:
        column = vector_columns(handle.schema).get(index.name)
        if column is None:
            return []
        exact = _Exact(handle, selection, column, index, query)
        if column.multi or column.sparse:
            return exact.rank_scored(limit)
        return exact.rank_dense(limit)

    return again(table, read)


def _query(index: VectorIndex, vector: Vector) -> npt.NDArray[Any]:
    """The query as rows of tokens, shape (tokens, dimensions); one row for a dense index; as it is for a sparse one."""
    if index.sparse:
        try:
            return checked(vector)
        except ValueError as error:
            raise ValidationError.at("vector", f"index '{index.name}': {error}", "vector") from error
    query = np.asarray(vector, np.float64)
    fits = query.ndim in ((1, 2) if index.multi else (1,)) and query.shape[-1] == index.dimensions and len(query) > 0
    if not fits or not np.isfinite(query).all():
        shape = f"(tokens, {index.dimensions})" if index.multi else f"({index.dimensions},)"
        raise ValidationError.at(
            "vector", f"index '{index.name}' takes finite numbers of shape {shape}, got shape {query.shape}", "vector"
        )
    return np.atleast_2d(query)


@dataclass(frozen=True, slots=True)
class _Exact:
    """One exact search of one immutable handle. `query`: shape (tokens, dimensions)."""

    handle: Any
    selection: Selection
    column: VectorColumn
    index: VectorIndex
    query: npt.NDArray[Any]

    def _fetch(self, places: Sequence[int]) -> list[Document]:
        columns = read_columns(self.handle.schema, (self.index.name,))
        return fetch_rows(self.handle, self.selection.collection_id, places, columns)

    def rank_dense(self, limit: int) -> Ranked:
        """Lance scans; what tombstones and the recheck take away is made up for by asking for more."""
        asked = limit + 16
        while True:
            places = self._nearest_places(asked)
            found = [(self._score(d), d) for d in self._fetch(places) if self.selection.keeps(d)]
            if len(found) >= limit or len(places) < asked:
                return _best(found, limit)
            asked *= 4

    def _score(self, document: Document) -> float:
        vector = np.asarray(document.vectors[self.index.name], np.float64)
        return float(similarity(self.query, vector[None], self.index.metric)[0, 0])

    def _nearest_places(self, limit: int) -> list[int]:
        """Row ids of the nearest rows; Lance leaves out rows without a distance: no vector, or zero under cosine."""
        nearest = {
            "column": self.column.column,
            "q": self.query[0].astype(np.float32),
            "k": limit,
            "metric": _LANCE_METRIC[self.index.metric],
            "use_index": False,
        }
        options = {"filter": self.selection.native, "prefilter": True, "with_row_id": True}
        with lance_errors("search", self.handle.uri):
            found = self.handle.scanner(columns=["_distance"], nearest=nearest, **options).to_table()
        places: list[int] = found["_rowid"].to_pylist()
        return places

    def rank_scored(self, limit: int) -> Ranked:
        """MaxSim or sparse dot product over every row, a batch at a time; only scores and row ids are kept."""
        with lance_errors("search", self.handle.uri):
            parts = list(self._sparse_scores() if self.column.sparse else self._multi_scores())
        if not parts:
            return []
        places, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.argsort(-scores, kind="stable")
        found: Ranked = []
        # Ties at the edge may need a few rows more; whole slices keep the choice by id.
        for start in range(0, len(order), max(limit * 2, 64)):
            chosen = order[start : start + max(limit * 2, 64)]
            documents = self._fetch(places[chosen].tolist())
            ranked = zip(scores[chosen], documents, strict=True)
            found += [(float(score), document) for score, document in ranked if self.selection.keeps(document)]
            if len(found) >= limit:
                break
        return _best(found, limit)

    def _batches(self) -> Iterator[Any]:
        """Every row that has a vector and passes what of the filter Lance can say, with its id."""
        column = self.column.column
        condition = row_filter(self.selection.native, f"{column} IS NOT NULL")
        scanner = self.handle.scanner(columns=[column], filter=condition, with_row_id=True, batch_size=_BATCH)
        return (batch for batch in scanner.to_batches() if batch.num_rows)

    def _sparse_scores(self) -> Iterator[tuple[npt.NDArray[np.int64], Scores]]:
        for batch in self._batches():
            scores = dots(self.query, *flat_pairs(batch.column(self.column.column)))
            found = np.flatnonzero(scores)  # a document without a term of the query is no match
            places = batch.column("_rowid").to_numpy(zero_copy_only=False)
            yield places[found], scores[found]

    def _multi_scores(self) -> Iterator[tuple[npt.NDArray[np.int64], Scores]]:
        column = self.column
        for batch in self._batches():
            tokens = batch.column(column.column)
            lengths = tokens.value_lengths().to_numpy(zero_copy_only=False)
            flat = flat_matrix(tokens.flatten(), column.dimensions).astype(np.float64)
            starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
            places = batch.column("_rowid").to_numpy(zero_copy_only=False)
            yield places, max_sim(self.query, flat, starts, self.index.metric)


def max_sim(
    query: npt.NDArray[np.float64], tokens: npt.NDArray[np.float64], starts: npt.NDArray[np.int64], metric: Metric
) -> Scores:
    """For each document (tokens from its start to the next): the sum over query tokens of the best match.

    euclid: 1 / (1 + sqrt(sum of the smallest squared distances)), as the index scores it.
    """
    if metric != "euclid":
        best = np.maximum.reduceat(similarity(query, tokens, metric), starts, axis=1)
        total: Scores = best.sum(axis=0)
        return total
    squared = np.minimum.reduceat(_squared(query, tokens), starts, axis=1).sum(axis=0)
    closeness: Scores = 1.0 / (1.0 + np.sqrt(squared))
    return closeness


def similarity(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], metric: Metric) -> Scores:
    """Shape (rows of a, rows of b); higher is better. A zero vector has cosine 0 with everything."""
    if metric == "euclid":
        near: Scores = 1.0 / (1.0 + np.sqrt(_squared(a, b)))
        return near
    product: Scores = a @ b.T
    if metric == "dot":
        return product
    norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None]
    cosine: Scores = np.divide(product, norms, out=np.zeros_like(product), where=norms > 0)
    return cosine


def _squared(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> Scores:
    total: Scores = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2.0 * (a @ b.T)
    squared: Scores = np.maximum(total, 0.0)
    return squared


def _best(found: Ranked, limit: int) -> Ranked:
    return sorted(found, key=lambda hit: (-hit[0], hit[1].document_id))[:limit]
