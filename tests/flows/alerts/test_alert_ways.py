"""How alerts work: the mode of each family of stages, and what a change of the world does to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from alert_world import DIMENSIONS, AlertWorld, search, stage, step, words

from mediatheca.flows.alerts.standing import way_of
from mediatheca.kernel.documents import VectorIndex
from mediatheca.stages import CollectionView
from mediatheca.testing.stages import MemorySearcher, engine_for_tests

VECTOR = [1.0] + [0.0] * (DIMENSIONS - 1)
NEAR = search(VECTOR, min_score=0.9)
WAYS: list[tuple[str, list[dict[str, Any]], str]] = [
    ("inverted", [stage(NEAR)], "compared"),
    ("inverted", [step("attribute_filter", code="a"), stage(NEAR)], "compared"),
    ("inverted", [stage(NEAR), step("attribute_filter", code="a")], "compared"),
    ("inverted", [stage(NEAR), step("sort_attribute", sort_field="price")], "compared"),
    ("inverted", [stage(words("red tea"))], "words"),
    ("inverted", [step("attribute_filter", code="a")], "conditions"),
    ("verified", [stage(NEAR, words("red"))], "2 searches"),
    ("verified", [stage(words("red", min_score=1.0))], "how well"),
    ("verified", [stage(NEAR), step("limit", limit=3)], "limit"),
    ("verified", [stage(NEAR), step("score_threshold", min_score=0.95)], "score_threshold"),
    ("direct", [stage(NEAR, group_by={"field": "code"})], "groups"),
    ("direct", [stage(NEAR), {**stage(words("red")), "stage_name": "again"}], "documents of its own"),
    ("direct", [step("retriever", retriever_id="other")], "retriever"),
    (
        "direct",
        [stage(search(VECTOR), filters={"field": "price", "operator": "gt", "value": "{{ time_ago(1) }}"})],
        "clock",
    ),
]


@pytest.mark.parametrize(("mode", "stages", "word"), WAYS)
def test_the_mode_of_each_family_of_stages(
    world: AlertWorld, mode: str, stages: list[dict[str, Any]], word: str
) -> None:
    plan = world.services.plans.get(world.scope, world.retriever("r", *stages)).plan
    way = way_of(plan)
    assert (way.mode, word in way.reason) == (mode, True), way


SEEN = VectorIndex("seen", "mixpeek://image_extractor@v1/seen", 8, model="seen", modalities=("image",))


@pytest.mark.parametrize(
    ("value", "more", "mode"),
    [
        ("https://example.com/report.pdf", {}, "direct"),
        ("{{INPUT.file}}", {}, "direct"),
        ("upl_0123456789", {}, "direct"),
        ("{{INPUT.file}}", {"auto_preprocess": False}, "inverted"),
        ("https://example.com/photo.jpg", {}, "inverted"),
        ("data:image/png;base64,iVBORw0KGgo=", {}, "inverted"),
        ("data:image/png;base64,iVBORw0KGgo=", {"query_preprocessing": {}}, "direct"),
    ],
)
def test_a_file_that_may_be_cut_into_pieces_is_not_turned_round(value: str, more: dict[str, Any], mode: str) -> None:
    view = CollectionView("col_p", "pictures", (SEEN,), {})
    asked = {"feature_uri": SEEN.feature_uri, "query": {"input_mode": "content", "value": value}, "min_score": 0.5}
    plan = engine_for_tests(MemorySearcher()).compile([stage(asked, **more)], [view])
    way = way_of(plan)
    assert way.mode == mode, way
    assert ("pieces" in way.reason) == (mode == "direct")


def test_empty_answers_and_mapped_inputs_have_ways_of_their_own(world: AlertWorld) -> None:
    plan = world.services.plans.get(world.scope, world.retriever("r", stage(NEAR))).plan
    assert way_of(plan, no_results=True).mode == "direct"
    assert way_of(plan, mapped=True).mode == "per_document"


def document(title: str, vector: list[float] | None = None) -> Any:
    return {"title": title, "price": 1.0, "code": "a"}, np.asarray(vector or VECTOR, np.float32)


def test_what_changes_between_two_passes_counts_in_the_second(world: AlertWorld) -> None:
    """A new alert, a changed one, a disabled one, another retriever, a deleted retriever."""
    near, far = world.retriever("near", stage(NEAR)), world.retriever("far", stage(search([-x for x in VECTOR])))
    first = world.alert(near)
    assert world.percolate(world.write({"a": document("x")})) == {first: {"a"}}
    second = world.alert(near)
    assert world.percolate(world.write({"b": document("x")})) == {first: {"b"}, second: {"b"}}
    with world.services.db.begin(world.scope) as tx:
        record = tx.get("alert", first)
        tx.change(record, {**record.body, "enabled": False})
    assert world.percolate(world.write({"c": document("x")})) == {second: {"c"}}
    with world.services.db.begin(world.scope) as tx:
        record = tx.get("alert", second)
        tx.change(record, {**record.body, "retriever_id": far, "watched": [world.collection]})
    assert world.percolate(world.write({"d": document("x", [-x for x in VECTOR])})) == {second: {"d"}}
    with world.services.db.begin(world.scope) as tx:
        tx.remove(tx.get("retriever", far))
    (found,) = world.percolator.percolate(world.scope, world.collection, world.write({"e": document("x")}))
    assert "deleted" in found.error
    assert "retriever_id" in found.error


def test_documents_that_are_gone_match_nothing(world: AlertWorld) -> None:
    alert = world.alert(world.retriever("near", stage(NEAR)))
    world.write({"a": document("x"), "b": document("x")})
    world.delete(["a"])
    assert world.percolate(["a", "b", "never"]) == {alert: {"b"}}
    assert world.percolate([]) == {}


def test_an_alert_over_two_collections_matches_in_each(world: AlertWorld) -> None:
    other = world.new_collection("other")
    alert = world.alert(world.retriever("both", stage(NEAR), collections=[world.collection, other]))
    assert world.percolate(world.write({"a": document("x")})) == {alert: {"a"}}
    assert world.percolate(world.write({"b": document("x")}, other), other) == {alert: {"b"}}


@pytest.mark.parametrize("metric", ["dot", "euclid"])
def test_other_metrics_match_as_their_search_does(world: AlertWorld, metric: str) -> None:
    collection = world.new_collection(metric, metric)
    random = np.random.default_rng(3)
    retriever = world.retriever(metric, stage(search(min_score="{{INPUT.floor}}")), collections=[collection])
    floors = [0.3, 1.0, 3.0] if metric == "dot" else [0.2, 0.25, 0.3]
    alerts = {
        world.alert(retriever, inputs): inputs
        for floor in floors
        for inputs in ({"vector": random.normal(size=DIMENSIONS).tolist(), "floor": floor} for _ in range(5))
    }
    for batch in range(3):
        docs = {f"{batch}-{n}": ({"title": "x"}, random.normal(size=DIMENSIONS)) for n in range(20)}
        ids = world.write(docs, collection)
        found = world.percolate(ids, collection)
        for alert, inputs in alerts.items():
            assert found.get(alert, set()) == world.run(retriever, inputs) & set(ids)


def test_trouble_of_one_alert_is_its_own(world: AlertWorld) -> None:
    good = world.alert(world.retriever("near", stage(NEAR)))
    bad = world.alert(
        world.retriever("input", stage(search("{{INPUT.vector}}", min_score=0.5))), {"vector": [1.0, 2.0]}
    )
    found = {
        m.alert.id: m
        for m in world.percolator.percolate(world.scope, world.collection, world.write({"a": document("x")}))
    }
    assert [match.document_id for match in found[good].matches] == ["a"]
    assert "8 numbers" in found[bad].error or "takes" in found[bad].error
