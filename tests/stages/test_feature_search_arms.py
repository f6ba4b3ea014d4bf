"""Several searches in one feature_search: failures, learned fusion, chunks, facets, groups, conditions in words."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.flows.retrieve.seams import NoNeighbours
from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.errors import BadRequestError, ForbiddenError, NotFoundError, UnavailableError, ValidationError
from mediatheca.kernel.models import ModelInfo
from mediatheca.kernel.outside import Generate, Generated, LanguageUsage, Outside
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery
from mediatheca.stages import CollectionView
from mediatheca.testing.stages import (
    TEXT_INDEX,
    TEXT_URI,
    HashedWordsForTests,
    MemorySearcher,
    ModelsForTests,
    engine_for_tests,
    text_documents,
)

VIEW = CollectionView("col_1", "shop", (TEXT_INDEX,), {"text": "text", "brand": "keyword", "price": "float"})
BRANDS = ("acme", "bolt", "coil")
ROWS = [
    {
        "document_id": f"d{n:02}",
        "text": f"{'red' if n % 2 else 'blue'} fox number n{n}",
        "brand": BRANDS[n % 3],
        "price": n,
    }
    for n in range(24)
]


@dataclass
class Fragile(MemorySearcher):
    """A searcher whose text or vector side fails or hangs."""

    broken: type[object] | None = None
    error: Exception = field(default_factory=lambda: UnavailableError("the index is away"))
    hangs: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    async def search(self, collection_id: str, query: VectorQuery | TextQuery) -> tuple[list[Hit], bool]:
        if self.broken is not None and isinstance(query, self.broken):
            if self.hangs:
                await asyncio.sleep(30)
            raise self.error
        return await super().search(collection_id, query)


def run(
    parameters: dict[str, Any], searcher: MemorySearcher | None = None, rows: Any = ROWS, **context: Any
) -> dict[str, Any]:
    searcher = searcher or MemorySearcher()
    searcher.add(VIEW, text_documents(VIEW, rows))
    engine = engine_for_tests(searcher)
    plan = engine.compile([{"stage_id": "feature_search", "parameters": parameters}], [VIEW])
    return asyncio.run(engine.execute(plan, {"limit": 100}, ExecutionContext(**context)))


def search(query: Any, **more: Any) -> dict[str, Any]:
    return {"feature_uri": TEXT_URI, "query": query, **more}


HYBRID = [search("red fox"), search("red fox", lexical=True)]


def ids(body: dict[str, Any]) -> list[str]:
    return [document["document_id"] for document in body["documents"]]


def metadata(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body["stage_statistics"]["stages"]["feature_search"]["metadata"]
    return found


def test_every_search_tells_what_became_of_it():
    told = metadata(run({"searches": [*HYBRID, search("", on_empty="skip")]}))["searches"]
    assert [entry["status"] for entry in told] == ["completed", "completed", "skipped"]
    assert told[0]["hits"] == 24
    assert told[1]["label"] == f"{TEXT_URI}#lexical"


def test_of_fused_searches_only_the_documents_that_stay_are_read():
    class Counted(MemorySearcher):
        read: ClassVar[list[str]] = []

        async def get(self, collection_id: str, ids: Any, *args: Any, **options: Any) -> tuple[list[Hit], bool]:
            self.read.extend(ids)
            found, degraded = await super().get(collection_id, ids, *args, **options)
            return [hit for hit in found if hit.document_id != "d03"], degraded

    searcher = Counted()
    body = run({"searches": HYBRID, "final_top_k": 5}, searcher)
    kept = [ident for ident in searcher.read if ident != "d03"]
    assert len(searcher.read) == 5
    assert "d03" in searcher.read  # which was deleted meanwhile
    assert [(shown["document_id"], shown["price"]) for shown in body["documents"]] == [
        (ident, int(ident[1:])) for ident in kept
    ]


class SourceAwayError(BadRequestError):
    """What the client of callers' URLs says of a server that cannot be reached."""

    retryable = True


