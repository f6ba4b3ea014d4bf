"""Golden data sets, evaluations as jobs, baselines and their gate, data sets of interactions, scored predictions."""

from __future__ import annotations

import pytest
from learning_shop import Shop, judged, search, stage

from helpers import failed, ok, places, wait_for
from mediatheca.kernel.metrics import judge, measure


def test_an_evaluation_measures_what_the_retriever_really_returns(shop: Shop) -> None:
    retriever, dataset = shop.retriever(), shop.dataset()
    record = shop.evaluated(retriever, dataset, k_values=[1, 3, 10], metrics=["ndcg", "recall", "mrr", "map", "f2"])
    assert record["status"] == "completed", record["error_message"]
    assert (record["total_queries"], record["evaluated_queries"], record["skipped_queries"]) == (3, 3, 0)
    assert {outcome["status"] for outcome in record["query_results"]} == {"evaluated"}
    ranking = [item["document_id"] for item in shop.run(retriever, "red rose", limit=10)["documents"]]
    wanted = measure(judge(ranking, {"rose": 5, "mug": 2}), ["ndcg", "recall", "mrr", "map", "f2"], 3)
    first = next(outcome for outcome in record["query_results"] if outcome["query_id"] == "q1")
    assert first["metrics_by_k"]["3"] == pytest.approx(wanted)
    assert set(record["metrics_by_k"]) == {"1", "3", "10"}
    assert record["overall_metrics"] == record["metrics_by_k"]["10"]
    assert record["latency"]["p50_ms"] > 0
    low, high = record["confidence_intervals"]["ndcg"]
    assert low <= record["overall_metrics"]["ndcg"] <= high
    task = shop.get(f"/tasks/{record['task_id']}")
    assert (task["status"], task["task_type"]) == ("COMPLETED", "retriever.evaluation")


def test_queries_that_cannot_be_measured_are_skipped_and_say_why(shop: Shop) -> None:
    queries = [
        judged("good", "red rose", rose=1),
        {"query_id": "empty", "query_input": {}, "relevant_documents": ["rose"]},
        judged("nothing", "red rose", rose=0),
        {"query_id": "wrong", "query_input": {"other": 3}, "relevant_documents": ["rose"]},
        {"query_id": "extra", "query_input": {"query": "rose", "top_k": 5}, "relevant_documents": ["rose"]},
    ]
    record = shop.evaluated(shop.retriever(), shop.dataset("mixed", *queries))
    told = {outcome["query_id"]: (outcome["status"], outcome["error"]) for outcome in record["query_results"]}
    assert told["good"] == ("evaluated", None)
    assert told["extra"] == ("evaluated", None)
    assert told["empty"] == ("skipped", "the query_input is empty")
    assert told["nothing"] == ("skipped", "no document is judged relevant")
    assert "query" in told["wrong"][1]
    assert (record["evaluated_queries"], record["skipped_queries"]) == (2, 3)


def test_an_evaluation_without_any_answer_fails_and_says_why(shop: Shop) -> None:
    wrong = {"query_id": "wrong", "query_input": {"other": 3}, "relevant_documents": ["rose"]}
    record = shop.evaluated(shop.retriever(), shop.dataset("wrong", wrong))
    assert record["status"] == "failed"
    assert record["error_message"].startswith("every query was skipped; the first: ")
    assert shop.get(f"/tasks/{record['task_id']}")["status"] == "FAILED"


def test_a_baseline_gives_a_verdict_with_both_scores_and_tests(shop: Shop) -> None:
    better, dataset = shop.retriever(), shop.dataset()
    worse = shop.retriever("worse", stage(search("green garden")))
    first = shop.evaluated(worse, dataset)
    gained = shop.evaluated(better, dataset, baseline_evaluation_id=first["evaluation_id"])
    verdict = gained["verdict"]
    assert verdict["passed"] is True
    assert verdict["primary_metric"] == "ndcg"
    assert verdict["per_metric"]["ndcg"]["candidate"] > verdict["per_metric"]["ndcg"]["baseline"]
    assert gained["baseline_evaluation_id"] == first["evaluation_id"]
    assert gained["significance"]["queries"] == 3
    assert 0 <= gained["significance"]["p_value"] <= 1
    lost = shop.evaluated(worse, dataset, baseline_evaluation_id=gained["evaluation_id"])
    assert lost["verdict"]["passed"] is False
    assert "ndcg" in lost["verdict"]["regressed_metrics"]
    same = shop.evaluated(better, dataset, baseline_evaluation_id=gained["evaluation_id"])
    assert same["verdict"]["passed"] is False
    assert same["significance"]["p_value"] == 1.0


