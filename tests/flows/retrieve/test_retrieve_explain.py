"""Why a document is in a result, or is not."""

from __future__ import annotations

import numpy as np
import pytest
from retrieve_shop import ARTICLES, Shop, ids, stage, text_search

from mediatheca.flows.retrieve.whynot import conjuncts
from mediatheca.kernel.documents import Document
from mediatheca.kernel.filters import parse_filter
from mediatheca.testing.stages import TEXT_INDEX


def asked(shop: Shop, document_id: str, *stages: object, **context: object) -> dict:
    request = {"inputs": {"query": "red fox"}, "explain_document": document_id}
    return shop.execute(shop.compile(*stages), request, **context)["explained_document"]


def test_every_document_carries_its_way_through_the_stages(shop):
    plan = shop.compile(
        text_search(), stage("sort_attribute", field="price", direction="desc"), stage("limit", limit=2)
    )
    body = shop.execute(plan, {"inputs": {"query": "red fox"}, "explain": True})
    first = body["documents"][0]["explanation"]
    assert first["final"]["rank"] == 1
    assert [step["stage_id"] for step in first["path"]] == ["feature_search", "sort_attribute", "limit"]
    assert [step["reason"] for step in first["path"]] == ["found", "moved", "kept"]
    assert first["arms"][0]["score"] == pytest.approx(body["documents"][0]["scores"]["feature_search"])
    assert body["explain_plan"]["stages"][0]["output_count"] >= 2


def test_without_explain_nothing_of_it_is_shown(shop):
    body = shop.run(text_search(), inputs={"query": "red fox"})
    assert "explanation" not in body["documents"][0]
    assert "explained_document" not in body


def test_a_document_of_the_page_is_said_to_be_there(shop):
    found = asked(shop, "a0", text_search(filters={"collection_id": "col_a"}))
    assert found["in_result"] is True
    assert found["reason"] == "in_result"
    assert found["rank"] == 1


def test_a_filter_that_keeps_a_document_out_is_named_with_the_values(shop):
    found = asked(shop, "a0", text_search(filters={"field": "price", "operator": "gte", "value": 3}))
    assert found["reason"] == "filtered"
    condition = found["arms"][0]["conditions"][0]
    assert condition["condition"]["field"] == "price"
    assert condition["values"] == {"price": [0]}
    assert "price" in found["message"]


def test_a_document_below_top_k_is_told_its_rank(shop):
    found = asked(shop, "a2", text_search(top_k=1))
    assert found["reason"] == "below_limit"
    assert found["arms"][0]["rank"] > found["arms"][0]["limit"] == 1
    assert "raise top_k" in found["message"]


def test_a_score_below_min_score_is_told(shop):
    found = asked(shop, "a2", text_search(min_score=0.9))
    assert found["reason"] == "below_min_score"
    assert found["arms"][0]["score"] < 0.9


def test_the_stage_that_dropped_a_document_is_named(shop):
    cut = {"stage_name": "keep one", **stage("limit", limit=1)}
    found = asked(shop, "a1", text_search(filters={"collection_id": "col_a"}), cut)
    assert found["reason"] == "dropped"
    assert found["dropped_by"] == "keep one"
    assert found["path"][-1]["rank_out"] is None


def two_searches(**more: object) -> dict:
    uri = TEXT_INDEX.feature_uri
    searches = [{"feature_uri": uri, "query": "red fox"}, {"feature_uri": uri, "query": "red fox", "lexical": True}]
    own = {"filters": {"collection_id": "col_a"}}
    return {"stage_name": "search", "stage_id": "feature_search", "parameters": {"searches": searches, **own, **more}}


def test_a_document_that_fusion_puts_below_final_top_k_is_told_its_rank_there(shop):
    everything = ids(shop.run(two_searches(), inputs={"query": "red fox"}))
    found = asked(shop, everything[2], two_searches(final_top_k=2))
    assert (found["reason"], found["dropped_by"]) == ("dropped", "search")
    assert "number 3 of what its searches found, of which 2 are kept; raise final_top_k" in found["message"]


