"""Calibrated relevance: fitted from an evaluation, per version of a retriever, absent where it was not."""

from __future__ import annotations

from typing import Any

import httpx
from learning_shop import Shop, judged, search, stage

from helpers import failed, ok

WORDS = ("blue lamp", "dark beer", "tiny house", "cold milk", "warm bread", "loud drum", "green tea", "old violin")


def measured(shop: Shop, **config: Any) -> tuple[str, str]:
    """A retriever and an evaluation of it: documents with the letters of the query are the relevant ones."""
    shop.write([(f"good{n}", words, 1.0, "k") for n, words in enumerate(WORDS)])
    queries = [judged(f"q{n}", words, **{f"good{n}": 3}) for n, words in enumerate(WORDS)]
    dataset = shop.dataset("golden", *queries)
    retriever = shop.retriever("calibrated")
    record = shop.evaluated(retriever, dataset, k_values=[10], **config)
    assert record["status"] == "completed"
    assert "scored" not in str(record)
    return retriever, record["evaluation_id"]


def fitted(shop: Shop, retriever: str, evaluation: str, **spec: Any) -> httpx.Response:
    return shop.client.post(f"/v1/retrievers/{retriever}/evaluations/{evaluation}/calibrate", json=spec)


def test_answers_say_how_relevant_each_result_is(shop: Shop) -> None:
    retriever, evaluation = measured(shop)
    before = shop.run(retriever, "blue lamp")
    assert "confidence" not in before
    assert "relevance" not in before["documents"][0]
    made = ok(fitted(shop, retriever, evaluation))
    assert made["quality"]["brier"] < made["quality"]["brier_of_base_rate"]
    assert made["map"]["method"] == "platt"
    assert shop.get(f"/retrievers/{retriever}/calibration")["evaluation_id"] == evaluation
    after = shop.run(retriever, "blue lamp", limit=10)
    values = [document["relevance"] for document in after["documents"]]
    assert values == sorted(values, reverse=True)
    assert all(0 <= value <= 1 for value in values)
    assert after["documents"][0]["confidence"] == after["confidence"]
    assert after["confidence"] in ("high", "medium")
    poor = shop.run(retriever, "zzzzzz qqqqq", limit=10)
    assert poor["documents"][0]["relevance"] < values[0]
    assert poor["confidence"] in ("low", "none")


def test_steps_can_be_chosen_and_every_page_carries_them(shop: Shop) -> None:
    retriever, evaluation = measured(shop)
    assert ok(fitted(shop, retriever, evaluation, method="isotonic"))["map"]["method"] == "isotonic"
    page = shop.run(retriever, "blue lamp", limit=2)
    later = shop.run(retriever, "blue lamp", limit=2, cursor=page["pagination"]["cursor"])
    assert all("relevance" in document for document in later["documents"])


def test_another_version_has_no_relevance(shop: Shop) -> None:
    retriever, evaluation = measured(shop)
    ok(fitted(shop, retriever, evaluation))
    assert "confidence" in shop.run(retriever, "blue lamp")
    ok(shop.client.patch(f"/v1/retrievers/{retriever}", json={"stages": [stage(search(top_k=7))]}))
    assert "confidence" not in shop.run(retriever, "blue lamp")
    assert "confidence" in shop.run(retriever, "blue lamp", version=1)
    assert "evaluate again" in str(failed(fitted(shop, retriever, evaluation), 409))


def test_a_map_can_be_taken_back(shop: Shop) -> None:
    retriever, evaluation = measured(shop)
    path = f"/v1/retrievers/{retriever}/calibration"
    failed(shop.client.get(path), 404)
    ok(fitted(shop, retriever, evaluation))
    assert shop.client.delete(path).status_code in (200, 204)
    failed(shop.client.get(path), 404)
    assert "confidence" not in shop.run(retriever, "blue lamp")


def test_what_cannot_be_calibrated_says_why(shop: Shop, foreign: Shop) -> None:
    retriever, evaluation = measured(shop, match_on="document_id")
    small = shop.evaluated(retriever, shop.dataset("small"), k_values=[5])["evaluation_id"]
    assert "needed are 30" in str(failed(fitted(shop, retriever, small), 409))
    failed(fitted(shop, retriever, evaluation, method="magic"), 422)
    failed(fitted(shop, retriever, evaluation, relevant_from=9), 422)
    learner = shop.learner()
    learned = shop.evaluated(learner, "golden", k_values=[10])["evaluation_id"]
    assert "learns" in str(failed(fitted(shop, learner, learned), 409))
    backwards = shop.dataset("backwards", *[judged(f"q{n}", w, rose=1, sea=1) for n, w in enumerate(WORDS)])
    wrong = shop.evaluated(retriever, backwards, k_values=[20])["evaluation_id"]
    answer = fitted(shop, retriever, wrong)
    assert answer.status_code == 409 or ok(answer)["quality"]["brier"] < ok(answer)["quality"]["brier_of_base_rate"]
    own = foreign.retriever("own")
    failed(fitted(foreign, own, evaluation), 404)
    foreign.get(f"/retrievers/{retriever}/calibration", 404)