def test_a_baseline_on_another_data_set_is_refused(shop: Shop) -> None:
    retriever = shop.retriever()
    first = shop.evaluated(retriever, shop.dataset("one"))
    shop.dataset("two")
    for baseline, dataset in ((first["evaluation_id"], "two"), ("eval_unknown", "one")):
        body = {"dataset_name": dataset, "evaluation_config": {"baseline_evaluation_id": baseline}}
        answer = shop.client.post(f"/v1/retrievers/{retriever}/evaluations", json=body)
        assert "body.evaluation_config.baseline_evaluation_id" in places(failed(answer, 422))


def test_bad_requests_name_the_field(shop: Shop) -> None:
    retriever = shop.retriever()
    shop.dataset("golden")
    path = f"/v1/retrievers/{retriever}/evaluations"
    cases = [
        ({"dataset_name": "unknown"}, "dataset_name"),
        ({}, "dataset_name"),
        ({"dataset_name": "golden", "evaluation_config": {"k_values": [0]}}, "k_values"),
        ({"dataset_name": "golden", "evaluation_config": {"k_values": [10**9]}}, "k_values"),
        ({"dataset_name": "golden", "evaluation_config": {"metrics": ["beauty"]}}, "metrics"),
        ({"dataset_name": "golden", "evaluation_config": {"match_on": "colour"}}, "match_on"),
    ]
    for body, field in cases:
        assert field in failed(shop.client.post(path, json=body), 422)["message"]
    assert failed(shop.client.post("/v1/retrievers/unknown/evaluations", json=cases[0][0]), 404)


def test_misspelt_settings_of_an_evaluation_are_told(shop: Shop) -> None:
    shop.dataset("golden")
    body = {"dataset_name": "golden", "evaluation_config": {"k_value": [5]}, "baseline": "x"}
    path = f"/v1/retrievers/{shop.retriever()}/evaluations"
    told = shop.client.post(path, json=body).json()["warnings"]
    assert told == [
        "baseline: unknown key is ignored",
        "evaluation_config.k_value: unknown key is ignored; did you mean 'k_values'?",
    ]


def test_data_sets_are_checked(shop: Shop) -> None:
    path = "/v1/retrievers/evaluations/datasets"
    good = judged("q", "red", rose=1)
    cases = [
        ({"dataset_name": "d", "queries": []}, "queries"),
        ({"dataset_name": "d", "queries": [good, good]}, "unique"),
        ({"dataset_name": "d", "queries": [{**good, "relevance_scores": {"rose": 6}}]}, "0 to 5"),
        ({"dataset_name": "d", "queries": [{**good, "relevance_scores": {"rose": 0}}]}, "cannot be both"),
        ({"dataset_name": "ds_x", "queries": [good]}, "ds_"),
        ({"queries": [good]}, "dataset_name"),
    ]
    for body, word in cases:
        assert word in failed(shop.client.post(path, json=body), 422)["message"]
    shop.dataset("taken")
    failed(shop.client.post(path, json={"dataset_name": "taken", "queries": [good]}), 409)


def test_data_sets_are_listed_read_changed_and_deleted(shop: Shop) -> None:
    ident = shop.dataset("golden")
    base = "/retrievers/evaluations/datasets"
    listed = shop.get(base, page=1, page_size=5)
    assert (listed["total"], listed["page"], listed["page_size"]) == (1, 1, 5)
    assert listed["datasets"][0]["dataset_id"] == ident
    assert shop.get(f"{base}/golden")["query_count"] == 3
    changed = ok(shop.client.patch(f"/v1{base}/{ident}", json={"queries": [judged("q", "red", rose=1)]}))
    assert (changed["query_count"], changed["dataset_name"]) == (1, "golden")
    failed(shop.client.patch(f"/v1{base}/{ident}", json={"queries": [{"query_id": 1}]}), 422)
    ok(shop.client.delete(f"/v1{base}/golden"))
    shop.get(f"{base}/golden", 404)


def test_evaluations_are_listed_by_status_and_data_set_and_deleted(shop: Shop) -> None:
    retriever = shop.retriever()
    first = shop.evaluated(retriever, shop.dataset("one"))
    shop.evaluated(retriever, shop.dataset("two"))
    path = f"/retrievers/{retriever}/evaluations"
    assert shop.get(path)["total"] == 2
    assert shop.get(path, dataset_name="one")["evaluations"][0]["evaluation_id"] == first["evaluation_id"]
    assert ok(shop.client.get(f"/v1{path}", params={"status": "failed"}))["total"] == 0
    failed(shop.client.get(f"/v1{path}", params={"status": "done"}), 422)
    ok(shop.client.delete(f"/v1{path}/{first['evaluation_id']}"))
    shop.get(f"{path}/{first['evaluation_id']}", 404)