@pytest.mark.parametrize(
    "error", [UnavailableError("the index is away"), RuntimeError("a bug"), SourceAwayError("cannot be reached")]
)
@pytest.mark.parametrize("broken", [TextQuery, VectorQuery])
def test_a_search_that_fails_leaves_the_others_standing(broken: type[object], error: Exception):
    body = run({"searches": HYBRID}, Fragile(broken=broken, error=error))
    assert len(ids(body)) > 0
    assert body["status"] == "degraded"
    assert sorted(entry["status"] for entry in metadata(body)["searches"]) == ["completed", "failed"]
    assert "gave nothing" in body["degraded"][0]["reason"]


def test_a_search_that_hangs_costs_only_its_own_results():
    body = run({"searches": HYBRID, "hard_timeout_ms": 3000}, Fragile(broken=TextQuery, hangs=True))
    assert len(ids(body)) == 24
    assert body["status"] == "degraded"
    assert metadata(body)["searches"][1]["status"] == "timed_out"
    assert metadata(body)["attempts"] == 1


def test_when_all_searches_fail_the_first_reason_is_told():
    with pytest.raises(UnavailableError, match="away"):
        run({"searches": HYBRID}, Fragile(broken=object))


@pytest.mark.parametrize(("more", "attempts"), [({}, 2), ({"interactive": True}, 1), ({"degrade_retry": False}, 1)])
def test_when_all_searches_hang_the_stage_tries_once_more_unless_told_not_to(more: dict[str, Any], attempts: int):
    body = run({"searches": HYBRID, "hard_timeout_ms": 50, **more}, Fragile(broken=object, hangs=True))
    assert ids(body) == []
    assert body["status"] == "degraded"
    assert metadata(body)["attempts"] == attempts


def test_a_mistake_of_the_caller_is_an_error_beside_other_searches_too():
    with pytest.raises(ValidationError, match="64"):
        run({"searches": [search("red"), search({"input_mode": "vector", "value": [1, 2]})]})


class Learned(NoNeighbours):
    def __init__(self, weights: dict[str, float] | None) -> None:
        self.weights = weights
        self.asked: list[str] = []

    async def fusion_weights(self, retriever_id: str, feature_uris: Sequence[str]) -> dict[str, float] | None:
        self.asked = list(feature_uris)
        return self.weights


def test_learned_fusion_uses_what_was_learned_and_reports_it():
    learned = Learned({TEXT_URI: 0.1, f"{TEXT_URI}#lexical": 0.9})
    body = run({"searches": HYBRID, "fusion": "learned"}, neighbours=learned)
    assert metadata(body)["weights"] == {TEXT_URI: 0.1, f"{TEXT_URI}#lexical": 0.9}
    assert metadata(body)["fusion_used"] == "learned"
    assert learned.asked == [TEXT_URI, f"{TEXT_URI}#lexical"]
    top = body["documents"][0]["scores"]
    assert top["learned"] == top["feature_search"] == body["documents"][0]["score"]
    assert top["learned"] == pytest.approx(1.0)


def test_learned_fusion_without_anything_learned_is_rrf_and_says_so():
    body = run({"searches": HYBRID, "fusion": "learned"}, neighbours=Learned(None))
    plain = run({"searches": HYBRID, "fusion": "rrf"})
    assert ids(body) == ids(plain)
    assert metadata(body)["fusion_used"] == "rrf"
    assert any("nothing has been learned" in warning for warning in body["warnings"])


def test_a_long_query_is_searched_chunk_by_chunk():
    query = "Blue fox number n4. " + "Something else entirely. " * 5 + "Red fox number n17."
    how = {"split_method": "sentences", "chunk_size": 60, "max_chunks": 50, "aggregation": "max"}
    body = run({"searches": [search(query, query_preprocessing=how)]})
    assert set(ids(body)[:2]) == {"d04", "d17"}
    chunks = body["documents"][0]["query_chunks"]
    assert query[chunks[0]["start"] : chunks[0]["end"]].endswith((" n4.", " n17."))
    assert metadata(body)["searches"][0]["query_chunks"] == 7


