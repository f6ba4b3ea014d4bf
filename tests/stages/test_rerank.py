"""The stages `rerank` and `maxsim_rerank`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.models import ModelInfo
from mediatheca.stages import CollectionView
from mediatheca.stages.maxsim_rerank import maxsim_rerank
from mediatheca.stages.rerank import rerank
from mediatheca.testing.stages import (
    TEXT_INDEX,
    TEXT_URI,
    MemorySearcher,
    ModelsForTests,
    StageSuite,
    engine_for_tests,
    hashed_words,
    text_documents,
)

VIEW = CollectionView("col_1", "notes", (TEXT_INDEX,), {"text": "text"})
LONG = "Nothing of interest stands here. " * 100 + "Only the red fox jumps over the wall. " + "And so on and on. " * 50
ROWS = [
    {"document_id": "a", "text": "red red red"},
    {"document_id": "b", "text": "the red fox jumps"},
    {"document_id": "c", "text": "fox"},
    {"document_id": "d", "text": LONG},
    {"document_id": "e", "text": "", "title": ""},
]
SEARCH = {
    "stage_id": "feature_search",
    "parameters": {"searches": [{"feature_uri": TEXT_URI, "query": "{{INPUT.query}}"}]},
}


def run(
    parameters: dict[str, Any],
    models: ModelsForTests | None = None,
    rows: Any = ROWS,
    query: str = "red fox jumps",
    answered: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """`answered` is called when there is an answer."""

    async def execute() -> dict[str, Any]:
        try:
            return await engine.execute(plan, {"inputs": {"query": query}, "limit": 100}, ExecutionContext())
        finally:
            answered()

    searcher = MemorySearcher()
    searcher.add(VIEW, text_documents(VIEW, rows))
    engine = engine_for_tests(searcher, models)
    plan = engine.compile([SEARCH, {"stage_id": "rerank", "parameters": parameters}], [VIEW])
    return asyncio.run(execute())


def ids(body: dict[str, Any]) -> list[str]:
    return [document["document_id"] for document in body["documents"]]


def metadata(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body["stage_statistics"]["stages"]["rerank"]["metadata"]
    return found


HERE = {"inference_name": "shared_words"}


class TestRerank(StageSuite):
    stage = rerank
    parameters: ClassVar[dict[str, Any]] = HERE


def test_documents_are_sorted_by_the_model_and_say_where_they_came_from():
    body = run(HERE)
    assert ids(body)[0] == "b"
    first = body["documents"][0]
    scores = first["scores"]
    assert first["score"] == scores["rerank"]
    assert scores["original_score"] == scores["feature_search"]
    assert scores["rerank_position"] == 1
    assert 0 < scores["rerank_probability"] < 1
    assert metadata(body)["model"] == "shared words (for tests)"
    assert body["status"] == "completed"


def test_of_a_long_document_the_best_passage_counts():
    whole = run({**HERE, "max_document_chars": 50_000})
    assert set(ids(whole)[:2]) == {"b", "d"}
    cut = run({**HERE, "max_document_chars": 1000})
    assert ids(cut).index("d") > ids(cut).index("c")
    assert cut["limits"][0]["name"] == "document_characters"


def test_a_document_without_text_is_scored_as_empty_and_told():
    body = run({**HERE, "document_field": "text"})
    assert any("1 of 5 documents have no text" in warning for warning in body["warnings"])
    assert "e" in ids(body)


def test_only_the_first_candidates_are_scored_and_the_rest_follow_in_their_order():
    body = run({**HERE, "max_candidates": 2})
    scored = [document for document in body["documents"] if "rerank" in document["scores"]]
    assert scored == body["documents"][:2]
    scores = [document["score"] for document in body["documents"]]
    assert scores == sorted(scores, reverse=True)
    assert metadata(body)["scored"] == 2


def test_top_k_cuts_after_sorting():
    assert ids(run({**HERE, "top_n": 1})) == ["b"]
    assert len(ids(run({**HERE, "top_k": 5000}))) == 5


def test_the_number_may_be_written_elsewhere():
    body = run({**HERE, "score_field": "relevance"})
    assert body["documents"][0]["relevance"] == body["documents"][0]["score"]


def test_an_empty_query_leaves_the_order():
    body = run({**HERE, "query": " "})
    assert body["status"] == "completed"
    assert any("query is empty" in warning for warning in body["warnings"])


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_batches_do_not_change_the_order(batch: int):
    models = ModelsForTests()
    assert ids(run({**HERE, "batch_size": batch}, models)) == ids(run(HERE))
    assert max(models.rerankers["shared_words"].calls) <= batch  # type: ignore[attr-defined]


def test_without_a_reranker_documents_are_sorted_by_words_and_vectors_under_another_name():
    body = run({"inference_name": "BAAI__bge_reranker_v2_m3"})
    assert ids(body)[0] == "b"
    scores = body["documents"][0]["scores"]
    assert "rerank" not in scores
    assert "rerank_probability" not in scores
    assert body["documents"][0]["score"] == scores["rerank_lexical_dense"]
    cosine = float(hashed_words("red fox jumps") @ hashed_words("the red fox jumps"))
    assert cosine < scores["rerank_lexical_dense"] <= cosine + 0.2
    assert body["status"] == "degraded"
    assert metadata(body)["model"] == "lexical_dense"
    assert metadata(body)["requested"] == "BAAI__bge_reranker_v2_m3"
    assert "instead of 'BAAI__bge_reranker_v2_m3'" in body["degraded"][0]["reason"]


class Slow:
    """A reranker that waits until it is let go."""

    def __init__(self) -> None:
        self.info = ModelInfo("slow", "slow", "sha256:slow", 1, modalities=("rerank",))
        self.go = threading.Event()
        self.calls = 0

    def score(self, query: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.calls += 1
        self.go.wait(120)
        return np.zeros(len(texts), np.float32)


def test_a_reranker_that_is_too_slow_leaves_the_order_says_so_and_stops():
    models = ModelsForTests()
    slow = models.rerankers["slow"] = Slow()
    plain = ids(run({**HERE, "query": " "}))
    asked = {"inference_name": "slow", "hard_timeout_ms": 1500, "batch_size": 1, "max_concurrent_batches": 1}
    body = run(asked, models, answered=slow.go.set)
    assert ids(body) == plain
    assert body["status"] == "degraded"
    assert "1500 ms" in body["degraded"][0]["reason"]
    assert slow.calls == 1


def test_a_model_that_gives_nonsense_does_not_break_the_order():
    class Nonsense(Slow):
        def score(self, query: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
            return np.array([np.nan if "fox" in text else np.inf for text in texts], np.float32)

    models = ModelsForTests()
    models.rerankers["nonsense"] = Nonsense()
    body = run({"inference_name": "nonsense"}, models)
    assert ids(body)[0] in ("a", "e")
    assert body["status"] == "completed"


# a stored vector


def test_documents_are_sorted_by_the_cosine_of_a_stored_vector():
    body = run({"feature_uri": TEXT_URI, "query": "fox"}, query="red")
    assert ids(body)[0] == "c"
    asked = hashed_words("fox")
    for document in body["documents"][:3]:
        text = next(row["text"] for row in ROWS if row["document_id"] == document["document_id"])
        assert document["scores"]["rerank"] == pytest.approx(float(asked @ hashed_words(text)), abs=1e-6)
    assert metadata(body)["without_vector"] == 0


def test_a_document_without_the_vector_follows_those_that_have_one():
    searcher = MemorySearcher()
    searcher.add(VIEW, [*text_documents(VIEW, ROWS), Document("bare", "col_1", {"text": "red fox jumps"})])
    engine = engine_for_tests(searcher)
    listed = {"stage_id": "attribute_filter", "parameters": {"field": "text", "operator": "exists", "value": True}}
    plan = engine.compile([listed, {"stage_id": "rerank", "parameters": {"feature_uri": TEXT_URI}}], [VIEW])
    body = asyncio.run(engine.execute(plan, {"inputs": {"query": "red fox jumps"}, "limit": 100}, ExecutionContext()))
    assert ids(body)[-1] == "bare"
    assert any("1 documents have no vector" in warning for warning in body["warnings"])
    scores = [document["score"] for document in body["documents"]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"feature_uri": "mixpeek://nothing@v1/here"}, "no collection has"),
        ({"feature_uri": TEXT_URI, "decision_model": "m"}, "cannot be combined with decision_model"),
        ({"feature_uri": TEXT_URI, "relevance_criteria": "new"}, "cannot be combined with relevance_criteria"),
    ],
)
def test_a_feature_that_cannot_decide_is_refused_when_the_retriever_is_made(parameters: Any, message: str):
    with pytest.raises(ValidationError, match=message):
        run(parameters)


def test_vectors_that_no_text_compares_with_are_refused_when_the_retriever_is_made():
    for index, message in [(LATE, "cannot be compared with a text"), (LATE_TEXT, "maxsim_rerank")]:
        view = CollectionView("col_1", "notes", (TEXT_INDEX, index), {})
        stages = [SEARCH, {"stage_id": "rerank", "parameters": {"feature_uri": index.feature_uri}}]
        with pytest.raises(ValidationError, match=message):
            engine_for_tests(MemorySearcher()).compile(stages, [view])


def test_a_learning_config_is_said_to_have_no_effect():
    body = run({**HERE, "learning_config": {"reward_signal": "click"}})
    assert any("learning_config has no effect" in warning for warning in body["warnings"])


# maxsim_rerank

LATE = VectorIndex("late", "mixpeek://document_extractor@v1/late", 4, metric="dot", multi=True, modalities=())
PAGES = CollectionView("col_p", "pages", (LATE,), {})
LATE_TEXT = VectorIndex("late_text", "mixpeek://document_extractor@v1/late_text", 4, model="late", multi=True)
URI = LATE.feature_uri


def eye(*rows: int) -> npt.NDArray[np.float32]:
    return np.eye(4, dtype=np.float32)[list(rows)]


def warehouse() -> MemorySearcher:
    searcher = MemorySearcher()
    notes = text_documents(VIEW, ROWS)
    for number, document in enumerate(notes):
        object.__setattr__(document, "root_object_id", f"root_{number}")
    searcher.add(VIEW, notes)
    late = {0: eye(0), 1: eye(0, 1), 2: eye(2, 3)}
    pages = [Document(f"p{n}", "col_p", {}, {"late": v}, f"obj_{n}", f"root_{n}") for n, v in late.items()]
    pages.append(Document("p9", "col_p", {}, {"late": eye(0, 1, 2)}, "obj_9", "root_2"))
    searcher.add(PAGES, pages)
    return searcher


def late(parameters: dict[str, Any]) -> dict[str, Any]:
    engine = engine_for_tests(warehouse())
    base = {"searches": [{"feature_uri": TEXT_URI, "query": "red fox", "collection_identifiers": ["notes"]}]}
    stages = [
        {"stage_id": "feature_search", "parameters": base},
        {"stage_id": "maxsim_rerank", "parameters": {"feature_uri": URI, **parameters}},
    ]
    plan = engine.compile(stages, [VIEW, PAGES])
    return asyncio.run(engine.execute(plan, {"limit": 100}, ExecutionContext()))


QUERY = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]]


def test_maxsim_adds_up_the_best_match_of_each_query_vector_over_documents_of_one_object():
    body = late({"query": QUERY, "match_on": "root_object_id"})
    assert ids(body)[:3] == ["c", "b", "a"]
    assert [document["scores"].get("maxsim") for document in body["documents"]] == [3.0, 2.0, 1.0, None, None]
    scores = [document["score"] for document in body["documents"]]
    assert scores == sorted(scores, reverse=True)


def test_documents_without_such_vectors_may_be_dropped():
    assert ids(late({"query": QUERY, "match_on": "root_object_id", "missing": "drop"})) == ["c", "b", "a"]
    assert ids(late({"query": QUERY, "missing": "drop"})) == []


def test_only_the_first_are_scored():
    body = late({"query": QUERY, "match_on": "root_object_id", "top_n": 1})
    assert sum("maxsim" in document["scores"] for document in body["documents"]) == 1
    assert len(ids(body)) == 5


def test_maxsim_over_the_found_documents_themselves():
    engine = engine_for_tests(warehouse())
    first = {"searches": [{"feature_uri": URI, "query": {"input_mode": "vector", "value": [[0, 0, 0, 1.0]]}}]}
    stages = [
        {"stage_id": "feature_search", "parameters": first},
        {"stage_id": "maxsim_rerank", "parameters": {"feature_uri": URI, "query": QUERY}},
    ]
    body = asyncio.run(engine.execute(engine.compile(stages, [PAGES]), {}, ExecutionContext()))
    assert ids(body)[:2] == ["p9", "p1"]
    assert [document["score"] for document in body["documents"]] == [3.0, 2.0, 1.0, 1.0]


def test_what_maxsim_cannot_do_is_refused():
    with pytest.raises(ValidationError, match="one vector a document"):
        engine_for_tests(warehouse()).compile(
            [SEARCH, {"stage_id": "maxsim_rerank", "parameters": {"feature_uri": TEXT_URI}}], [VIEW]
        )
    with pytest.raises(ValidationError, match="4"):
        late({"query": [[1.0, 2.0]], "match_on": "root_object_id"})
    with pytest.raises(ValidationError, match="written directly"):
        late({"query": "a text", "match_on": "root_object_id"})


class TestMaxSimRerank(StageSuite):
    stage = maxsim_rerank
    parameters: ClassVar[dict[str, Any]] = {"feature_uri": URI, "query": QUERY}

    async def execute(self, rows: Any, query: str = "red fox") -> dict[str, Any]:
        """Over a collection of multi-vectors made of the texts' words."""
        view = CollectionView("col_1", "first", (TEXT_INDEX, LATE), {"text": "text"})
        searcher = MemorySearcher()
        plain = CollectionView("col_1", "first", (TEXT_INDEX,), {})
        documents = text_documents(plain, rows)
        for document in documents:
            document.vectors["late"] = np.stack([hashed_words(w, 4) for w in document.payload["text"].split()])
        searcher.add(view, documents)
        engine = engine_for_tests(searcher)
        own = {"stage_id": "maxsim_rerank", "parameters": self.parameters}
        return await engine.execute(
            engine.compile([self.search, own], [view]), {"inputs": {"query": query}}, ExecutionContext()
        )
