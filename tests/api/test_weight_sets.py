"""Weight sets: trained on a golden data set, shipped only through the gate, and used where nothing is learned."""

from __future__ import annotations

from typing import Any

import pytest
from learning_shop import Shop, judged, search, stage

from helpers import failed, ok, places, wait_for

PAIRS = [("blue", "lamp"), ("dark", "beer"), ("tiny", "house"), ("cold", "milk"), ("warm", "bread"), ("loud", "drum")]
"""Only the words tell the wanted document: another one has the very letters of the query."""


def wanted(number: int) -> str:
    return f"wanted{number}"


def filled(shop: Shop) -> None:
    goods = []
    for number, (first, second) in enumerate(PAIRS):
        goods.append((wanted(number), f"{first} {second} zzz qqq xxx", 1.0, "k"))
        goods.append((f"lookalike{number}", f"{second} {first[::-1]}", 1.0, "k"))
    shop.write(goods)


def golden(shop: Shop, name: str = "golden", prefix: str = "wanted") -> str:
    queries = [judged(f"q{n}", f"{a} {b}", **{f"{prefix}{n}": 3}) for n, (a, b) in enumerate(PAIRS)]
    return shop.dataset(name, *queries)


def learner(shop: Shop, **config: Any) -> str:
    return shop.learner("learner", **config)


def trained(shop: Shop, retriever: str, **spec: Any) -> dict[str, Any]:
    path = f"/retrievers/{retriever}/learned-fusion/weight-sets"
    made = shop.post(path, spec, 202)
    assert made["status"] == "pending"
    found = f"{path}/{made['weight_set_id']}"

    def over() -> dict[str, Any] | None:
        record: dict[str, Any] = shop.get(found)
        return record if record["status"] in ("completed", "failed") else None

    return dict(wait_for(over))


def ship(shop: Shop, retriever: str, ident: str) -> Any:
    return shop.client.post(f"/v1/retrievers/{retriever}/learned-fusion/weight-sets/{ident}/ship")


def top(shop: Shop, retriever: str) -> str:
    return str(shop.run(retriever, "blue lamp")["documents"][0]["document_id"])


def test_better_weights_pass_the_gate_and_serve_once_they_are_shipped(shop: Shop) -> None:
    filled(shop)
    golden(shop)
    retriever = learner(shop, evaluation_dataset_id="golden")
    record = trained(shop, retriever)
    assert record["status"] == "completed", record["error_message"]
    assert record["verdict"]["passed"] is True
    assert record["candidate_metrics"]["ndcg"] > record["baseline_metrics"]["ndcg"]
    assert record["verdict"]["per_metric"]["ndcg"]["baseline"] == record["baseline_metrics"]["ndcg"]
    assert record["queries"] == 6
    assert len(record["weights"]) == 2
    assert sum(record["weights"].values()) == pytest.approx(1)
    assert shop.get(f"/tasks/{record['task_id']}")["status"] == "COMPLETED"
    assert (record["shipped"], top(shop, retriever)) == (False, "lookalike0")

    assert ok(ship(shop, retriever, record["weight_set_id"]))["shipped"] is True
    result = shop.run(retriever, "blue lamp")
    assert result["documents"][0]["document_id"] == wanted(0)
    told = result["learned_fusion_context"]
    assert (told["weight_set_id"], told["applied"]) == (record["weight_set_id"], False)
    measured = shop.evaluated(retriever, "golden", k_values=[10])
    assert measured["weight_set_id"] == record["weight_set_id"]
    assert measured["overall_metrics"]["ndcg"] == pytest.approx(1)

    base = f"/retrievers/{retriever}/learned-fusion/weight-sets"
    failed(shop.client.delete(f"/v1{base}/{record['weight_set_id']}"), 409)
    shop.post(f"{base}/unship")
    assert top(shop, retriever) == "lookalike0"
    assert shop.client.delete(f"/v1{base}/{record['weight_set_id']}").status_code in (200, 204)
    assert shop.get(base)["total"] == 0


def test_a_set_that_is_not_strictly_better_is_never_shipped(shop: Shop) -> None:
    filled(shop)
    golden(shop, "other", "lookalike")
    retriever = learner(shop)
    record = trained(shop, retriever, evaluation_dataset_id="other", ship=True)
    assert record["verdict"]["passed"] is False
    assert record["shipped"] is False
    error = failed(ship(shop, retriever, record["weight_set_id"]), 409)
    assert "regressed: ndcg" in str(error)