@pytest.mark.parametrize("aggregation", ["rrf", "max", "avg"])
def test_chunks_of_too_long_a_query_are_an_even_selection(aggregation: str):
    query = " ".join(f"Red fox number n{n}." for n in range(100))
    how = {"split_method": "sentence", "chunk_size": 30, "max_chunks": 5, "aggregation": aggregation}
    body = run({"searches": [search(query)], "query_preprocessing": {"params": how, **how}})
    assert len(ids(body)) == 24
    assert {"name": "query_chunks", "requested": 100, "applied": 5}.items() <= body["limits"][0].items()


def test_results_of_chunks_may_be_one_of_each_value():
    how = {"split_method": "sentences", "dedup_field": "brand"}
    body = run({"searches": [search("Red fox. Blue fox.", query_preprocessing=how)]})
    assert sorted(document["brand"] for document in body["documents"]) == sorted(BRANDS)


def test_a_facet_may_ignore_the_choice_made_on_its_own_field():
    facets = [{"key": "brand", "exclude_own_filter": True}, "brand"]
    body = run({"searches": [search("fox")], "facets": facets, "pre_filters": None}, rows=ROWS)
    everything = {entry["value"]: entry["count"] for entry in body["facets"][0]["values"]}
    assert everything == dict.fromkeys(BRANDS, 8)
    chosen = {"AND": [{"brand": "acme"}, {"price": {"lt": 12}}]}
    searcher = MemorySearcher()
    searcher.add(VIEW, text_documents(VIEW, ROWS))
    engine = engine_for_tests(searcher)
    plan = engine.compile(
        [{"stage_id": "feature_search", "parameters": {"searches": [search("fox")], "facets": facets}}], [VIEW]
    )
    body = asyncio.run(engine.execute(plan, {"filters": chosen}, ExecutionContext()))
    open_facet, own = ({v["value"]: v["count"] for v in facet["values"]} for facet in body["facets"])
    assert open_facet == dict.fromkeys(BRANDS, 4)
    assert own == {"acme": 4}


def test_an_open_facet_does_not_open_what_the_caller_may_not_see():
    from mediatheca.kernel.filters import parse_filter

    facets = [{"key": "brand", "exclude_own_filter": True}]
    body = run({"searches": [search("fox")], "facets": facets}, filter=parse_filter({"brand": "bolt"}))
    assert body["facets"][0]["values"] == [{"value": "bolt", "count": 8}]


def test_a_facet_may_count_what_holds_the_words_of_the_query():
    facets = [{"key": "brand", "scope": "lexical_matches", "exact": True}]
    body = run({"searches": [search("n3 n4 n5 n6", lexical=True)], "facets": facets})
    assert body["facets"][0]["values"] == [
        {"value": "acme", "count": 2},
        {"value": "bolt", "count": 1},
        {"value": "coil", "count": 1},
    ]
    assert body["facets"][0]["exact"] is True


def test_groups_over_a_fused_result_go_on_until_the_candidates_end():
    searches = [search("red fox", top_k=2), search("red fox", lexical=True, top_k=2)]
    body = run({"searches": searches, "group_by": {"field": "brand", "limit": 3, "max_per_group": 8}})
    assert len(body["groups"]) == 3
    more = run({"searches": searches, "group_by": {"field": "brand", "limit": 10, "max_per_group": 8}})
    assert {group["key"] for group in more["groups"]} == set(BRANDS)
    assert len(ids(more)) == 24


@dataclass
class Model:
    answer: dict[str, Any]
    asked: list[Generate] = field(default_factory=list)
    usage: LanguageUsage = field(default_factory=LanguageUsage)

    async def generate(self, request: Generate) -> Generated:
        self.asked.append(request)
        return Generated(text="", value={"filter": self.answer}, model="test:model")


def outside(answer: dict[str, Any]) -> Outside:
    nothing: Any = None
    model: Any = Model(answer)
    return Outside(model, nothing, nothing, nothing, nothing)


