"""The optimiser: what it rewrites, what it leaves, and that results stay as they are where they must."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieve_shop import ARTICLES, Shop, ids, stage, text_search

from mediatheca.flows.retrieve.optimise import optimise
from mediatheca.kernel.errors import ValidationError

ANIMALS = stage("attribute_filter", field="category", value="animal")
CHEAP = stage("attribute_filter", field="price", operator="lte", value=3)
BY_PRICE = stage("sort_attribute", field="price", direction="asc")
BY_TEXT = stage("sort_attribute", field="text", direction="desc")
BY_BOTH = stage("sort_attribute", sort=[{"field": "text"}, {"field": "price"}])
BY_ID = stage("sort_attribute", sort=[{"field": "category"}, {"field": "document_id"}])
STEADY = settings(max_examples=120, deadline=None, derandomize=True, database=None)
SHOP = Shop()
"""Read only: property tests share it."""


def decisions(body: dict[str, Any]) -> list[tuple[str, str, bool]]:
    made = body["optimization_summary"]["decisions"]
    return [(entry["rule_type"], entry["stage"], entry["applied"]) for entry in made]


def metadata(body: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = body["stage_statistics"]["stages"][name]["metadata"]
    return found


# ---- filters


def test_a_filter_behind_a_search_is_applied_inside_it_and_finds_more(shop: Shop):
    stages = text_search("red", top_k=2, final_top_k=2), stage("attribute_filter", field="category", value="thing")
    plain, better = shop.run(*stages, optimize="off"), shop.run(*stages)
    assert (ids(plain), ids(better)) == ([], ["a4", "a5"])
    assert better["optimization_applied"] is True
    assert decisions(better) == [("push_down_filters", "attribute_filter", True)]
    assert metadata(better, "attribute_filter") == {"pushed_into": "feature_search"}
    assert (plain["optimization_applied"], "optimization_summary" in plain) == (False, False)


def test_a_pushed_filter_means_the_same_as_one_of_the_search(shop: Shop):
    pushed = shop.run(text_search("red"), ANIMALS, CHEAP)
    written = shop.run(text_search("red", pre_filters={"AND": [{"category": "animal"}, {"price": {"lte": 3}}]}))
    assert ids(pushed) == ids(written)
    assert pushed["optimization_summary"]["optimized_stage_count"] == 1


def test_strict_leaves_the_search_and_merges_the_filters_behind_it(shop: Shop):
    body = shop.run(text_search("red"), ANIMALS, {**CHEAP, "stage_name": "cheap"}, optimize="strict")
    assert decisions(body) == [
        ("push_down_filters", "attribute_filter", False),
        ("merge_consecutive_filters", "cheap", True),
    ]
    assert "beyond top_k" in body["optimization_summary"]["decisions"][0]["reason"]
    assert metadata(body, "cheap") == {"merged_into": "attribute_filter"}


def test_a_filter_on_the_score_stays_where_it_is(shop: Shop):
    score = stage("attribute_filter", field="score", operator="gte", value=0.9)
    body = shop.run(text_search("red fox"), score)
    assert ids(body) == ["a0"]
    assert decisions(body) == [("push_down_filters", "attribute_filter", False)]


def test_a_field_that_an_input_names_is_looked_at_when_it_is_known(shop: Shop):
    by_input = stage("attribute_filter", field="{{INPUT.field}}", operator="gte", value=0.9)
    schema = {"field": {"type": "string"}}
    by_score = shop.run(text_search("red fox"), by_input, schema=schema, inputs={"field": "score"})
    assert (ids(by_score), decisions(by_score)[0][2]) == (["a0"], False)
    by_price = shop.run(text_search("red fox"), by_input, schema=schema, inputs={"field": "price"})
    assert ("a0" in ids(by_price), decisions(by_price)[0][2]) == (False, True)


@pytest.mark.parametrize(
    ("search", "kept", "reason"),
    [
        ({}, {"parameters": {"field": "price", "value": "{{DOC.price}}"}}, "DOC"),
        ({}, {"on_error": "skip"}, "on_error"),
        ({}, {"output_alias": "few"}, "output_alias"),
        ({"output_alias": "all"}, {}, "output_alias"),
        ({"facets": [{"key": "category"}]}, {}, "facets"),
        ({"group_by": {"field": "category"}}, {}, "group_by"),
    ],
)
def test_what_is_needed_alone_is_left_alone(shop: Shop, search, kept, reason):
    stages = text_search("red", **search), {**ANIMALS, **kept}
    body = shop.run(*stages)
    assert decisions(body) == [("push_down_filters", "attribute_filter", False)]
    assert reason in body["optimization_summary"]["decisions"][0]["reason"]
    assert ids(body) == ids(shop.run(*stages, optimize="off"))


def test_nothing_moves_when_a_template_reads_what_stages_gave(shop: Shop):
    cut = stage("limit", limit="{{ STAGE.attribute_filter.count or 1 }}")
    body = shop.run(text_search("red"), ANIMALS, cut)
    assert decisions(body) == [("push_down_filters", "attribute_filter", False)]
    assert ids(body) == ids(shop.run(text_search("red"), ANIMALS, cut, optimize="off"))


def test_a_search_that_fails_and_is_skipped_leaves_the_filter_to_itself(shop: Shop):
    first = {"stage_name": "first", **text_search("red")}
    failing = {"stage_name": "failing", **text_search("{{INPUT.nothing}}", on_error="skip", on_empty="error")}
    body = shop.run(first, failing, ANIMALS)
    assert body["status"] == "degraded"
    assert ids(body) == ids(shop.run(first, ANIMALS, optimize="off"))


def test_a_filter_before_a_search_narrows_it_at_every_level(shop: Shop):
    for level in ("off", "strict", "semantic"):
        body = shop.run(ANIMALS, text_search("red"), optimize=level)
        assert ids(body) == ["a0", "a1", "a2", "a3"]
        assert metadata(body, "attribute_filter") == {"pushed_into": "feature_search"}


def test_a_condition_that_was_dropped_is_told_once(shop: Shop):
    by_input = stage("attribute_filter", field="category", value="{{INPUT.category}}")
    body = shop.run(text_search("red"), by_input, schema={"category": {"type": "string"}})
    assert len(body["interpretation"]["relaxations"]) == 1


# ---- sorts


@pytest.mark.parametrize(
    ("first", "second", "needless"),
    [
        (BY_PRICE, BY_PRICE, True),
        (BY_PRICE, {**BY_BOTH, "stage_name": "both"}, True),
        (BY_BOTH, BY_PRICE, False),
        (BY_PRICE, BY_TEXT, False),
        (BY_TEXT, stage("sort_attribute", field="text", case_sensitive=False), False),
        ({**BY_PRICE, "pre_filters": {"category": "animal"}}, BY_PRICE, False),
        ({**BY_PRICE, "output_alias": "sorted"}, BY_PRICE, False),
    ],
)
def test_a_sort_goes_when_nothing_of_its_order_is_left(shop: Shop, first, second, needless):
    stages = text_search("red"), {**first, "stage_name": "first"}, {**second, "stage_name": "second"}
    plan = optimise(shop.compile(*stages), "strict")
    assert (plan.stages[1].needless == "second") is needless
    assert ids(shop.execute(plan)) == ids(shop.run(*stages, optimize="off"))


def test_a_sort_by_id_decides_alone_in_one_collection_only(shop: Shop):
    stages = text_search("red"), {**BY_PRICE, "stage_name": "first"}, {**BY_ID, "stage_name": "second"}
    one = optimise(shop.compile(*stages, views=[ARTICLES]))
    assert one.stages[1].needless == "second"
    assert optimise(shop.compile(*stages)).stages[1].needless is None


# ---- limits


def test_a_limit_behind_a_search_is_told_to_it(shop: Shop):
    stages = text_search("red", final_top_k=6), ANIMALS, stage("limit", limit=2, offset=1)
    body = shop.run(*stages)
    assert body["stage_statistics"]["stages"]["feature_search"]["output_count"] == 3
    assert ids(body) == ids(shop.run(*stages, optimize="off"))
    assert ("limit_pull_up", "limit", True) in decisions(body)


def test_a_limit_waits_for_a_filter_that_had_to_stay(shop: Shop):
    stages = (
        text_search("red"),
        stage("attribute_filter", field="score", operator="lt", value=0.9),
        stage("limit", limit=1),
    )
    body = shop.run(*stages)
    assert ids(body) == ids(shop.run(*stages, optimize="off"))
    assert ("limit_pull_up", "limit", False) in decisions(body)


@pytest.mark.parametrize("between", [BY_PRICE, stage("sample", size=3, seed=1)])
def test_a_limit_stays_behind_what_reorders(shop: Shop, between):
    body = shop.run(text_search("red"), between, stage("limit", limit=1))
    assert "optimization_summary" not in body


def test_the_page_keeps_the_size_the_search_declares(shop: Shop):
    stages = text_search("red", final_top_k=6), stage("limit", limit=2)
    assert shop.run(*stages)["pagination"]["limit"] == shop.run(*stages, optimize="off")["pagination"]["limit"] == 6


def test_an_explained_document_is_told_which_limit_dropped_it(shop: Shop):
    body = shop.run(text_search("red fox"), stage("limit", limit=1), explain_document="a2")
    assert body["explained_document"]["dropped_by"] == "limit"


# ---- levels


def test_an_unknown_level_is_refused(shop: Shop):
    with pytest.raises(ValidationError, match="optimize"):
        shop.run(text_search("red"), optimize="most")


def test_cursors_of_another_level_are_refused(shop: Shop):
    plan = shop.compile(text_search("red"), ANIMALS)
    first = shop.execute(plan, {"limit": 1})
    cursor = first["pagination"]["cursor"]
    assert len(ids(shop.execute(plan, {"limit": 1, "cursor": cursor}))) == 1
    with pytest.raises(ValidationError, match="another query"):
        shop.execute(plan, {"limit": 1, "cursor": cursor, "optimize": "off"})


def test_optimising_twice_changes_nothing(shop: Shop):
    plan = optimise(shop.compile(text_search("red"), ANIMALS, stage("limit", limit=1)))
    assert optimise(plan).stages == plan.stages


# ---- properties

FILTERS = st.sampled_from(
    [
        ANIMALS,
        CHEAP,
        stage("attribute_filter", field="text", operator="contains", value="red"),
        stage("attribute_filter", field="score", operator="gte", value=0.3),
        stage("attribute_filter", NOT=[{"field": "category", "value": "thing"}]),
        {**ANIMALS, "post_filters": {"price": {"gte": 1}}},
    ]
)
SORTS = st.sampled_from([BY_PRICE, BY_TEXT, BY_BOTH, BY_ID, stage("sort_relevance")])
CUTS = st.builds(lambda limit, offset: stage("limit", limit=limit, offset=offset), st.integers(1, 6), st.integers(0, 2))
OTHERS = st.sampled_from([stage("deduplicate", strategy="field", fields=["category"]), stage("score_normalize")])
SEARCHES = st.builds(
    lambda query, top_k, final: text_search(query, top_k=top_k, final_top_k=final),
    st.sampled_from(["red", "red fox", "blue whale"]), st.integers(1, 8), st.integers(1, 8),
)  # fmt: skip
PIPELINES = st.builds(
    lambda before, search, after: [*before, search, *after],
    st.lists(FILTERS, max_size=1), SEARCHES, st.lists(st.one_of(FILTERS, SORTS, CUTS, OTHERS), max_size=5),
)  # fmt: skip


def shown(body: dict[str, Any]) -> list[tuple[str, str, float]]:
    return [(d["collection_id"], d["document_id"], d["score"]) for d in body["documents"]]


@STEADY
@given(PIPELINES)
def test_strict_gives_what_no_optimisation_gives(pipeline: list[dict[str, Any]]):
    plain, strict = (SHOP.run(*pipeline, optimize=level, limit=50) for level in ("off", "strict"))
    assert shown(strict) == shown(plain)
    assert strict["pagination"] == plain["pagination"]


@STEADY
@given(PIPELINES)
def test_semantic_gives_what_the_filters_written_into_the_search_give(pipeline: list[dict[str, Any]]):
    plan = optimise(SHOP.compile(*pipeline), "semantic")
    place = next(number for number, entry in enumerate(pipeline) if entry["stage_id"] == "feature_search")
    body = SHOP.execute(plan, {"limit": 50})
    made = body.get("optimization_summary", {"decisions": []})["decisions"]
    search = plan.stages[place].name
    pushed = [
        d["stage"] for d in made if d["rule_type"] == "push_down_filters" and d["applied"] and d["into"] == search
    ]
    numbers = [number for number, entry in enumerate(plan.stages) if entry.name in pushed and number > place]
    trees = [t for n in numbers for t in (conditions(pipeline[n]), pipeline[n].get("post_filters")) if t]
    written = [entry for number, entry in enumerate(pipeline) if number not in numbers]
    if trees:
        written[place] = {**written[place], "pre_filters": {"AND": trees}}
    assert shown(body) == shown(SHOP.run(*written, optimize="off", limit=50))


def conditions(entry: dict[str, Any]) -> dict[str, Any]:
    return dict(entry["parameters"])
