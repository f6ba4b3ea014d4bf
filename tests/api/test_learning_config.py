"""`learning_config` is checked before it is stored; one that cannot be read never puts learned weights live."""

from __future__ import annotations

from typing import Any

import pytest
from learning_shop import SCHEMA, Shop, search, stage

from helpers import failed, ok, places


def created(shop: Shop, config: Any, **parameters: Any) -> Any:
    given = {"learning_config": config} if config is not ... else {}
    learner = stage(search(), search(lexical=True), fusion="learned", **given, **parameters)
    body = {"retriever_name": "l", "collection_identifiers": [shop.collection], "stages": [learner]}
    return shop.client.post("/v1/retrievers", json={**body, "input_schema": SCHEMA})


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"shadow_mode": True, "rollout_pct": 500}, "rollout_pct"),
        ({"shadow_mode": "on"}, "shadow_mode"),
        ({"rollout_pct": True}, "learning_config"),
        ({"rollout_pct": "{{INPUT.query}}"}, "rollout_pct"),
        ({"algorithm": "linucb"}, "algorithm"),
        ({"exploration_bonus": 11}, "exploration_bonus"),
        ({"decay_factor": 0.5}, "decay_factor"),
        ({"reward_map": {"click": "much"}}, "reward_map"),
        ({"reward_map": {f"k{n}": 1 for n in range(200)}}, "reward_map"),
        ({"context_features": ["x"] * 11}, "context_features"),
        ({"evaluation_dataset_id": "nothing"}, "evaluation_dataset_id"),
        ([], "learning_config"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_path(shop: Shop, config: Any, field: str) -> None:
    error = failed(created(shop, config), 422)
    assert any("stages.0.config.parameters.learning_config" in place and field in place for place in places(error))


def test_a_misspelt_key_is_refused_and_told_what_was_meant(shop: Shop) -> None:
    error = failed(created(shop, {"shadow_mod": True}), 422)
    assert "did you mean 'shadow_mode'?" in str(error)


def test_learned_fusion_needs_a_configuration(shop: Shop) -> None:
    error = failed(created(shop, ...), 422)
    assert "stages.0.config.parameters.learning_config" in places(error)
    assert "{} takes the defaults" in str(error)
    ok(created(shop, {}))


def test_nulls_take_defaults_and_what_is_read_only_is_passed_over(shop: Shop) -> None:
    made = ok(created(shop, {"rollout_pct": None, "shipped_weight_set": "ws_x", "shadow_mode": True}))
    stats = shop.get(f"/retrievers/{made['retriever_id']}/learned-fusion/stats")
    assert stats["shipped_weight_set"] is None
    assert (stats["rollout_pct"], stats["shadow_mode"]) == (100, True)


def test_stages_that_learn_differently_are_refused(shop: Shop) -> None:
    both = (search(), search(lexical=True))
    first = stage(*both, fusion="learned", learning_config={"rollout_pct": 10})
    second = {**stage(*both, fusion="learned", learning_config={"rollout_pct": 20}), "stage_name": "again"}
    body = {"retriever_name": "l", "collection_identifiers": [shop.collection], "stages": [first, second]}
    error = failed(shop.client.post("/v1/retrievers", json={**body, "input_schema": SCHEMA}), 422)
    assert any(place.startswith("stages.1.") or ".stages.1." in place for place in places(error))


def test_a_change_is_checked_like_a_new_one(shop: Shop) -> None:
    retriever = shop.learner()
    wrong = stage(search(), search(lexical=True), fusion="learned", learning_config={"rollout_pct": -1})
    failed(shop.client.patch(f"/v1/retrievers/{retriever}", json={"stages": [wrong]}), 422)


def test_a_stored_configuration_that_cannot_be_read_fuses_statically_and_says_so(shop: Shop) -> None:
    retriever = shop.learner()
    result = shop.run(retriever)
    shop.click(result)
    assert shop.run(retriever, "red")["learned_fusion_context"]["applied"] is True
    broken = {"shadow_mode": True, "rollout_pct": 500}  # as an older release stored it
    with shop.server.app.services.db.begin(shop.scope) as tx:
        record = tx.get("retriever", retriever)
        stages = record.body["stages"]
        for parameters in (stages[0]["config"]["parameters"], stages[0]["parameters"]):
            parameters["learning_config"] = broken
        tx.change(record, {**record.body, "stages": stages})
    answer = shop.run(retriever, "rose")
    told = answer["learned_fusion_context"]
    assert (told["applied"], told["sampled_weights"]) == (False, None)
    assert any("fusion is static" in warning and "rollout_pct" in warning for warning in answer["warnings"])
    made = shop.click(answer)
    assert made["learned"] is False
    assert "not valid" in made["warning"]
    assert "not valid" in shop.get(f"/retrievers/{retriever}/learned-fusion/stats")["warnings"][0]
