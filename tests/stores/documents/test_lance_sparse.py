"""Sparse vectors in Lance: stored beside dense ones, read back, and searched exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.errors import ConflictError, ValidationError
from mediatheca.kernel.filters import Leaf, parse_filter
from mediatheca.kernel.sparse import dots, sparse_vector, to_wire
from mediatheca.stores.documents.base import Scan, Tombstones
from mediatheca.stores.documents.lance import LanceDocuments

COLLECTION = "col_sparse"
TERMS = VectorIndex("terms", "mixpeek://x@v1/terms", 0, metric="dot", sparse=True)
DENSE = VectorIndex("dense", "mixpeek://x@v1/dense", 2)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LanceDocuments]:
    made = LanceDocuments(str(tmp_path / "documents"))
    made.ensure(COLLECTION, [TERMS, DENSE])
    yield made
    made.close()


def document(ident: str, indices: list[int] | None, values: list[float] | None = None, **payload: object) -> Document:
    vectors = {} if indices is None else {"terms": sparse_vector(indices, values or [1.0] * len(indices))}
    return Document(ident, COLLECTION, dict(payload), vectors)


def test_a_sparse_vector_is_stored_beside_a_dense_one_and_read_back(store):
    both = document("a", [4_000_000_000, 3], [0.5, -2.0])
    both.vectors["dense"] = np.array([1, 0], np.float32)
    store.upsert(COLLECTION, [both, document("b", []), document("c", None)], 1)
    a, b, c = store.get(COLLECTION, ["a", "b", "c"], vectors=True)
    assert to_wire(a.vectors["terms"]) == {"indices": [3, 4_000_000_000], "values": [-2.0, 0.5]}
    assert a.vectors["dense"].tolist() == [1, 0]
    assert len(b.vectors["terms"]) == 0
    assert c.vectors == {}
    (page,) = store.changes(COLLECTION, 0)
    assert {d.document_id: len(d.vectors.get("terms", ())) for d in page} == {"a": 2, "b": 0, "c": 0}
    assert [d.document_id for d in store.scan(COLLECTION, Scan(vectors=["terms"]))] == ["a", "b", "c"]


def test_a_scan_finds_what_shares_terms_best_first(store):
    rows = [document("a", [1, 2], [1.0, 5.0]), document("b", [2], [1.0]), document("c", [9]), document("d", None)]
    store.upsert(COLLECTION, [*rows, document("e", [1], [-1.0])], 1)
    found = store.nearest(COLLECTION, TERMS, sparse_vector([1, 2], [1.0, 0.5]), 9)
    assert [(round(score, 4), d.document_id) for score, d in found] == [(3.5, "a"), (0.5, "b"), (-1.0, "e")]
    assert store.nearest(COLLECTION, TERMS, sparse_vector([], []), 9) == []
    assert [d.document_id for _, d in store.nearest(COLLECTION, TERMS, sparse_vector([2], [1.0]), 1)] == ["a"]


def test_a_scan_obeys_filters_and_tombstones(store):
    store.upsert(COLLECTION, [document(f"d{n:03}", [1, n + 5], n=n, s=f"x{n}") for n in range(300)], 1)
    query = sparse_vector([1], [1.0])
    few = store.nearest(COLLECTION, TERMS, query, 300, parse_filter({"n": {"lt": 7}}))
    assert len(few) == 7
    odd = store.nearest(COLLECTION, TERMS, query, 20, Leaf("s", "regex", "^x29[0-9]$"))
    assert len(odd) == 10
    dead = Tombstones(documents={"d000": 1})
    left = store.nearest(COLLECTION, TERMS, query, 5, tombstones=dead)
    assert [d.document_id for _, d in left] == [f"d{n:03}" for n in range(1, 6)]


def test_a_scan_gives_the_dot_products(store):
    generator = np.random.default_rng(2)
    rows = []
    for _ in range(100):
        count = int(generator.integers(1, 9))
        rows.append(sparse_vector(generator.choice(40, count, replace=False), generator.normal(size=count)))
    store.upsert(COLLECTION, [Document(f"d{n:02}", COLLECTION, {}, {"terms": v}) for n, v in enumerate(rows)], 1)
    query = rows[0]
    expected = dots(query, np.concatenate(rows), [len(row) for row in rows])
    found = {d.document_id: score for score, d in store.nearest(COLLECTION, TERMS, query, 100)}
    assert found == pytest.approx({f"d{n:02}": s for n, s in enumerate(expected.tolist()) if s})


def test_vectors_of_the_wrong_kind_are_refused_by_document_and_index(store):
    with pytest.raises(ValidationError, match=r"a\.vectors\.terms"):
        store.upsert(COLLECTION, [Document("a", COLLECTION, {}, {"terms": np.ones(3, np.float32)})], 1)
    with pytest.raises(ValidationError, match=r"a\.vectors\.dense"):
        store.upsert(COLLECTION, [Document("a", COLLECTION, {}, {"dense": sparse_vector([1], [1.0])})], 1)
    with pytest.raises(ValidationError, match="terms"):
        store.nearest(COLLECTION, TERMS, np.ones(2, np.float32), 5)
    with pytest.raises(ConflictError, match="sparse"):
        store.ensure(COLLECTION, [VectorIndex("terms", TERMS.feature_uri, 4)])


def test_a_sparse_index_may_come_later(store):
    later = VectorIndex("later", "mixpeek://x@v1/later", 0, metric="dot", sparse=True)
    store.upsert(COLLECTION, [document("a", [1])], 1)
    store.ensure(COLLECTION, [TERMS, DENSE, later])
    store.upsert(COLLECTION, [Document("b", COLLECTION, {}, {"later": sparse_vector([7], [1.0])})], 2)
    assert [d.document_id for _, d in store.nearest(COLLECTION, later, sparse_vector([7], [1.0]), 5)] == ["b"]
