"""What a plan will probably take and cost, and what could be better: out of past executions."""

from __future__ import annotations

from typing import Any

import pytest
from retrieve_shop import Shop, stage, text_search

from mediatheca.flows.publishing import public_answer
from mediatheca.flows.retrieve.cache import CachePolicy
from mediatheca.flows.retrieve.forecast import Past, bottlenecks, forecast, suggestions
from mediatheca.testing.stages import TEXT_INDEX


def ran(*stages: tuple[str, int, int, float], hit: bool = False, credits_used: float = 0.0) -> dict[str, Any]:
    """The record of an execution: (name, in, out, milliseconds) of every stage."""
    statistics = {
        name: {
            "input_count": into,
            "output_count": out,
            "duration_ms": took,
            "credits_used": credits_used,
            "stage_cache_hit": False,
            "metadata": {},
        }
        for name, into, out, took in stages
    }
    return {"cache_hit": hit, "stage_statistics": {"stages": statistics}}


@pytest.fixture
def plan(shop: Shop) -> Any:
    search = {"stage_name": "search", **text_search("red", final_top_k=100)}
    return shop.compile(
        search,
        {"stage_name": "rerank", **stage("rerank", query="red")},
        {"stage_name": "only", **stage("attribute_filter", field="category", value="animal")},
        {"stage_name": "cut", **stage("limit", limit=5)},
    )


PAST = [ran(("search", 0, 100, 10.0), ("rerank", 100, 100, 100.0), ("only", 100, 20, 1.0), ("cut", 20, 5, 0.1))] * 3


def test_figures_are_medians_of_past_executions(plan):
    odd = ran(("search", 0, 100, 9_000.0), credits_used=5.0)
    stages = forecast(plan, Past([*PAST, odd]), 20_000, None)
    assert [s["estimated_output"] for s in stages] == [100, 100, 20, 5]
    assert stages[0]["estimated_duration_ms"] == 10.0
    assert stages[0]["estimated_efficiency"] == 100 / 20_000
    assert bottlenecks(stages) == ["rerank"]


def test_stages_that_take_eighty_percent_of_the_slowest_are_bottlenecks(plan):
    past = [ran(("search", 0, 9, 81.0), ("rerank", 9, 9, 100.0), ("only", 9, 9, 79.0), ("cut", 9, 5, 0.1))]
    assert bottlenecks(forecast(plan, Past(past), 10, None)) == ["search", "rerank"]
    assert bottlenecks(forecast(plan, Past([]), 10, None)) == []


def test_credits_are_those_that_were_spent(plan):
    past = [ran(("search", 0, 9, 1.0), ("rerank", 9, 9, 1.0), credits_used=2.5)]
    assert [s["estimated_cost_credits"] for s in forecast(plan, Past(past), 10, None)] == [2.5, 2.5, 0.0, 0.0]


def test_a_filter_behind_an_expensive_stage_is_moved_in_front(plan):
    past = Past(PAST)
    found = {s["type"]: s for s in suggestions(plan, forecast(plan, past, 20_000, None), past, None)}
    assert found["reorder_stages"]["stage"] == "only"
    assert "80 %" in found["reorder_stages"]["message"]
    assert found["reduce_limit"]["stage"] == "search"
    assert "add_filter" not in found  # the search is no bottleneck


def test_a_slow_search_over_many_documents_wants_a_filter(shop):
    plan = shop.compile({"stage_name": "search", **text_search("red")})
    past = Past([ran(("search", 0, 5, 10.0))])
    found = suggestions(plan, forecast(plan, past, 20_000, None), past, None)
    assert [s["type"] for s in found] == ["add_filter"]
    filtered = shop.compile({"stage_name": "search", **text_search("red", pre_filters={"category": "animal"})})
    assert suggestions(filtered, forecast(filtered, past, 20_000, None), past, None) == []


def test_what_was_asked_again_and_again_wants_a_cache_unless_the_clock_has_a_part(shop):
    plan = shop.compile({"stage_name": "search", **text_search("red")})
    past = Past([ran(("search", 0, 5, 10.0))], repeated=0.5)
    assert [s["type"] for s in suggestions(plan, forecast(plan, past, 10, None), past, None)] == ["enable_cache"]
    policy = CachePolicy()
    assert suggestions(plan, forecast(plan, past, 10, policy), past, policy) == []
    clocked = shop.compile(text_search("red {{utc_now()}}"))
    assert suggestions(clocked, forecast(clocked, past, 10, None), past, None) == []


def test_a_cache_is_likely_when_it_was_hit_or_the_rules_say_so(shop):
    plan = shop.compile({"stage_name": "search", **text_search("red")})
    policy = CachePolicy(stages=frozenset({"search"}))
    hits = Past([ran(("search", 0, 5, 1.0), hit=True)] * 2 + [ran(("search", 0, 5, 1.0))])
    assert forecast(plan, hits, 10, policy)[0]["cache_likely"] is True
    assert forecast(plan, hits, 10, None)[0]["cache_likely"] is False
    assert forecast(plan, Past([]), 10, policy)[0]["cache_likely"] is True
    assert forecast(plan, Past([]), 10, CachePolicy())[0]["cache_likely"] is False


def test_another_spelling_stands_at_the_root_of_the_answer_also_for_visitors(shop):
    search = {"feature_uri": TEXT_INDEX.feature_uri, "query": "whalle", "lexical": True, "fuzziness": "auto"}
    body = shop.run({"stage_id": "feature_search", "parameters": {"searches": [search]}})
    assert body["did_you_mean"] == "whale"
    published = {"display_config": {"exposed_fields": ["text"]}}
    assert public_answer(body, published)["did_you_mean"] == "whale"
    assert "did_you_mean" not in shop.run(text_search("whale"))


def test_every_stage_tells_what_it_is_good_for(shop):
    assert all(entry["common_use_cases"] for entry in shop.engine.registry() if entry["stage_id"] != "calling")
