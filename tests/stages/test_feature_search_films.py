"""A recording as a query, piece by piece."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.models import ModelInfo
from mediatheca.kernel.search import Cutting, QueryPiece
from mediatheca.stages import CollectionView
from mediatheca.testing.stages import HashedWordsForTests, MemorySearcher, ModelsForTests, engine_for_tests

EYE = np.eye(8, dtype=np.float32)
SEEN = VectorIndex("seen", "mixpeek://multimodal_extractor@v1/seen", 8, model="seen", modalities=("image", "video"))
VIEW = CollectionView("col_f", "films", (SEEN,), {})
FILM = "data:video/mp4;base64,AAAA"
HOW = {"params": {"split_method": "time", "time_split_interval": 5}, "max_chunks": 4, "aggregation": "max"}


class Cutter:
    """As many pieces as the file is said to have; the piece `n` looks like document `n`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: list[tuple[bytes, Cutting]] = []

    async def __call__(self, data: bytes, index: VectorIndex, how: Cutting) -> list[QueryPiece]:
        self.asked.append((data, how))
        return [QueryPiece(EYE[n], (5000 * n, 5000 * (n + 1))) for n in range(min(self.count, how.most))]


async def whole(data: bytes, index: VectorIndex) -> Vector:
    return EYE[7]


def run(cutter: Cutter | None, views: tuple[CollectionView, ...] = (VIEW,), **parameters: Any) -> dict[str, Any]:
    searcher, models = MemorySearcher(), ModelsForTests()
    for view in views:
        (index,) = view.vectors
        models.known[index.model] = HashedWordsForTests(ModelInfo(index.model, index.model, "", 8))
        ident = view.collection_id
        searcher.add(view, [Document(f"{ident}{n}", ident, {}, {index.name: EYE[n]}) for n in range(8)])
    engine = engine_for_tests(searcher, models, decode=whole, cut=cutter)
    search = {"feature_uri": SEEN.feature_uri, "query": {"input_mode": "content", "value": FILM}, "top_k": 8}
    stage = {"stage_id": "feature_search", "parameters": {"searches": [search], "final_top_k": 3, **parameters}}
    plan = engine.compile([stage], list(views))
    return asyncio.run(engine.execute(plan, {}, ExecutionContext()))


def found(body: dict[str, Any]) -> list[str]:
    return [document["document_id"] for document in body["documents"]]


def test_every_piece_finds_its_own_and_says_when_it_is() -> None:
    cutter = Cutter(3)
    body = run(cutter, query_preprocessing=HOW)
    assert set(found(body)) == {"col_f0", "col_f1", "col_f2"}
    assert cutter.asked == [(b"\0\0\0", Cutting(4, 5))]
    for document in body["documents"]:
        best, number = document["query_chunks"][0], int(document["document_id"][-1])
        assert (best["chunk"], best["start_ms"], best["end_ms"]) == (number, 5000 * number, 5000 * (number + 1))
        assert best["start"] is None
        assert best["score"] == pytest.approx(1.0)


def test_without_preprocessing_a_film_is_looked_for_as_a_whole() -> None:
    cutter = Cutter(3)
    body = run(cutter)
    assert found(body)[0] == "col_f7"
    assert not cutter.asked


def test_what_has_one_piece_is_looked_for_by_it_and_what_has_none_as_a_whole() -> None:
    assert found(run(Cutter(1), query_preprocessing=HOW))[0] == "col_f0"
    for cutter in (Cutter(0), None):
        body = run(cutter, query_preprocessing=HOW)
        assert found(body)[0] == "col_f7"
        assert "searched for as a whole" in str(body["warnings"])


def test_pieces_of_one_model_are_not_compared_with_vectors_of_another() -> None:
    other = VectorIndex("seen", SEEN.feature_uri, 8, model="another", modalities=("image", "video"))
    cutter = Cutter(3)
    body = run(cutter, (VIEW, CollectionView("col_o", "others", (other,), {})), query_preprocessing=HOW)
    assert found(body)[0] in ("col_f7", "col_o7")
    assert not cutter.asked
    assert "different models" in str(body["warnings"])