def test_a_set_can_be_shipped_as_soon_as_it_passes(shop: Shop) -> None:
    filled(shop)
    golden(shop)
    retriever = learner(shop)
    record = trained(shop, retriever, evaluation_dataset_id="golden", ship=True)
    assert record["shipped"] is True  # in the moment that it is completed
    wait_for(lambda: top(shop, retriever) == wanted(0))


def test_what_changed_since_it_was_measured_stops_a_set(shop: Shop) -> None:
    filled(shop)
    dataset = golden(shop)
    retriever = learner(shop)
    record = trained(shop, retriever, evaluation_dataset_id="golden")
    other = shop.dataset("later")
    config = {"evaluation_dataset_id": other}
    named = stage(search(), search(lexical=True), fusion="learned", learning_config=config)
    ok(shop.client.patch(f"/v1/retrievers/{retriever}", json={"stages": [named]}))
    assert "learning_config names" in str(failed(ship(shop, retriever, record["weight_set_id"]), 409))
    heavier = stage(search(weight=0.5), search(lexical=True), fusion="learned", learning_config={})
    ok(shop.client.patch(f"/v1/retrievers/{retriever}", json={"stages": [heavier]}))
    assert "searches of the retriever are others" in str(failed(ship(shop, retriever, record["weight_set_id"]), 409))
    same = stage(search(), search(lexical=True), fusion="learned", learning_config={})
    ok(shop.client.patch(f"/v1/retrievers/{retriever}", json={"stages": [same]}))
    ok(shop.client.patch(f"/v1/retrievers/evaluations/datasets/{dataset}", json={"description": "new"}))
    assert "data set was changed" in str(failed(ship(shop, retriever, record["weight_set_id"]), 409))


def test_shipped_weights_of_other_searches_are_not_used(shop: Shop) -> None:
    filled(shop)
    golden(shop)
    retriever = learner(shop)
    record = trained(shop, retriever, evaluation_dataset_id="golden")
    ok(ship(shop, retriever, record["weight_set_id"]))
    other = stage(search(), search("tea", lexical=True), search("x", weight=0.1), fusion="learned", learning_config={})
    other["config"]["parameters"]["searches"].pop(1)
    ok(shop.client.patch(f"/v1/retrievers/{retriever}", json={"stages": [other]}))
    assert shop.run(retriever, "blue lamp")["learned_fusion_context"]["weight_set_id"] is None


def test_a_weight_set_can_be_evaluated_before_it_is_shipped(shop: Shop) -> None:
    filled(shop)
    golden(shop)
    retriever = learner(shop)
    record = trained(shop, retriever, evaluation_dataset_id="golden")
    live = shop.evaluated(retriever, "golden", k_values=[10])
    tried = shop.evaluated(retriever, "golden", k_values=[10], weight_set_id=record["weight_set_id"])
    assert (live["weight_set_id"], tried["weight_set_id"]) == (None, record["weight_set_id"])
    assert tried["overall_metrics"]["ndcg"] > live["overall_metrics"]["ndcg"]
    body = {"dataset_name": "golden", "evaluation_config": {"weight_set_id": "ws_unknown"}}
    failed(shop.client.post(f"/v1/retrievers/{retriever}/evaluations", json=body), 422)


def test_training_that_cannot_be_done_says_why(shop: Shop, foreign: Shop) -> None:
    shop.dataset("small")
    retriever = learner(shop)
    path = f"/v1/retrievers/{retriever}/learned-fusion/weight-sets"
    assert "body.evaluation_dataset_id" in places(failed(shop.client.post(path), 422))
    failed(shop.client.post(path, json={"evaluation_dataset_id": "nothing"}), 422)
    failed(shop.client.post(path, json={"evaluation_dataset_id": "small", "primary_metric": "luck"}), 422)
    failed(shop.client.post(path, json={"evaluation_dataset_id": "small", "k": 0}), 422)
    few = trained(shop, retriever, evaluation_dataset_id="small")
    assert few["status"] == "failed"
    assert "training needs 5" in few["error_message"]
    plain = shop.retriever("plain")
    body = {"evaluation_dataset_id": "small"}
    error = failed(shop.client.post(f"/v1/retrievers/{plain}/learned-fusion/weight-sets", json=body), 400)
    assert "no weights to train" in str(error)
    foreign.get(f"/retrievers/{retriever}/learned-fusion/weight-sets", 404)
    own = learner(foreign)
    foreign.get(f"/retrievers/{own}/learned-fusion/weight-sets/{few['weight_set_id']}", 404)
    failed(ship(foreign, own, few["weight_set_id"]), 404)
