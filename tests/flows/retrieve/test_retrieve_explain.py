"""Why a document is in a result, or is not."""

from __future__ import annotations

import numpy as np
import pytest
from retrieve_shop import ARTICLES, Shop, ids, stage, text_search

from mediatheca.flows.retrieve.explain import conjuncts
from mediatheca.kernel.documents import Document
from mediatheca.kernel.filters import parse_filter


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
