"""Joining two sets of vectors: for each query the best labels, exactly, in blocks that fit into the cache.

A block of queries is multiplied with all labels at once (one matrix product), so a join costs arithmetic and nothing
else: 100,000 queries x 1,000 labels x 384 dimensions are 77 billion operations.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.documents import Metric

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]

NONE = -1
"""The row of no label."""


def top_matches(
    queries: Matrix,
    labels: Matrix,
    k: int,
    *,
    metric: Metric = "cosine",
    floor: float | None = None,
    block: int = 4_096,
) -> tuple[Rows, Matrix]:
    """The `k` best labels of each query.

    Args:
        queries: shape (n, dimensions).
        labels: shape (m, dimensions).
        metric: scores as an index gives them: cosine and dot raw, euclid as 1 / (1 + distance). A zero vector has the
            cosine 0 with everything.
        floor: labels with a lower score are no match.
        block: queries multiplied at a time; memory: block x m x 4 bytes, twice.

    Returns:
        Rows of labels and their scores, both of shape (n, k), best first, equal scores by row. Where there are fewer
        matches the rest is `NONE` with the score 0.
    """
    if queries.ndim != 2 or labels.ndim != 2 or queries.shape[1] != labels.shape[1]:
        raise ValueError(f"queries and labels must be matrices of one width, got {queries.shape} and {labels.shape}")
    rows = np.full((len(queries), k), NONE, np.int32)
    scores = np.zeros((len(queries), k), np.float32)
    kept = min(k, len(labels))
    if not kept or not len(queries):
        return rows, scores
    prepared = _prepared(labels, metric)
    for start in range(0, len(queries), block):
        part = _scores(_prepared(queries[start : start + block], metric), prepared, metric)
        best = _best(part, kept)
        found = np.take_along_axis(part, best, axis=1)
        low = np.zeros_like(found, bool) if floor is None else found < floor
        rows[start : start + block, :kept] = np.where(low, NONE, best)
        scores[start : start + block, :kept] = np.where(low, 0.0, found)
    return rows, scores


def unit_rows(matrix: Matrix) -> Matrix:
    """Each row divided by its length; a zero row stays zero."""
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    scaled: Matrix = np.divide(matrix, lengths, out=np.zeros_like(matrix), where=lengths > 0)
    return scaled


def _prepared(matrix: Matrix, metric: Metric) -> Matrix:
    plain = np.ascontiguousarray(matrix, np.float32)
    return unit_rows(plain) if metric == "cosine" else plain


def _scores(queries: Matrix, labels: Matrix, metric: Metric) -> Matrix:
    products: Matrix = queries @ labels.T
    if metric != "euclid":
        return products
    # |q - l|² = |q|² + |l|² - 2 q·l, in place.
    products *= -2.0
    products += np.einsum("ij,ij->i", queries, queries)[:, None]
    products += np.einsum("ij,ij->i", labels, labels)[None]
    np.maximum(products, 0.0, out=products)
    np.sqrt(products, out=products)
    products += 1.0
    return np.reciprocal(products, out=products)


def _best(scores: Matrix, k: int) -> Rows:
    """Columns of the k highest scores of each row, best first; of equal ones the lowest columns."""
    if k == 1:
        first: Rows = np.argmax(scores, axis=1).astype(np.int32)[:, None]
        return first
    if k < scores.shape[1]:
        chosen = np.argpartition(scores, -k, axis=1)[:, -k:]
        # Equal scores on the border: the partition may have taken any of them.
        border = np.take_along_axis(scores, chosen, axis=1).min(axis=1)
        tied = np.flatnonzero((scores >= border[:, None]).sum(axis=1) > k)
        for row in tied:
            chosen[row] = np.argsort(-scores[row], kind="stable")[:k]
    else:
        chosen = np.broadcast_to(np.arange(k), (len(scores), k)).copy()
    chosen.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, chosen, axis=1), axis=1, kind="stable")
    best: Rows = np.take_along_axis(chosen, order, axis=1).astype(np.int32)
    return best
