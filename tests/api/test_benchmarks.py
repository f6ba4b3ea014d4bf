"""Benchmarks on recorded sessions and data sets, and two retrievers side by side."""

from __future__ import annotations

from typing import Any

import pytest
from learning_shop import Shop, judged, over, search, stage

from helpers import failed, ok, wait_for
from server import Server


def finished(shop: Shop, body: dict[str, Any]) -> dict[str, Any]:
    made = shop.post("/retrievers/benchmarks", {"benchmark_name": "b", **body})
    assert made["status"] == "pending"
    return dict(wait_for(lambda: over(shop.get(f"/retrievers/benchmarks/{made['benchmark_id']}"))))


def test_a_better_retriever_is_recommended(shop: Shop) -> None:
    good = shop.retriever("good")
    bad = shop.retriever("bad", stage(search("green garden night")))
    for number in range(12):
        query = ("red rose", "blue sea", "green tree")[number % 3]
        result = shop.run(good, query)
        kind = ["click", "purchase"] if number % 4 == 0 else ["click"]
        shop.click(result, 0, interaction_type=kind, session_id=f"s{number}")
    record = finished(
        shop,
        {
            "baseline_retriever_id": "bad",
            "candidate_retriever_ids": [good],
            "session_filter": {"retriever_ids": [good]},
            "session_count": 10,
        },
    )
    assert record["status"] == "completed", record["error_message"]
    assert record["session_count"] == 10
    baseline, candidate = record["results"]
    assert (baseline["retriever_id"], candidate["retriever_name"]) == (bad, "good")
    assert candidate["metrics"]["ndcg_at_k"]["10"] == 1.0
    assert candidate["metrics"]["mean_rank_clicked"] == 1.0
    assert candidate["metrics"]["mean_rank_purchased"] == 1.0
    assert candidate["metrics"]["items_promoted"] > 0
    assert candidate["metrics"]["avg_position_delta"] < 0
    assert candidate["latency"]["stage_latencies"]["search"] > 0
    assert baseline["pipeline_hash"] != candidate["pipeline_hash"]
    compared = record["comparison"]["comparisons"][0]
    assert compared["ndcg_delta"]["10"] > 0
    assert compared["p_value"] < 0.05
    assert compared["confidence_interval"][0] > 0
    assert compared["interleaving"]["losses"] <= compared["interleaving"]["wins"] + compared["interleaving"]["ties"]
    assert record["comparison"]["recommendation"].startswith(good)
    assert shop.get(f"/retrievers/benchmarks/{record['benchmark_id']}")["started_at"]


def test_a_golden_data_set_can_be_replayed(shop: Shop) -> None:
    shop.retriever("one")
    shop.retriever("two")
    shop.dataset("golden")
    body = {"baseline_retriever_id": "one", "candidate_retriever_ids": ["two"], "dataset_name": "golden"}
    record = finished(shop, body)
    assert record["session_count"] == 3
    assert record["comparison"]["comparisons"][0]["ndcg_delta"]["10"] == 0
    assert record["comparison"]["recommendation"].startswith("no candidate is better")


def test_without_sessions_a_benchmark_fails_and_says_what_to_record(shop: Shop) -> None:
    shop.retriever("one")
    shop.retriever("two")
    record = finished(shop, {"baseline_retriever_id": "one", "candidate_retriever_ids": ["two"]})
    assert record["status"] == "failed"
    assert "execution_id" in record["error_message"]


def test_failed_sessions_are_counted_by_kind(shop: Shop) -> None:
    shop.retriever("one")
    needs = {"query": {"type": "string", "required": True}, "shelf": {"type": "integer", "required": True}}
    shop.retriever("two", input_schema=needs)
    shop.dataset("golden")
    body = {"baseline_retriever_id": "one", "candidate_retriever_ids": ["two"], "dataset_name": "golden"}
    result = finished(shop, body)["results"][1]
    assert result["failed_sessions"] == 3
    assert sum(result["error_summary"].values()) == 3


def test_bad_benchmarks_name_the_field(shop: Shop) -> None:
    one, two = shop.retriever("one"), shop.retriever("two")
    good = {"benchmark_name": "b", "baseline_retriever_id": one, "candidate_retriever_ids": [two]}
    cases = [
        ({**good, "baseline_retriever_id": "nobody"}, "baseline_retriever_id"),
        ({**good, "candidate_retriever_ids": [one]}, "candidate_retriever_ids"),
        ({**good, "candidate_retriever_ids": [two, "two"]}, "candidate_retriever_ids"),
        ({**good, "candidate_retriever_ids": []}, "candidate_retriever_ids"),
        ({**good, "session_count": 9}, "session_count"),
        ({**good, "dataset_name": "nothing"}, "dataset_name"),
    ]
    for body, field in cases:
        assert field in failed(shop.client.post("/v1/retrievers/benchmarks", json=body), 422)["message"]
    taxonomies = {**good, "session_filter": {"taxonomy_node_ids": ["n"]}}
    failed(shop.client.post("/v1/retrievers/benchmarks", json=taxonomies), 403)


