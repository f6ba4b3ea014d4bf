"""Scan, count and nearest select what `Filter.matches` selects, whatever part of a filter Lance itself can decide."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.filters import document_view, parse_filter
from mediatheca.kernel.present import system_fields
from mediatheca.stores.documents.base import Scan, Tombstones
from mediatheca.stores.documents.lance import LanceDocuments
from mediatheca.stores.documents.lance_reads import Selection

COLLECTION = "col_filters"
INDEX = VectorIndex("text_v1_vector", "mixpeek://text@v1/vector", 4)
START = datetime(2026, 1, 1, tzinfo=UTC)

# One field with every type a payload may have at it: types never fail a query.
VALUES: list[Any] = [
    1,
    1.0,
    5,
    2.5,
    -3,
    "5",
    "abc",
    "ABC",
    "it's 100%",
    True,
    False,
    None,
    [],
    [1, "abc"],
    {"k": 5},
    {},
    "",
]

FILTERS: list[dict[str, Any]] = [
    {"x": 5},
    {"x": {"$gt": 1}},
    {"x": {"$lte": 2.5}},
    {"x": {"$ne": "abc"}},
    {"x": {"$in": [1, "abc", None]}},
    {"x": {"$nin": ["abc", 5]}},
    {"x": {"$exists": True}},
    {"x": {"$exists": False}},
    {"x": {"$is_null": True}},
    {"x": {"$contains": "b"}},
    {"x": {"$starts_with": "IT'S"}},
    {"x": "it's 100%"},
    {"x.k": 5},
    {"x.k": {"$exists": False}},
    {"missing": 1},
    {"NOT": [{"missing": 1}]},
    {"NOT": [{"x": {"$gt": 0}}]},
    {"AND": [{"x": {"$exists": True}}, {"n": {"$lt": 20}}]},
    {"OR": [{"x": 1}, {"n": {"$gte": 50}}]},
    {"NOT": [{"OR": [{"x": "abc"}, {"AND": [{"n": {"$gt": 3}}, {"n": {"$lt": 40}}]}]}]},
    {"document_id": "d-007"},
    {"document_id": {"$in": ["d-007", "d-011", "nope"]}},
    {"NOT": [{"document_id": {"$in": ["d-007", "d-011"]}}]},
    {"root_object_id": "root-3"},
    {"_internal.object_id": "obj-2"},
    {"created_at": {"$gte": "2026-01-11T00:00:00Z"}},
    {"AND": [{"created_at": {"$lt": "2026-01-21T00:00:00Z"}}, {"n": {"$gt": 5}}]},
    {"collection_id": COLLECTION},
    {"collection_id": "col_other"},
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LanceDocuments:
    store = LanceDocuments(str(tmp_path_factory.mktemp("filters") / "documents"))
    store.ensure(COLLECTION, [INDEX])
    documents = []
    for number in range(68):
        payload = {"n": number} | ({"x": VALUES[number % len(VALUES)]} if number % 4 else {})
        documents.append(
            Document(
                f"d-{number:03d}",
                COLLECTION,
                payload,
                {INDEX.name: np.array([number, 1, 0, 0], np.float32)},
                object_id=f"obj-{number % 5}",
                root_object_id=f"root-{number % 7}",
                created_at=START + timedelta(days=number % 30),
            )
        )
    store.upsert(COLLECTION, documents, 1)
    return store


@pytest.mark.parametrize("raw", FILTERS, ids=str)
def test_every_read_selects_the_same_documents(store: LanceDocuments, raw: dict[str, Any]) -> None:
    condition = parse_filter(raw)
    assert condition is not None
    stones = Tombstones(documents={"d-008": 1, "d-030": 0}, objects={"root-6": 1})
    every = list(store.scan(COLLECTION, Scan()))
    expected = [
        d.document_id
        for d in every
        if condition.matches(document_view(d.payload, d.document_id, COLLECTION, system_fields(d)))
    ]
    alive = [i for i in expected if i in {d.document_id for d in every if not stones.cover(d)}]
    assert [d.document_id for d in store.scan(COLLECTION, Scan(filter=condition))] == expected
    assert [d.document_id for d in store.scan(COLLECTION, Scan(filter=condition), tombstones=stones)] == alive
    assert store.count(COLLECTION, condition) == len(expected)
    assert store.count(COLLECTION, condition, tombstones=stones) == len(alive)
    of_object = [d.document_id for d in every if d.object_id == "obj-1" and d.document_id in alive]
    assert store.count(COLLECTION, condition, tombstones=stones, object_ids=["obj-1"]) == len(of_object)
    query = np.array([1, 0, 0, 0], np.float32)
    near = store.nearest(COLLECTION, VectorIndex(INDEX.name, "", 4, "dot"), query, 100, condition, tombstones=stones)
    assert [d.document_id for _, d in near] == alive[::-1]
    paged: list[str] = []
    while page := list(store.scan(COLLECTION, Scan(filter=condition, after=paged[-1] if paged else "", limit=5))):
        paged += [d.document_id for d in page]
    assert paged == expected


def test_a_count_rechecks_only_what_lance_leaves_undecided(store: LanceDocuments) -> None:
    tree = parse_filter({"OR": [{"n": {"$lt": 60}}, {"n": {"regex": "."}}]})
    chosen = Selection.of(COLLECTION, tree, Tombstones())
    handle = store._table(COLLECTION).reader()
    assert chosen.filter is not None
    assert handle.count_rows(chosen.certain) == 60
    assert handle.count_rows(f"{chosen.native} AND NOT ({chosen.certain})") == 8
    assert store.count(COLLECTION, tree) == 60