def test_a_document_that_is_not_the_best_of_its_group_is_told_so(shop):
    everything = ids(shop.run(two_searches(), inputs={"query": "red fox"}))
    found = asked(shop, everything[-1], two_searches(group_by={"field": "collection_id", "max_per_group": 1}))
    assert (found["reason"], found["dropped_by"]) == ("dropped", "search")
    assert f"it is number {len(everything)} of what" in found["message"]
    assert "group_by.max_per_group" in found["message"]


def test_a_document_that_post_filters_take_away_is_told_the_condition(shop):
    late = {**text_search(), "stage_name": "search", "post_filters": {"field": "price", "operator": "gte", "value": 3}}
    found = asked(shop, "a0", late)
    assert (found["reason"], found["dropped_by"]) == ("filtered", "search")
    assert found["conditions"][0]["condition"]["field"] == "price"
    assert found["conditions"][0]["values"] == {"price": [0]}


def test_a_document_that_a_list_leaves_out_is_told_the_condition(shop):
    dear = {"field": "price", "operator": "gte", "value": 3}
    for lists in (
        stage("attribute_filter", conditions=dear),
        {"stage_id": "feature_search", "parameters": {"searches": []}, "pre_filters": dear},
    ):
        found = asked(shop, "a0", lists)
        assert (found["reason"], found["arms"][0]["arm"]) == ("filtered", "list")
        assert found["arms"][0]["conditions"][0]["values"] == {"price": [0]}
    every = {"field": "price", "operator": "gte", "value": 0}
    short = {"stage_id": "feature_search", "parameters": {"searches": [], "filters": every, "final_top_k": 1}}
    left = next(name for name in ("a0", "a1") if name not in ids(shop.run(short)))
    assert asked(shop, left, short)["reason"] == "below_limit"


def test_a_document_whose_rows_are_in_the_result_is_there(shop):
    rows = stage("unwind", field="text", preserve_null_and_empty=True)
    group = stage("group_by", field="collection_id", max_per_group=10, output_mode="all")
    for shown in (rows, group):
        found = asked(shop, "a1", text_search(filters={"collection_id": "col_a"}), shown)
        assert found["in_result"] is True


def test_a_document_without_a_vector_is_told_so(shop):
    bare = Document("bare", ARTICLES.collection_id, {"text": "red fox"}, {}, "obj_1", "obj_1")
    shop.searcher.add(ARTICLES, [bare])
    assert asked(shop, "bare", text_search())["reason"] == "no_vector"


def test_a_document_that_does_not_exist_is_not_indexed(shop):
    found = asked(shop, "nope", text_search())
    assert (found["in_result"], found["reason"]) == (False, "not_indexed")


def test_what_the_tenant_may_not_see_does_not_exist(shop):
    mine = parse_filter({"field": "category", "value": "thing"})
    found = asked(shop, "a0", text_search(), filter=mine)
    assert found == asked(shop, "a0", text_search(), filter=mine)
    assert found["reason"] == "not_indexed"
    assert "category" not in str(found)


def test_a_document_on_a_later_page_is_told_its_rank(shop):
    plan = shop.compile(text_search())
    body = shop.execute(plan, {"inputs": {"query": "red fox"}, "limit": 1, "explain_document": "a1"})
    assert ids(body) != ["a1"]
    assert body["explained_document"]["reason"] == "another_page"
    assert body["explained_document"]["rank"] > 1


def test_conjuncts_are_the_leaves_of_nested_ands():
    tree = parse_filter({"AND": [{"a": 1}, {"AND": [{"b": 2}, {"OR": [{"c": 3}, {"d": 4}]}]}]})
    assert len(list(conjuncts(tree))) == 3
    assert list(conjuncts(None)) == []


def test_an_explanation_does_not_change_the_ranking(shop):
    plan = shop.compile(text_search(), stage("sort_attribute", field="price"))
    plain = shop.execute(plan, {"inputs": {"query": "red"}})
    explained = shop.execute(plan, {"inputs": {"query": "red"}, "explain": True, "explain_document": "a3"})
    assert ids(plain) == ids(explained)
    assert np.allclose([d["score"] for d in plain["documents"]], [d["score"] for d in explained["documents"]])