def test_benchmarks_are_listed_by_retriever_and_deleted(shop: Shop) -> None:
    one = shop.retriever("one")
    shop.retriever("two")
    shop.dataset("golden")
    record = finished(
        shop, {"baseline_retriever_id": one, "candidate_retriever_ids": ["two"], "dataset_name": "golden"}
    )
    path = "/v1/retrievers/benchmarks"
    assert ok(shop.client.get(path, params={"retriever_id": one, "status": "completed"}))["total"] == 1
    assert ok(shop.client.get(path, params={"retriever_id": "ret_other"}))["total"] == 0
    assert shop.client.delete(f"{path}/{record['benchmark_id']}").status_code == 204
    failed(shop.client.get(f"{path}/{record['benchmark_id']}"), 404)


def test_two_retrievers_side_by_side(shop: Shop) -> None:
    shop.retriever("one")
    shop.retriever("two", stage(search("green garden night")))
    body = {"retriever_a": "one", "retriever_b": "two", "inputs": {"query": "red rose"}, "k": 3}
    found = shop.post("/retrievers/compare", body)
    entry = found["results"][0]
    assert 0 <= entry["rank_biased_overlap"] < 1
    assert entry["a"]["document_ids"][0] == "rose"
    assert len(entry["a"]["document_ids"]) == 3
    shown = {item["document_id"] for item in entry["only_in_a"]}
    assert shown == set(entry["a"]["document_ids"]) - set(entry["b"]["document_ids"])
    same = shop.post("/retrievers/compare", {**body, "retriever_b": "one"})
    assert same["summary"]["mean_rank_biased_overlap"] == pytest.approx(1.0)
    assert same["results"][0]["moved"] == []


def test_versions_and_data_sets_can_be_compared(shop: Shop) -> None:
    retriever = shop.retriever("one")
    ok(shop.client.patch(f"/v1/retrievers/{retriever}", json={"stages": [stage(search("green garden"))]}))
    shop.dataset("golden", judged("q", "red rose", rose=1), judged("r", "blue sea", sea=1))
    body = {"retriever_a": "one", "version_a": 1, "retriever_b": "one", "dataset_name": "golden"}
    found = shop.post("/retrievers/compare", body)
    assert found["summary"]["queries"] == 2
    assert (found["retriever_a"]["version"], found["retriever_b"]["version"]) == (1, 2)
    assert found["summary"]["mean_rank_biased_overlap"] < 1


def test_bad_comparisons_are_refused(shop: Shop) -> None:
    shop.retriever("one")
    body = {"retriever_a": "one", "retriever_b": "one"}
    for wrong in ({}, {"inputs": {}, "queries": [{}]}, {"inputs": {"query": "x"}, "k": 0}, {"queries": [{}] * 51}):
        failed(shop.client.post("/v1/retrievers/compare", json={**body, **wrong}), 422)
    unknown = {**body, "retriever_b": "nobody", "inputs": {"query": "x"}}
    failed(shop.client.post("/v1/retrievers/compare", json=unknown), 404)


def test_benchmarks_of_others_do_not_exist(shop: Shop, learning_server: Server) -> None:
    one = shop.retriever("one")
    shop.retriever("two")
    shop.dataset("golden")
    record = finished(
        shop, {"baseline_retriever_id": one, "candidate_retriever_ids": ["two"], "dataset_name": "golden"}
    )
    foreign = Shop(learning_server)
    own = foreign.retriever("own")
    foreign.get(f"/retrievers/benchmarks/{record['benchmark_id']}", 404)
    failed(foreign.client.delete(f"/v1/retrievers/benchmarks/{record['benchmark_id']}"), 404)
    body = {"benchmark_name": "x", "baseline_retriever_id": one, "candidate_retriever_ids": [own]}
    failed(foreign.client.post("/v1/retrievers/benchmarks", json=body), 422)
    compare = {"retriever_a": own, "retriever_b": one, "inputs": {"query": "x"}}
    failed(foreign.client.post("/v1/retrievers/compare", json=compare), 404)
    foreign.close()
