"""Clicks by position, and the counterfactual estimate of a benchmark beside its interleaving."""

from __future__ import annotations

from typing import Any

import pytest
from learning_shop import Shop, over, search, stage

from helpers import failed, ok, wait_for


def test_the_curve_of_a_retriever_is_counted_from_its_answers(shop: Shop) -> None:
    retriever = shop.retriever()
    for number in range(4):
        result = shop.run(retriever, f"red rose {number}", limit=3)
        if number < 2:
            shop.click(result, 0)
    shop.click(shop.run(retriever, "red rose", limit=2, offset=2), 1)
    shop.server.app.services.executions.flush()
    curve = shop.get(f"/retrievers/{retriever}/click-curve")
    counted = {entry["position"]: (entry["impressions"], entry["clicks"]) for entry in curve["positions"]}
    assert counted == {0: (4, 2), 1: (4, 0), 2: (5, 0), 3: (1, 1)}
    assert curve["positions"][0]["ctr"] == 0.5
    assert (curve["executions"], curve["clicks"], curve["fitted_position_bias"]) == (5, 3, None)
    assert curve["configured_position_bias"] == 0.5
    path = f"/v1/retrievers/{retriever}/click-curve"
    bought = ok(shop.client.get(path, params={"interaction_type": "purchase"}))
    assert bought["clicks"] == 0
    failed(shop.client.get(f"/v1/retrievers/{retriever}/click-curve", params={"days": 0}), 422)


def test_a_curve_of_enough_clicks_is_fitted(shop: Shop) -> None:
    retriever = shop.retriever()
    for number in range(24):
        place = (0, 0, 0, 1)[number % 4]
        shop.click(shop.run(retriever, f"red rose {number}"), place)
    shop.server.app.services.executions.flush()
    fitted = shop.get(f"/retrievers/{retriever}/click-curve")["fitted_position_bias"]
    assert fitted == pytest.approx(1.585, abs=0.01)  # a third of the clicks at the second place


def test_a_benchmark_estimates_what_the_candidate_would_have_got(shop: Shop) -> None:
    good = shop.retriever("good")
    shop.retriever("bad", stage(search("green garden night")))
    for number in range(12):
        query = ("red rose", "blue sea", "green tree")[number % 3]
        shop.click(shop.run(good, query), 0, session_id=f"s{number}")
    shop.server.app.services.executions.flush()
    body: dict[str, Any] = {
        "benchmark_name": "b", "baseline_retriever_id": "bad", "candidate_retriever_ids": [good],
        "session_filter": {"retriever_ids": [good]}, "session_count": 12,
    }  # fmt: skip
    made = shop.post("/retrievers/benchmarks", body)
    record = wait_for(lambda: over(shop.get(f"/retrievers/benchmarks/{made['benchmark_id']}")))
    found = record["comparison"]["comparisons"][0]["counterfactual"]
    assert (found["method"], found["executions"], found["clicks"]) == ("snips", 12, 12)
    assert found["candidate"] > found["baseline"]
    assert found["delta"] == pytest.approx(found["candidate"] - found["baseline"])
    assert found["confidence_interval"][0] > 0
    assert found["coverage"] == pytest.approx(1)
    assert found["position_bias_fitted"] is False
    assert found["ctr_by_position"][0]["ctr"] == 1.0


def test_without_records_of_answers_there_is_no_estimate(shop: Shop) -> None:
    shop.retriever("one")
    shop.retriever("two")
    shop.dataset("golden")
    body = {"benchmark_name": "b", "baseline_retriever_id": "one", "candidate_retriever_ids": ["two"]}
    made = shop.post("/retrievers/benchmarks", {**body, "dataset_name": "golden"})
    record = wait_for(lambda: over(shop.get(f"/retrievers/benchmarks/{made['benchmark_id']}")))
    found = record["comparison"]["comparisons"][0]["counterfactual"]
    assert (found["candidate"], found["delta"], found["confidence_interval"]) == (None, None, None)
    assert "send execution_id" in found["note"]