def test_a_condition_in_words_becomes_a_filter_that_is_shown():
    spoken = {"searches": [search("fox")], "natural_language": "acme under 6"}
    made = {"AND": [{"brand": "acme"}, {"price": {"lt": 6}}]}
    body = run(spoken, outside=outside(made))
    assert sorted(ids(body)) == ["d00", "d03"]
    assert metadata(body)["natural_language"]["model"] == "test:model"
    with pytest.raises(ValidationError, match="do not exist: colour"):
        run(spoken, outside=outside({"colour": "red"}))


def test_a_condition_in_words_without_a_language_model_is_refused():
    class Unconfigured(Model):
        async def generate(self, request: Generate) -> Generated:
            raise UnavailableError("no language model is configured: set MEDIATHECA_LANGUAGE_MODEL")

    away: Any = Unconfigured({})
    nothing: Any = None
    spoken = {"searches": [search("fox")], "natural_language": "cheap"}
    with pytest.raises(UnavailableError, match="no language model is configured"):
        run(spoken, outside=Outside(away, nothing, nothing, nothing, nothing))
    with pytest.raises(ForbiddenError):
        run(spoken)


def test_pages_of_a_hybrid_search_never_overlap():
    searcher = MemorySearcher()
    searcher.add(VIEW, text_documents(VIEW, ROWS))
    engine = engine_for_tests(searcher)
    plan = engine.compile([{"stage_id": "feature_search", "parameters": {"searches": HYBRID}}], [VIEW])

    async def walk() -> list[str]:
        shown: list[str] = []
        request: dict[str, Any] = {"limit": 5}
        while True:
            body = await engine.execute(plan, request, ExecutionContext())
            shown += ids(body)
            if not body["pagination"]["next_cursor"]:
                return shown
            request = {"limit": 5, "cursor": body["pagination"]["next_cursor"]}

    shown = asyncio.run(walk())
    assert len(shown) == len(set(shown)) == 24


class Uploads(NoNeighbours):
    async def upload(self, identifier: str) -> str:
        if identifier != "upl_0123456789":
            return await super().upload(identifier)
        return "org/ns/uploads/upl_0123456789/cat.png"


def test_an_upload_may_be_the_query_within_its_namespace():
    pictures = VectorIndex("pic", "mixpeek://image_extractor@v1/pic", 8, model="pic", modalities=("image",))
    view = CollectionView("col_i", "pictures", (pictures,), {})
    fetched: list[str] = []

    async def fetch(url: str) -> bytes:
        fetched.append(url)
        return b"a picture"

    async def decode(data: bytes, index: VectorIndex) -> Vector:
        return np.eye(8, dtype=np.float32)[3]

    searcher = MemorySearcher()
    searcher.add(view, [Document(f"v{n}", "col_i", {}, {"pic": np.eye(8, dtype=np.float32)[n]}) for n in range(8)])
    models = ModelsForTests()
    models.known["pic"] = HashedWordsForTests(ModelInfo("pic", "pic", "", 8))
    engine = engine_for_tests(searcher, models, fetch=fetch, decode=decode)
    uri = pictures.feature_uri
    query = {"searches": [{"feature_uri": uri, "query": "{{INPUT.file}}", "top_k": 1}]}
    plan = engine.compile([{"stage_id": "feature_search", "parameters": query}], [view])

    def ask(file: str) -> dict[str, Any]:
        return asyncio.run(engine.execute(plan, {"inputs": {"file": file}}, ExecutionContext(neighbours=Uploads())))

    assert ids(ask("upl_0123456789")) == ["v3"]
    assert fetched == ["blob:org/ns/uploads/upl_0123456789/cat.png"]
    with pytest.raises(NotFoundError, match="upl_9999999999"):
        ask("upl_9999999999")
    with pytest.raises(ValidationError, match="base64"):
        ask("blob:org/ns/secret")
    assert len(fetched) == 1
