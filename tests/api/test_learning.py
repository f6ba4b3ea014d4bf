"""Interactions and learned fusion: what is recorded, what it teaches, who is spared, and how it is taken back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from documents_world import URI
from learning_shop import Shop, search, stage

from helpers import failed, ok, places

LEXICAL = f"{URI}#lexical"


def weights(shop: Shop, retriever: str, user: str = "") -> dict[str, Any]:
    return dict(shop.get(f"/retrievers/{retriever}/learned-fusion/weights{'/' + user if user else ''}"))


# ---- interactions


def test_an_interaction_is_recorded_read_listed_and_deleted(shop: Shop) -> None:
    retriever = shop.retriever()
    result = shop.run(retriever)
    made = shop.click(result, user_id="u1", session_id="s1", metadata={"device": "phone"})
    assert made["interaction_id"].startswith("int_")
    assert made["feature_uri"] == URI  # found by the execution's record
    assert made["query_snapshot"] == {"query": "red rose"}
    assert made["metadata"] == {"device": "phone", "reward_value": 1.0}
    path = f"/retrievers/interactions/{made['interaction_id']}"
    assert shop.get(path)["user_id"] == "u1"
    listed = shop.post("/retrievers/interactions/list?page=1&page_size=5", {"retriever_id": retriever})
    assert listed["results"] == listed["items"]
    assert [entry["interaction_id"] for entry in listed["results"]] == [made["interaction_id"]]
    ok(shop.client.delete(f"/v1{path}"))
    shop.get(path, 404)
    failed(shop.client.delete(f"/v1{path}"), 404)


def test_the_same_again_within_minutes_is_dropped(shop: Shop) -> None:
    result = shop.run(shop.retriever())
    first, again = shop.click(result), shop.click(result)
    assert (first["deduplicated"], again["deduplicated"]) == (False, True)
    assert again["interaction_id"] is None
    assert shop.click(result, interaction_type=["purchase"])["deduplicated"] is False
    assert shop.click(result, 1)["deduplicated"] is False


def test_lists_filter_by_every_key(shop: Shop) -> None:
    retriever = shop.retriever()
    result = shop.run(retriever)
    shop.click(result, 0, user_id="a", session_id="s")
    shop.click(result, 1, user_id="b", interaction_type=["view", "purchase"])
    for wanted, count in (
        ({"user_id": "a"}, 1), ({"session_id": "s"}, 1), ({"execution_id": result["execution_id"]}, 2),
        ({"interaction_type": "purchase"}, 1), ({"interaction_type": "click"}, 1), ({"retriever_id": "by text"}, 2),
        ({"feature_id": result["documents"][1]["document_id"]}, 1), ({"user_id": "nobody"}, 0),
    ):  # fmt: skip
        assert len(shop.post("/retrievers/interactions/list", wanted)["results"]) == count, wanted
    failed(shop.client.post("/v1/retrievers/interactions/list", json={"user_id": 5}), 422)


def test_bad_interactions_name_the_field(shop: Shop) -> None:
    retriever = shop.retriever()
    good = {"feature_id": "rose", "interaction_type": ["click"], "position": 0}
    cases = [
        ({**good, "retriever_id": retriever}, "execution_id"),
        ({**good, "result_set_size": 0}, "result_set_size"),
        ({**good, "position": -1}, "position"),
        ({**good, "interaction_type": []}, "interaction_type"),
        ({**good, "interaction_type": ["<script>"]}, "interaction_type"),
        ({**good, "document_score": "high"}, "document_score"),
        ({**good, "metadata": {"x": "y" * 30_000}}, "metadata"),
        ({"interaction_type": ["click"], "position": 0}, "feature_id"),
    ]
    for body, field in cases:
        error = failed(shop.client.post("/v1/retrievers/interactions", json=body), 422)
        assert any(field in place for place in places(error)), (body, error)
    unknown = {**good, "retriever_id": "ret_unknown", "execution_id": "exec_x"}
    failed(shop.client.post("/v1/retrievers/interactions", json=unknown), 404)


def test_an_execution_of_another_retriever_is_refused(shop: Shop) -> None:
    result = shop.run(shop.retriever("one"))
    other = shop.retriever("two")
    body = {"feature_id": "rose", "interaction_type": ["click"], "position": 0, "retriever_id": other}
    answer = shop.client.post("/v1/retrievers/interactions", json={**body, "execution_id": result["execution_id"]})
    assert "body.execution_id" in places(failed(answer, 422))


def test_a_history_is_recorded_in_bulk_and_what_is_wrong_in_it_is_told(shop: Shop) -> None:
    retriever = shop.learner()
    day = (datetime.now(UTC) - timedelta(days=100)).isoformat()
    future = (datetime.now(UTC) + timedelta(days=100)).isoformat()
    base = {"feature_id": "rose", "interaction_type": ["purchase"], "retriever_id": retriever, "user_id": "u"}
    entries = [
        {**base, "feature_uri": URI, "occurred_at": day},
        {**base, "feature_uri": URI, "occurred_at": future},
        {**base, "feature_uri": "mixpeek://other@v1/x", "occurred_at": day},
        {"feature_id": "rose"},
    ]
    made = shop.post("/retrievers/interactions/batch", {"interactions": entries})
    assert (made["created"], made["failed"]) == (3, 1)
    assert made["errors"][0].startswith("3: ")
    assert [entry["index"] for entry in made["results"]] == [0, 1, 2]
    times = [shop.get(f"/retrievers/interactions/{e['interaction_id']}")["timestamp"] for e in made["results"]]
    assert times[0][:10] == day[:10]
    assert times[1] <= datetime.now(UTC).isoformat()
    arms = {arm["feature_uri"]: arm for arm in weights(shop, retriever)["arms"]}
    assert arms[URI]["alpha"] == pytest.approx(1 + 3 * 0.995**100 + 3, abs=0.02)
    failed(shop.client.post("/v1/retrievers/interactions/batch", json={"interactions": [{}] * 1001}), 422)


# ---- learning


def test_before_anything_is_learned_ranks_are_fused_and_the_answer_says_so(shop: Shop) -> None:
    retriever = shop.learner()
    result = shop.run(retriever)
    told = result["learned_fusion_context"]
    assert told["context_level"] == "uniform"
    assert told["applied"] is False
    assert told["feature_uris"][:2] == [URI, LEXICAL]
    plain = shop.run(shop.retriever("static", stage(search(), search(lexical=True))))
    assert [d["document_id"] for d in result["documents"]] == [d["document_id"] for d in plain["documents"]]
    assert "learned_fusion_context" not in plain


def test_clicks_move_the_weights_and_the_next_answer_uses_them(shop: Shop) -> None:
    retriever = shop.learner()
    for number in range(8):
        result = shop.run(retriever, f"red rose {number}")
        made = shop.click(result, feature_uri=None, user_id="alice")
        assert made["learned"] is True
    assert shop.get(f"/retrievers/{retriever}/learned-fusion/stats")["learned_interactions"] == 8
    found = weights(shop, retriever)
    assert found["interactions"] == 8
    assert sum(found["weights"].values()) == pytest.approx(1)
    told = shop.run(retriever, "red rose", user_id="alice")["learned_fusion_context"]
    assert (told["context_level"], told["applied"]) == ("personal", True)
    assert sum(told["sampled_weights"].values()) == pytest.approx(1)
    assert told["effective_exploration"] == pytest.approx(0.99**8)
    assert told["context_key"].startswith("user:")
    assert "alice" not in str(told)
    stranger = shop.run(retriever, "red rose", user_id="bob")["learned_fusion_context"]
    assert stranger["context_level"] == "global"


def test_a_named_search_teaches_where_the_execution_is_not_known(shop: Shop) -> None:
    retriever = shop.learner()
    now = datetime.now(UTC).isoformat()
    body = {"feature_id": "rose", "interaction_type": ["click"], "position": 0, "retriever_id": retriever}
    made = shop.post("/retrievers/interactions", {**body, "occurred_at": now, "feature_uri": LEXICAL})
    assert made["learned"] is True
    assert weights(shop, retriever)["weights"][LEXICAL] > 0.5
    silent = shop.post("/retrievers/interactions", {**body, "execution_id": "exec_unknown", "feature_id": "mug"})
    assert silent["learned"] is False
    assert "send the execution_id, or feature_uri" in silent["warning"]
    wrong = {**body, "occurred_at": now, "feature_uri": "mixpeek://other@v1/x"}
    assert "no search of this retriever" in shop.post("/retrievers/interactions", wrong)["warning"]


def test_the_same_seed_draws_the_same_weights(shop: Shop) -> None:
    retriever = shop.learner(seed=7)
    for number in range(3):
        shop.click(shop.run(retriever, f"red {number}"))
    first = shop.run(retriever, "red rose")["learned_fusion_context"]
    again = shop.run(retriever, "red rose")["learned_fusion_context"]
    other = shop.run(retriever, "green tree")["learned_fusion_context"]
    assert first["seed"] == again["seed"] != other["seed"]
    assert first["sampled_weights"] == pytest.approx(again["sampled_weights"], abs=1e-4)


def test_pages_of_one_question_fit_together(shop: Shop) -> None:
    retriever = shop.learner()
    for number in range(3):
        shop.click(shop.run(retriever, f"red {number}"))
    whole = [d["document_id"] for d in shop.run(retriever, "red rose", limit=6)["documents"]]
    paged = []
    for offset in range(0, 6, 2):
        paged += [d["document_id"] for d in shop.run(retriever, "red rose", limit=2, offset=offset)["documents"]]
    assert paged == whole


def test_a_segment_teaches_its_own(shop: Shop) -> None:
    retriever = shop.learner(demographic_features=["INPUT.country"], min_interactions=1000)
    shop.click(shop.run(retriever, "red", inputs={"country": "PT"}))
    near = shop.run(retriever, "rose", inputs={"country": "PT"})["learned_fusion_context"]
    far = shop.run(retriever, "rose", inputs={"country": "NO"})["learned_fusion_context"]
    assert near["context_level"] == "demographic"
    assert far["context_level"] == "global"


def test_shadow_mode_draws_weights_and_does_not_use_them(shop: Shop) -> None:
    retriever = shop.learner()
    before = shop.run(retriever, "red rose")
    shop.click(shop.run(retriever, "red"))
    switched = shop.post(f"/retrievers/{retriever}/learned-fusion/enable", {"shadow_mode": True})
    assert switched["shadow_mode"] is True
    shadowed = shop.run(retriever, "red rose")
    told = shadowed["learned_fusion_context"]
    assert (told["applied"], told["shadow_mode"]) == (False, True)
    assert told["sampled_weights"]
    assert [d["score"] for d in shadowed["documents"]] == [d["score"] for d in before["documents"]]


def test_switching_off_stops_use_and_learning(shop: Shop) -> None:
    retriever = shop.learner()
    shop.click(shop.run(retriever, "red"))
    assert shop.post(f"/retrievers/{retriever}/learned-fusion/disable")["enabled"] is False
    result = shop.run(retriever, "rose")
    assert "switched off" in result["learned_fusion_context"]["reason"]
    made = shop.click(result)
    assert made["learned"] is False
    assert "switched off" in made["warning"]
    assert shop.post(f"/retrievers/{retriever}/learned-fusion/enable")["enabled"] is True
    assert shop.run(retriever, "rose")["learned_fusion_context"]["context_level"] == "global"


def test_the_rollout_takes_its_share_of_people(shop: Shop) -> None:
    retriever = shop.learner()
    shop.click(shop.run(retriever, "red"))
    path = f"/retrievers/{retriever}/learned-fusion/rollout"
    assert shop.post(path, {"rollout_pct": 40})["rollout_pct"] == 40
    inside = [shop.run(retriever, "rose", user_id=f"u{n}")["learned_fusion_context"]["applied"] for n in range(40)]
    assert 1 <= sum(inside) <= 36  # who is inside depends on the id of the retriever; 16 are to be expected
    again = shop.run(retriever, "tree", user_id="u0")["learned_fusion_context"]["applied"]
    assert again == inside[0]
    shop.post(path, {"rollout_pct": 0})
    assert "roll-out" in shop.run(retriever, "rose", user_id="u0")["learned_fusion_context"]["reason"]
    for wrong in ({"rollout_pct": 101}, {"rollout_pct": "many"}, {}):
        failed(shop.client.post(f"/v1{path}", json=wrong), 422)


def test_who_opts_out_is_spared_and_may_come_back(shop: Shop) -> None:
    retriever = shop.learner()
    shop.click(shop.run(retriever, "red"))
    base = f"/retrievers/{retriever}/learned-fusion"
    shop.post(f"{base}/opt-out/alice")
    result = shop.run(retriever, "rose", user_id="alice")
    assert result["learned_fusion_context"]["reason"] == "this user has opted out"
    assert shop.click(result, user_id="alice")["learned"] is False
    assert weights(shop, retriever, "alice")["opted_out"] is True
    assert shop.get(f"{base}/stats")["opted_out_users"] == 1
    shop.post(f"{base}/opt-in/alice")
    assert shop.run(retriever, "rose", user_id="alice")["learned_fusion_context"]["applied"] is True


def test_resetting_a_person_forgets_only_what_was_learned_about_them(shop: Shop) -> None:
    retriever = shop.learner(min_interactions=1)
    shop.click(shop.run(retriever, "red", user_id="alice"), user_id="alice")
    assert weights(shop, retriever, "alice")["context_level"] == "personal"
    ok(shop.client.delete(f"/v1/retrievers/{retriever}/learned-fusion/user/alice"))
    assert weights(shop, retriever, "alice")["context_level"] == "global"
    assert shop.post("/retrievers/interactions/list", {"user_id": "alice"})["total_count"] == 1


def test_deleting_an_interaction_takes_back_what_it_taught(shop: Shop) -> None:
    retriever = shop.learner()
    before = weights(shop, retriever)["arms"]
    made = shop.click(shop.run(retriever, "red"), user_id="u")
    assert weights(shop, retriever)["arms"] != before
    ok(shop.client.delete(f"/v1/retrievers/interactions/{made['interaction_id']}"))
    after = {arm["feature_uri"]: (arm["alpha"], arm["beta"]) for arm in weights(shop, retriever)["arms"]}
    assert all(value == pytest.approx((1, 1), abs=1e-6) for value in after.values())


def test_forgetting_a_person_removes_every_trace(shop: Shop) -> None:
    retriever = shop.learner(min_interactions=1)
    result = shop.run(retriever, "red", user_id="alice", inputs={"user_id": "alice"})
    shop.click(result, user_id="alice")
    kept = shop.run(retriever, "red", user_id="bob")
    shop.click(kept, user_id="bob")
    gone = ok(shop.client.delete("/v1/retrievers/interactions/users/alice"))
    assert (gone["interactions"], gone["learned_contexts"]) == (1, 1)
    assert shop.post("/retrievers/interactions/list", {"user_id": "alice"})["total_count"] == 0
    assert weights(shop, retriever, "alice")["context_level"] == "global"
    shop.get(f"/retrievers/{retriever}/executions/{result['execution_id']}", 404)
    shop.get(f"/retrievers/{retriever}/executions/{kept['execution_id']}")
    with shop.server.app.services.db.read(shop.scope) as tx:
        rows = [row for name in ("interactions", "executions", "fusion_arms") for row in tx.rows(name, {})]
    assert "alice" not in str(rows)


def test_forgetting_a_person_drops_the_results_that_are_kept_in_memory(shop: Shop, foreign: Shop) -> None:
    retriever = shop.retriever(cache_config={"enabled": True})
    own = foreign.retriever(cache_config={"enabled": True})
    personal = {"inputs": {"user_id": "alice"}, "limit": 2}
    page = shop.run(retriever, "red", **personal)
    assert shop.run(retriever, "red", **personal)["cache_hit"] is True
    assert foreign.run(own, "red")["cache_hit"] is foreign.run(own, "blue")["cache_hit"] is False
    ok(shop.client.delete("/v1/retrievers/interactions/users/alice"))
    later = shop.run(retriever, "red", **personal, cursor=page["pagination"]["cursor"])
    assert any("expired" in warning for warning in later["warnings"])
    assert shop.run(retriever, "red", **personal, skip_cache=False)["cache_hit"] is False
    assert foreign.run(own, "red")["cache_hit"] is True  # other tenants keep theirs


def test_a_namespace_takes_what_was_recorded_in_it_along(shop: Shop) -> None:
    retriever = shop.learner()
    shop.click(shop.run(retriever, "red", user_id="alice", session_id="s"), user_id="alice")
    shop.post("/annotations", {"document_id": "rose", "label": "yes"})
    ok(shop.client.post(f"/v1/retrievers/{retriever}/publish", json={"public_name": f"gone-{shop.namespace[-12:]}"}))
    shop.server.app.services.executions.flush()
    with shop.tenant.client() as admin:
        assert admin.delete(f"/v1/namespaces/{shop.namespace}", params={"force": True}).status_code in (200, 204)
    tables = ("interactions", "fusion_arms", "shown_results", "publications", "annotations", "executions")
    with shop.server.app.services.db.read(shop.scope) as tx:
        assert {table: tx.count(table, {}) for table in tables} == dict.fromkeys(tables, 0)


def test_activity_tells_what_was_learned_and_switched(shop: Shop) -> None:
    retriever = shop.learner()
    shop.click(shop.run(retriever, "red"))
    shop.post(f"/retrievers/{retriever}/learned-fusion/rollout", {"rollout_pct": 50})
    shop.post(f"/retrievers/{retriever}/learned-fusion/opt-out/alice")
    told = shop.get(f"/retrievers/{retriever}/learned-fusion/activity")["activity"]
    assert {entry["type"] for entry in told} == {"interaction", "learned_fusion.updated", "learned_fusion.opted_out"}
    assert "alice" not in str(told)


def test_a_retriever_that_learns_nothing_says_so_when_switched_on(shop: Shop) -> None:
    switched = shop.post(f"/retrievers/{shop.retriever()}/learned-fusion/enable")
    assert switched["learns"] is False
    assert "fusion 'learned'" in switched["warnings"][0]


def test_interactions_and_learning_of_others_do_not_exist(shop: Shop, foreign: Shop) -> None:
    retriever = shop.learner()
    result = shop.run(retriever, "red")
    made = shop.click(result, user_id="alice")
    foreign.get(f"/retrievers/interactions/{made['interaction_id']}", 404)
    failed(foreign.client.delete(f"/v1/retrievers/interactions/{made['interaction_id']}"), 404)
    assert foreign.post("/retrievers/interactions/list", {"retriever_id": retriever})["results"] == []
    for path in ("weights", "weights/alice", "stats", "activity"):
        foreign.get(f"/retrievers/{retriever}/learned-fusion/{path}", 404)
    for path in ("enable", "disable", "opt-out/alice", "opt-in/alice"):
        foreign.post(f"/retrievers/{retriever}/learned-fusion/{path}", status=404)
    body = {"feature_id": "rose", "interaction_type": ["click"], "position": 0, "execution_id": result["execution_id"]}
    silent = foreign.post("/retrievers/interactions", body)
    assert silent["query_snapshot"] is None  # a foreign execution tells nothing
    assert ok(foreign.client.delete("/v1/retrievers/interactions/users/alice"))["interactions"] == 0
    assert shop.get(f"/retrievers/interactions/{made['interaction_id']}")["user_id"] == "alice"


def test_deleting_a_retriever_takes_its_learning_along(shop: Shop) -> None:
    retriever = shop.learner()
    made = shop.click(shop.run(retriever, "red"))
    shop.post(f"/retrievers/{retriever}/learned-fusion/rollout", {"rollout_pct": 50})
    ok(shop.client.delete(f"/v1/retrievers/{retriever}"))
    shop.get(f"/retrievers/interactions/{made['interaction_id']}", 404)
    with shop.server.app.services.db.read(shop.scope) as tx:
        assert tx.count("fusion_arms", {}) == 0
        assert tx.resources("learned_fusion") == []
