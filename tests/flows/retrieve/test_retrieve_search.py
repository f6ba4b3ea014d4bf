"""feature_search through the engine: modes, fusion, filters, collections, facets, groups."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from retrieve_shop import ARTICLES, RAW, RAW_INDEX, REVIEWS, Shop, ids, stage, text_search

from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import NotFoundError, UnavailableError, ValidationError
from mediatheca.kernel.models import ModelInfo
from mediatheca.stages import CollectionView
from mediatheca.testing.stages import TEXT_INDEX, TEXT_URI, HashedWordsForTests


def search(query, uri=TEXT_URI, **more):
    return {"feature_uri": uri, "query": query, **more}


def test_a_text_finds_the_nearest_first_with_raw_similarity_as_score(shop: Shop):
    body = shop.run(text_search(), inputs={"query": "red fox"})
    assert ids(body)[:2] == ["a0", "b0"]
    assert body["documents"][0]["score"] == pytest.approx(1.0)
    assert body["documents"][0]["scores"]["per_feature"] == {TEXT_URI: body["documents"][0]["score"]}
    assert body["status"] == "completed"


def test_equal_scores_order_by_document_id_and_duplicates_of_two_collections_stay_two(shop: Shop):
    body = shop.run(text_search(), inputs={"query": "red dog"})
    found = [(d["document_id"], d["collection_id"]) for d in body["documents"]]
    assert found[:2] == [("a1", "col_a"), ("a1", "col_b")]
    assert len(found) == len(set(found)) == 8


def test_unicode_and_very_long_texts_are_fine(shop: Shop):
    assert ids(shop.run(text_search(), inputs={"query": "лиса 🦊"}))[0] == "a5"
    answer = shop.run(text_search(), inputs={"query": "fox " * 25_000})
    assert len(ids(answer)) == 8
    limits = [(entry["name"], entry["requested"], entry["applied"]) for entry in answer["limits"]]
    assert limits == [("query_characters", 100_000, 2_000)]  # told once, of two collections


def test_k_above_n_returns_everything_and_k_1_one(shop: Shop):
    assert len(ids(shop.run(text_search("fox", top_k=5000, final_top_k=5000), limit=500))) == 8
    assert ids(shop.run(text_search("red fox", final_top_k=1))) == ["a0"]


def test_min_score_and_per_search_filters_drop_candidates_before_fusion(shop: Shop):
    assert ids(shop.run(text_search("red fox", min_score=0.99))) == ["a0"]
    assert ids(shop.run(text_search("red fox", filters={"price": {"gte": 1, "lte": 2}}))) == ["a1", "a2"]


def test_a_vector_query_needs_no_model(shop: Shop):
    shop.views = [RAW]
    query = {"input_mode": "vector", "value": [0, 0, 1, 0, 0, 0, 0, 0]}
    assert ids(shop.run(stage("feature_search", searches=[search(query, "raw_8")])))[0] == "v2"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2, 3], "takes 8 numbers, got 3"),
        ([["a"] * 8], "list of numbers"),
        ([float("nan")] * 8, "finite"),
        ([[1] * 8], "8"),
    ],
)
def test_a_wrong_vector_is_refused(shop: Shop, value, message):
    shop.views = [RAW]
    with pytest.raises(ValidationError, match=message) as caught:
        shop.run(stage("feature_search", searches=[search({"input_mode": "vector", "value": value}, "raw_8")]))
    assert caught.value.errors[0].loc[:4] == ("stages", 0, "config", "parameters")


def test_a_document_query_finds_its_like_but_not_itself(shop: Shop):
    query = {"input_mode": "document", "document_ref": {"collection_id": "articles", "document_id": "a0"}}
    assert ids(shop.run(stage("feature_search", searches=[search(query)])))[0] == "b0"
    assert ids(shop.run(stage("feature_search", searches=[search({**query, "include_self": True})])))[0] == "a0"
    gone = {"input_mode": "document", "document_ref": {"collection_id": "col_a", "document_id": "nope"}}
    with pytest.raises(NotFoundError):
        shop.run(stage("feature_search", searches=[search(gone)]))


def test_content_is_fetched_decoded_outside_and_cached_when_inline():
    seen: list = []

    async def fetch(url: str) -> bytes:
        return b"bytes of " + url.encode()

    async def decode(data: bytes, index: VectorIndex) -> np.ndarray:
        seen.append(data)
        return np.eye(8, dtype=np.float32)[3]

    shop = Shop(options={"fetch": fetch, "decode": decode})
    pictures = VectorIndex("raw_8", "mixpeek://image_extractor@v1/pic", 8, model="pic", modalities=("image",))
    shop.models.known["pic"] = HashedWordsForTests(ModelInfo("pic", "pic", "", 8))
    shop.views = [replace(RAW, vectors=(pictures,))]
    plan = shop.compile(stage("feature_search", searches=[search("{{INPUT.image}}", pictures.feature_uri, top_k=1)]))
    assert plan is not None

    def run(image: str):
        query = {"input_mode": "content", "value": image}
        return shop.run(stage("feature_search", searches=[search(query, pictures.feature_uri, top_k=1)]))

    assert ids(run("https://example.com/a.jpg")) == ["v3"]
    for _ in range(2):
        assert ids(run("data:image/png;base64,aGVsbG8=")) == ["v3"]
    assert ids(run("aGVsbG8=")) == ["v3"]
    assert seen == [b"bytes of https://example.com/a.jpg", b"hello"]  # whatever the query calls it
    with pytest.raises(ValidationError, match="base64"):
        run("not content at all!")
    with pytest.raises(ValidationError, match="data URI"):
        run("data:image/png;base64")
    with pytest.raises(ValidationError, match="cannot be searched with text"):
        shop.run(stage("feature_search", searches=[search({"input_mode": "text", "value": "x"}, pictures.feature_uri)]))


def test_vectors_of_other_weights_are_refused_and_both_are_named(shop: Shop):
    other = replace(TEXT_INDEX, weights="sha256:older")
    shop.views = [replace(ARTICLES, vectors=(other,))]
    with pytest.raises(ValidationError, match=r"sha256:older.*hashed words.*sha256:words64"):
        shop.run(text_search("fox"))


def test_a_missing_model_is_said_to_be_missing(shop: Shop):
    shop.views = [replace(ARTICLES, vectors=(replace(TEXT_INDEX, model="gone"),))]
    with pytest.raises(UnavailableError, match="gone"):
        shop.run(text_search("fox"))


@pytest.mark.parametrize("inline", [True, False])
def test_the_same_query_is_embedded_once(inline):
    shop = Shop()
    model = shop.models.known[TEXT_INDEX.model]
    model.inline = inline
    plan = shop.compile(text_search())
    for _ in range(3):
        shop.execute(plan, {"inputs": {"query": "red fox"}})
    assert model.calls == 1


@pytest.mark.parametrize("fusion", ["rrf", "dbsf", "weighted", "max"])
def test_two_searches_are_fused_and_say_how(shop: Shop, fusion):
    searches = [search("red", weight=0.7), search("fox", weight=0.3)]
    body = shop.run(stage("feature_search", searches=searches, fusion=fusion, final_top_k=3))
    assert ids(body)[0] in ("a0", "a1")
    assert len(ids(body)) == 3
    top = body["documents"][0]["scores"]
    assert top[fusion] == body["documents"][0]["score"]
    assert set(top["features"][TEXT_URI]) == {"score", "rank", "contribution"}


def test_a_lexical_arm_joins_by_rank_and_weighted_fusion_rescales_it(shop: Shop):
    searches = [search("fox"), search("jumps", lexical=True)]
    body = shop.run(stage("feature_search", searches=searches))
    assert ids(body)[0] == "a3"
    assert f"{TEXT_URI}#lexical" in body["documents"][0]["scores"]["features"]
    body = shop.run(stage("feature_search", searches=searches, fusion="weighted"))
    assert "min–max" in body["warnings"][0]
    assert max(d["score"] for d in body["documents"]) <= 2.0


def test_a_lexical_search_alone_needs_no_feature_uri(shop: Shop):
    body = shop.run(stage("feature_search", searches=[{"query": "jumps", "lexical": True}]))
    assert ids(body) == ["a3"]


def test_a_search_stays_in_the_collections_it_names(shop: Shop):
    body = shop.run(text_search("red fox", collection_identifiers=["reviews"]))
    assert {d["collection_id"] for d in body["documents"]} == {"col_b"}
    body = shop.run(text_search("red fox"), collection_ids=["col_b"])
    assert {d["collection_id"] for d in body["documents"]} == {"col_b"}
    with pytest.raises(ValidationError, match="not a collection of this retriever"):
        shop.run(text_search("red fox"), collection_ids=["col_zzz"])


def test_each_search_goes_only_to_collections_that_have_its_feature(shop: Shop):
    shop.views = [ARTICLES, REVIEWS, RAW]
    vector = {"input_mode": "vector", "value": [1, 0, 0, 0, 0, 0, 0, 0]}
    body = shop.run(stage("feature_search", searches=[search("red fox"), search(vector, "raw_8")]), limit=50)
    assert {d["collection_id"] for d in body["documents"]} == {"col_a", "col_b", "col_v"}


@pytest.mark.parametrize("given", [{}, {"query": ""}, {"query": "  "}, {"query": None}])
def test_an_empty_query_is_an_error_that_names_the_input(shop: Shop, given):
    with pytest.raises(ValidationError, match="is empty"):
        shop.run(text_search(), inputs=given)
    if given.get("query") is not None:
        return
    with pytest.raises(ValidationError, match="inputs not given: query"):
        shop.run(text_search(), inputs={})


def test_an_empty_query_may_be_skipped_or_answered_at_random(shop: Shop):
    searches = [search("{{INPUT.a}}", on_empty="skip"), search("red fox")]
    body = shop.run(stage("feature_search", searches=searches))
    assert ids(body)[0] == "a0"
    assert "skipped" in body["warnings"][0]
    with pytest.raises(ValidationError, match="every search was skipped"):
        shop.run(text_search(on_empty="skip"))
    assert len(ids(shop.run(text_search(on_empty="random", top_k=2)))) == 2


def test_an_optional_search_without_index_or_documents_is_skipped_with_a_warning(shop: Shop):
    shop.searcher.add(CollectionView("col_e", "empty", (RAW_INDEX,), {}), [])
    shop.views = [ARTICLES, CollectionView("col_e", "empty", (RAW_INDEX,), {})]
    vector = {"input_mode": "vector", "value": [1] * 8}
    searches = [
        search("red fox"),
        search("x", "mixpeek://a@v1/nope", optional=True),
        search(vector, "raw_8", optional=True),
    ]
    body = shop.run(stage("feature_search", searches=searches))
    assert ids(body)[0] == "a0"
    assert len(body["warnings"]) == 2


def test_without_searches_documents_are_listed_by_filter(shop: Shop):
    body = shop.run({**stage("feature_search", searches=[]), "pre_filters": {"price": {"gte": 4}}})
    assert ids(body) == ["a4", "a5", "a1"]
    with pytest.raises(ValidationError, match="searches"):
        shop.run(stage("feature_search", searches=[]))


def test_facets_count_what_passes_the_filters_not_the_page(shop: Shop):
    body = shop.run(text_search("red fox", final_top_k=1, facets=["category", {"key": "price", "limit": 2}]))
    assert body["facets"][0] == {
        "key": "category",
        "scope": "filtered",
        "exact": True,
        "values": [{"value": "animal", "count": 4}, {"value": "thing", "count": 2}],
    }
    assert len(body["facets"][1]["values"]) == 2
    candidates = [{"key": "category", "scope": "candidates"}]
    body = shop.run(text_search("red fox", final_top_k=1, facets=candidates), filters={"category": "animal"})
    assert body["facets"][0]["values"] == [{"value": "animal", "count": 1}]
    assert body["stage_statistics"]["stages"]["feature_search"]["metadata"]["facets"] == body["facets"]


def test_groups_are_whole_and_ordered_by_their_best_member(shop: Shop):
    body = shop.run(
        text_search("red fox", top_k=1, group_by={"field": "category", "max_features": 2, "limit": 3}), limit=50
    )
    keys = [group["key"] for group in body["groups"]]
    assert keys == ["animal", None, "thing"]
    assert body["groups"][0]["count"] == 4
    assert ids(body)[:2] == ["a0", "a1"]
    first = text_search("red fox", group_by={"field": "category", "output_mode": "first", "exclude_null": True})
    assert len(ids(shop.run(first))) == 2


def test_a_wider_page_widens_a_search_whose_size_was_not_declared(shop: Shop):
    rows = [{"document_id": f"m{n:03}", "text": "red fox"} for n in range(60)]
    from mediatheca.testing.stages import text_documents

    shop.searcher.add(ARTICLES, text_documents(ARTICLES, rows))
    assert len(ids(shop.run(text_search("red fox"), limit=50))) == 50
    assert len(ids(shop.run(text_search("red fox", final_top_k=7), limit=50))) == 7
    assert len(ids(shop.run(text_search("red fox", final_top_k=7)))) == 7
    assert len(ids(shop.run(text_search("red fox")))) == 10


def test_many_concurrent_first_queries_load_the_model_once():
    shop = Shop()
    loads = []
    original = shop.models.text
    shop.models.text = lambda name: (loads.append(name), original(name))[1]
    shop.models.info = lambda name: original(name).info
    plan = shop.compile(text_search())

    async def together():
        from mediatheca.flows.retrieve import ExecutionContext

        runs = [shop.engine.execute(plan, {"inputs": {"query": f"fox {n}"}}, ExecutionContext()) for n in range(20)]
        return await asyncio.gather(*runs)

    assert len(asyncio.run(together())) == 20
    assert len(loads) == 1
