"""A film, a recording, a PDF as a query: piece by piece where they are long, without being asked to."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Any

import numpy as np
import pytest

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.models import ModelInfo
from mediatheca.kernel.passages import TextCutting
from mediatheca.kernel.search import Cutting, QueryPiece
from mediatheca.stages import CollectionView
from mediatheca.stages._search_language import HARD_TIMEOUT_MS
from mediatheca.stages._search_params import Params
from mediatheca.testing.stages import HashedWordsForTests, MemorySearcher, ModelsForTests, engine_for_tests

EYE = np.eye(8, dtype=np.float32)
SEEN = VectorIndex("seen", "mixpeek://multimodal_extractor@v1/seen", 8, model="seen", modalities=("image", "video"))
VIEW = CollectionView("col_f", "films", (SEEN,), {})
FILM = "data:video/mp4;base64,AAAA"
HOW = {"params": {"split_method": "time", "time_split_interval": 5}, "max_chunks": 4, "aggregation": "max"}


class Cutter:
    """As many pieces as the file is said to have; the piece `n` looks like document `n`."""

    def __init__(self, count: int, pages: bool = False) -> None:
        self.count, self.pages, self.total = count, pages, 0
        self.asked: list[tuple[bytes, Cutting]] = []

    async def __call__(self, data: bytes, index: VectorIndex, how: Cutting) -> list[QueryPiece]:
        self.asked.append((data, how))
        self.total = self.count if self.count > how.most else 0
        return [self.piece(n) for n in range(min(self.count, how.most))]

    def piece(self, n: int) -> QueryPiece:
        place: dict[str, Any] = {"page": n + 1} if self.pages else {"time_ms": (5000 * n, 5000 * (n + 1))}
        return QueryPiece(EYE[n], **place, total=self.total)


async def whole(data: bytes, index: VectorIndex) -> Vector:
    return EYE[7]


def run(
    cutter: Cutter | None,
    views: tuple[CollectionView, ...] = (VIEW,),
    value: str = FILM,
    then: list[dict[str, Any]] | None = None,
    settings: dict[str, Any] | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    searcher, models = MemorySearcher(), ModelsForTests()
    for view in views:
        (index,) = view.vectors
        models.known[index.model] = HashedWordsForTests(ModelInfo(index.model, index.model, "", 8))
        ident = view.collection_id
        searcher.add(view, [Document(f"{ident}{n}", ident, {}, {index.name: EYE[n]}) for n in range(8)])
    engine = engine_for_tests(searcher, models, decode=whole, cut=cutter)
    search = {"feature_uri": SEEN.feature_uri, "query": {"input_mode": "content", "value": value}, "top_k": 8}
    stage = {"stage_id": "feature_search", "parameters": {"searches": [search], "final_top_k": 3, **parameters}}
    plan = engine.compile([stage, *(then or [])], list(views))
    return asyncio.run(engine.execute(plan, {"settings": settings or {}}, ExecutionContext()))


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


def test_a_film_is_looked_for_as_a_whole_where_that_is_asked() -> None:
    cutter = Cutter(3)
    body = run(cutter, auto_preprocess=False)
    assert found(body)[0] == "col_f7"
    assert not cutter.asked


WAV = b64encode(b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(60)).decode()
PDF = b64encode(b"%PDF-1.7 and so on").decode()
PNG = b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode()


@pytest.mark.parametrize("value", [FILM, WAV, PDF, f"data:application/octet-stream;base64,{PDF}"])
def test_what_may_be_long_is_cut_without_being_asked_to(value: str) -> None:
    cutter = Cutter(3)
    body = run(cutter, value=value)
    assert set(found(body)) == {"col_f0", "col_f1", "col_f2"}
    ((_, how),) = cutter.asked
    assert (how.most, how.seconds, how.text) == (20, None, None)
    assert body["documents"][0]["query_chunks"][0]["end_ms"] > 0
    assert body["warnings"] == []


@pytest.mark.parametrize("value", [PNG, f"data:image/png;base64,{PNG}", "aGVsbG8="])
def test_what_is_not_long_is_looked_for_as_a_whole_and_nothing_is_said(value: str) -> None:
    cutter = Cutter(3)
    body = run(cutter, value=value)
    assert found(body)[0] == "col_f7"
    assert "query_chunks" not in body["documents"][0]
    assert not cutter.asked
    assert body["warnings"] == []


def test_what_is_said_wins_over_what_is_done_by_itself() -> None:
    cutter = Cutter(6)
    run(cutter, query_preprocessing=HOW)
    run(cutter, query_preprocessing={"max_chunks": 2}, auto_preprocess=False)
    assert [(how.most, how.seconds) for _, how in cutter.asked] == [(4, 5), (2, None)]


def test_how_texts_are_cut_is_passed_on_where_it_was_said() -> None:
    cutter = Cutter(3, pages=True)
    run(cutter, value=PDF, query_preprocessing={"split_method": "sentences", "chunk_size": 200})
    assert cutter.asked[0][1].text == TextCutting("sentences", 200)


def test_pages_are_told_as_pages_and_have_no_times() -> None:
    body = run(Cutter(3, pages=True), value=PDF, query_preprocessing={"aggregation": "max"})
    best = {document["document_id"]: document["query_chunks"][0] for document in body["documents"]}
    assert {ident: (chunk["chunk"], chunk["page"]) for ident, chunk in best.items()} == {
        "col_f0": (0, 1), "col_f1": (1, 2), "col_f2": (2, 3),
    }  # fmt: skip
    assert all(chunk["start_ms"] is chunk["end_ms"] is chunk["start"] is None for chunk in best.values())
    moments = run(Cutter(3, pages=True), value=PDF, then=[{"stage_id": "moment_group", "parameters": {}}])
    assert moments["stage_statistics"]["stages"]["moment_group"]["metadata"]["moments"] == 0


def test_times_of_pieces_become_moments() -> None:
    then = [{"stage_id": "moment_group", "parameters": {"parent_field": "collection_id"}}]
    body = run(Cutter(3), then=then, query_preprocessing=HOW)
    (moment,) = body["documents"][0]["moments"]
    assert (moment["start_ms"], moment["end_ms"]) == (0, 15_000)


def test_more_pieces_than_are_searched_for_are_told_and_a_request_may_allow_fewer() -> None:
    cutter = Cutter(6)
    body = run(cutter, settings={"max_chunks": 2})
    assert cutter.asked[0][1].most == 2
    assert {"name": "query_chunks", "requested": 6, "applied": 2}.items() <= body["limits"][0].items()
    assert run(Cutter(3))["limits"] == []


@pytest.mark.parametrize(
    ("query", "more", "patient"),
    [
        ({"input_mode": "content", "value": FILM}, {}, True),
        ({"input_mode": "content", "value": "https://example.com/watch"}, {}, True),
        ({"input_mode": "content", "value": FILM}, {"auto_preprocess": False}, False),
        ({"input_mode": "content", "value": PNG}, {}, False),
        ({"input_mode": "content", "value": PNG}, {"query_preprocessing": {}}, True),
        ({"input_mode": "content", "value": "https://example.com/a.jpg"}, {}, False),
        ({"input_mode": "text", "value": "a cat"}, {}, False),
        ({"input_mode": "text", "value": "a cat"}, {"query_preprocessing": {}}, False),
        ({"input_mode": "content", "value": FILM}, {"hard_timeout_ms": 700}, None),
    ],
)
def test_what_may_be_cut_is_given_the_time_that_takes(
    query: dict[str, Any], more: dict[str, Any], patient: bool | None
) -> None:
    made = Params.model_validate({"searches": [{"feature_uri": "x", "query": query}], **more})
    assert made.hard_timeout_ms == (700 if patient is None else HARD_TIMEOUT_MS if patient else 5000)


def test_what_has_one_piece_is_looked_for_by_it_and_what_has_none_as_a_whole() -> None:
    body = run(Cutter(1), query_preprocessing=HOW)
    assert found(body)[0] == "col_f0"
    assert body["documents"][0]["score"] == pytest.approx(1.0)
    assert body["documents"][0]["query_chunks"][0]["end_ms"] == 5000
    assert body["warnings"] == []
    for cutter in (Cutter(0), None):
        body = run(cutter, query_preprocessing=HOW)
        assert found(body)[0] == "col_f7"
        assert "searched for as a whole" in str(body["warnings"])
        assert run(cutter)["warnings"] == []


def test_pieces_of_one_model_are_not_compared_with_vectors_of_another() -> None:
    other = VectorIndex("seen", SEEN.feature_uri, 8, model="another", modalities=("image", "video"))
    cutter = Cutter(3)
    body = run(cutter, (VIEW, CollectionView("col_o", "others", (other,), {})), query_preprocessing=HOW)
    assert found(body)[0] in ("col_f7", "col_o7")
    assert not cutter.asked
    assert "different models" in str(body["warnings"])
    views = (VIEW, CollectionView("col_o", "others", (other,), {}))
    assert "different models" in str(run(cutter, views)["warnings"])
    assert "as a whole" not in str(run(cutter, views, PNG)["warnings"])