def test_a_cancelled_task_ends_the_evaluation(shop: Shop) -> None:
    queries = [judged(f"q{n}", f"red rose {n}", rose=1) for n in range(2_000)]
    retriever, dataset = shop.retriever(), shop.dataset("long", *queries)
    started = shop.post(f"/retrievers/{retriever}/evaluations", {"dataset_name": dataset}, 202)
    ok(shop.client.delete(f"/v1/tasks/{started['task_id']}"))
    path = f"/retrievers/{retriever}/evaluations/{started['evaluation_id']}"
    record = wait_for(lambda: shop.get(path)["status"] == "failed" and shop.get(path))
    assert record["error_message"] == "cancelled"
    assert shop.get(f"/tasks/{started['task_id']}")["status"] == "CANCELED"


def test_an_old_version_of_a_retriever_can_be_evaluated(shop: Shop) -> None:
    retriever, dataset = shop.retriever(), shop.dataset()
    before = shop.evaluated(retriever, dataset)
    changed = {"stages": [stage(search("green garden"))]}
    ok(shop.client.patch(f"/v1/retrievers/{retriever}", json=changed))
    now = shop.evaluated(retriever, dataset)
    again = shop.evaluated(retriever, dataset, version=1)
    assert now["overall_metrics"]["ndcg"] < before["overall_metrics"]["ndcg"]
    assert again["overall_metrics"] == before["overall_metrics"]
    assert (again["retriever_version"], now["retriever_version"]) == (1, 2)


def test_a_data_set_is_made_of_what_people_liked(shop: Shop) -> None:
    retriever = shop.retriever()
    for number in range(4):
        result = shop.run(retriever, "red rose")
        shop.click(result, 0, user_id=f"u{number}")
    shop.click(shop.run(retriever, "red rose"), 1, interaction_type=["purchase"])
    shop.click(shop.run(retriever, "blue sea"), 0)
    made = shop.post(f"/retrievers/{retriever}/evaluations/generate-from-interactions", {"dataset_name": "liked"})
    assert made["query_count"] == 1
    query = made["queries"][0]
    assert query["query_input"] == {"query": "red rose"}
    assert len(query["relevant_documents"]) == 2
    assert query["relevance_scores"]["rose"] == 5
    assert made["metadata"]["generated_from"] == "interactions"
    assert shop.evaluated(retriever, "liked")["status"] == "completed"


def test_too_few_interactions_say_how_many_there_are(shop: Shop) -> None:
    retriever = shop.retriever()
    shop.click(shop.run(retriever))
    path = f"/v1/retrievers/{retriever}/evaluations/generate-from-interactions"
    message = failed(shop.client.post(path), 400)["message"]
    assert "1 in all" in message
    failed(shop.client.post(path, json={"lookback_days": 4000}), 422)


def test_predictions_are_scored_without_storing_anything(shop: Shop) -> None:
    scored = shop.post(
        "/evaluations/score", {"predicted": ["a", "b"], "ground_truth": ["b", "c", "d"], "metrics": ["f1"]}
    )
    assert scored["aggregate"] == {"f1": pytest.approx(0.4)}
    batch = [{"predicted": ["a"], "ground_truth": ["a"]}, {"predicted": [], "ground_truth": ["a"]}]
    scored = shop.post("/evaluations/score", {"items": batch})
    assert (scored["count"], scored["aggregate"]["recall"]) == (2, 0.5)
    assert (
        shop.post("/evaluations/score", {"predicted": ["x", "a"], "ground_truth": ["a"], "k": 1})["aggregate"]["f1"]
        == 0
    )
    failed(shop.client.post("/v1/evaluations/score", json={}), 422)
    assert "ndcg" in shop.get("/evaluations")["metrics"]


def test_evaluations_and_data_sets_of_others_do_not_exist(shop: Shop, foreign: Shop) -> None:
    retriever, dataset = shop.retriever(), shop.dataset()
    record = shop.evaluated(retriever, dataset)
    own = foreign.retriever()
    foreign.get(f"/retrievers/evaluations/datasets/{dataset}", 404)
    foreign.get(f"/retrievers/{retriever}/evaluations/{record['evaluation_id']}", 404)
    foreign.get(f"/retrievers/{own}/evaluations/{record['evaluation_id']}", 404)
    failed(foreign.client.post(f"/v1/retrievers/{own}/evaluations", json={"dataset_name": dataset}), 422)
    body = {"dataset_name": foreign.dataset(), "evaluation_config": {"baseline_evaluation_id": record["evaluation_id"]}}
    failed(foreign.client.post(f"/v1/retrievers/{own}/evaluations", json=body), 422)
    failed(foreign.client.delete(f"/v1/retrievers/evaluations/datasets/{dataset}"), 404)