def lexical(query: str) -> dict:
    search = {"feature_uri": TEXT_INDEX.feature_uri, "query": query, "lexical": True}
    return {"stage_id": "feature_search", "parameters": {"searches": [search]}}


def test_a_single_search_tells_rank_score_scale_and_weight(shop):
    body = shop.run(text_search("red fox"), explain=True)
    arms = [document["explanation"]["arms"] for document in body["documents"]]
    assert all(len(found) == 1 for found in arms)
    assert [found[0]["rank"] for found in arms] == list(range(1, len(arms) + 1))
    assert arms[0][0]["normalised"] == pytest.approx(1.0)
    assert arms[-1][0]["normalised"] == pytest.approx(0.0)
    assert {found[0]["weight"] for found in arms} == {1.0}
    assert arms[0][0]["contribution"] == pytest.approx(body["documents"][0]["score"])


def test_a_search_for_words_tells_which_words_stand_where(shop):
    body = shop.run(lexical("red fox jumps"), explain=True)
    found = {(d["collection_id"], d["document_id"]): d["explanation"]["arms"][0]["matched"] for d in body["documents"]}
    assert found["col_a", "a0"] == [{"field": "text", "words": ["red", "fox"]}]
    assert found["col_a", "a3"] == [{"field": "text", "words": ["fox", "jumps"]}]


def test_fused_arms_tell_their_weights(shop):
    uri = TEXT_INDEX.feature_uri
    searches = [
        {"feature_uri": uri, "query": "red fox", "weight": 0.7},
        {"feature_uri": uri, "query": "red fox", "lexical": True, "weight": 0.3},
    ]
    body = shop.run({"stage_id": "feature_search", "parameters": {"searches": searches}}, explain=True)
    arms = {arm["arm"]: arm for arm in body["documents"][0]["explanation"]["arms"]}
    assert (arms[uri]["weight"], arms[f"{uri}#lexical"]["weight"]) == (0.7, 0.3)
    assert all({"rank", "score", "normalised", "contribution"} <= set(arm) for arm in arms.values())


def test_groups_are_explained_too(shop):
    body = shop.run(text_search("red fox"), explain=True, group_by={"field": "category"}, limit=5)
    members = [item for group in body["final_results"] for item in group["group"]]
    assert members
    ranks = [item["explanation"]["final"]["rank"] for item in members]
    assert len(ranks) == len(set(ranks))
    assert all(item["explanation"]["arms"] for item in members)


class Inner:
    """Neighbours of a test: one retriever."""

    def __init__(self, plan) -> None:
        self.plan = plan

    async def retriever(self, identifier, version=None):
        return "ret_inner", self.plan


def test_a_document_lost_in_another_retriever_is_found_there(shop):
    cut = {"stage_name": "inner cut", **stage("limit", limit=1)}
    inner = shop.compile({**text_search("red fox"), "stage_name": "inner search"}, cut)
    plan = shop.compile({"stage_name": "call", **stage("retriever", retriever_id="inner")}, views=[])
    body = shop.execute(plan, {"explain": True, "explain_document": "a1"}, neighbours=Inner(inner))
    found = body["explained_document"]
    assert found["reason"] == "dropped"
    assert found["dropped_by"] == "call > inner cut"
    assert body["documents"][0]["explanation"]["arms"][0]["stage"] == "inner search"
    assert body["documents"][0]["explanation"]["path"][0]["within"][0]["retriever_id"] == "ret_inner"


def test_a_document_beyond_what_was_taken_of_another_retriever_is_told(shop):
    inner = shop.compile(text_search("red fox"))
    plan = shop.compile({"stage_name": "call", **stage("retriever", retriever_id="inner", limit=1)})
    found = shop.execute(plan, {"explain_document": "a1"}, neighbours=Inner(inner))["explained_document"]
    assert (found["reason"], found["dropped_by"]) == ("dropped", "call")
    assert "of which 1 were taken" in found["message"]
