"""What the contract suites of search indexes write and read: one collection with vectors of every kind."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pytest

from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.search import VectorQuery
from mediatheca.kernel.sparse import sparse_vector
from mediatheca.stores.index.base import IndexSpec, SearchIndex

COLLECTION = "col_contract"
SPEC = IndexSpec(
    COLLECTION,
    (
        VectorIndex("text", "mixpeek://t@v1/a", 4),
        VectorIndex("dots", "mixpeek://t@v1/b", 3, metric="dot"),
        VectorIndex("far", "mixpeek://t@v1/c", 2, metric="euclid"),
        VectorIndex("late", "mixpeek://t@v1/d", 2, metric="dot", multi=True),
        VectorIndex("terms", "mixpeek://t@v1/e", 0, metric="dot", sparse=True),
    ),
    {"title": "text", "body": "text", "brand": "keyword", "price": "float", "stock": "integer", "new": "bool"},
)


def vector(*numbers: float) -> Vector:
    return np.array(numbers, np.float32)


def key(number: int) -> str:
    """A document id whose order is the number's."""
    return str(uuid.UUID(int=number))


def document(number: int | str, seq: int = 1, payload: dict[str, Any] | None = None, **more: Any) -> Document:
    document_id = key(number) if isinstance(number, int) else number
    more.setdefault("vectors", {"text": vector(1, 0, 0, 0)})
    return Document(document_id, COLLECTION, {} if payload is None else payload, write_seq=seq, **more)


def found(hits: list[Any]) -> list[str]:
    return [hit.document_id for hit in hits]


def sparse_scores(index: SearchIndex, indices: list[int], values: list[float]) -> list[tuple[str, float]]:
    hits = index.query(COLLECTION, VectorQuery("terms", sparse_vector(indices, values), 9))
    return [(hit.document_id, round(hit.score, 4)) for hit in hits]


class FilledIndex:
    """Gives the rules of a contract an index with documents in it."""

    @pytest.fixture
    def filled(self, index: SearchIndex) -> SearchIndex:
        """Documents 0…39: brand A0…A3 in turn, price = number, every second one has a title."""
        index.ensure(SPEC)
        index.upsert(
            COLLECTION,
            [
                document(
                    n,
                    seq=n + 1,
                    payload={"brand": f"A{n % 4}", "price": float(n), "stock": n, "new": n % 2 == 0, "tags": ["x", n]}
                    | ({"title": f"Red fox number{n}"} if n % 2 else {"body": "blue whale and the red sea"}),
                    vectors={"text": vector(1, n / 40, 0, 0)},
                    object_id=f"obj_{n % 10}",
                    root_object_id=f"root_{n % 5}",
                )
                for n in range(40)
            ],
        )
        return index
