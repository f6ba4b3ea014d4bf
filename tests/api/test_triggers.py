"""Triggers as a resource: what is refused, what they show, how they are switched, and what their runs leave."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from documents_world import TEXT, URI, Tenant, World, vector_of

from mediatheca.jobs.schedule import to_us
from mediatheca.kernel import clock

SEARCH = {
    "stage_name": "search",
    "stage_id": "feature_search",
    "parameters": {"searches": [{"feature_uri": URI, "query": {"input_mode": "text", "value": "{{INPUT.query}}"}}]},
}
HOUR = (clock.now() + timedelta(hours=12)).hour
"""Not due while the tests run."""
DAILY = {"cron_expression": f"0 {HOUR} * * *", "timezone": "UTC"}


class Automation:
    """A tenant with a collection, a retriever over it, and a bucket without objects."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.call = tenant.call
        self.collection = tenant.collection("things", [TEXT])
        body = {
            "retriever_name": "by text",
            "collection_identifiers": [self.collection],
            "stages": [SEARCH],
            "input_schema": {"query": {"type": "string", "required": True}},
        }
        self.retriever = self.call("POST", "/retrievers", body)["retriever_id"]
        schema = {"properties": {"title": {"type": "string"}}}
        self.bucket = self.call("POST", "/buckets", {"bucket_name": "b", "bucket_schema": schema})["bucket_id"]

    def write(self, *texts: str) -> None:
        rows = [
            {"document_id": f"d-{text}", "payload": {"title": text}, "vectors": {TEXT.name: vector_of(text)}}
            for text in texts
        ]
        self.call("POST", "/namespaces/shop/documents/upsert", {"collection_id": self.collection, "documents": rows})

    def make(self, expect: int = 200, **more: Any) -> Any:
        body = {
            "action_type": "retriever_execution",
            "action_config": {"retriever_id": self.retriever, "inputs": {"query": "red rose"}},
            "trigger_type": "cron",
            "schedule_config": DAILY,
        }
        return self.call("POST", "/triggers", {**body, **more}, expect)

    def idle(self, **more: Any) -> Any:
        """A trigger whose runs find nothing to do and end at once."""
        config = {"bucket_id": self.bucket, "retry_failed_only": True}
        return self.make(action_type="batch_rerun", action_config=config, **more)

    def get(self, made: Any) -> Any:
        return self.call("GET", f"/triggers/{made['trigger_id']}")

    def runs(self, made: Any) -> list[Any]:
        return list(self.call("GET", f"/triggers/{made['trigger_id']}/history")["executions"])

    def ended(self, made: Any, count: int = 1) -> list[Any]:
        """Its runs, once so many have ended."""
        until(lambda: sum(run["status"] != "running" for run in self.runs(made)) >= count)
        return self.runs(made)

    def due(self, made: Any, seconds_ago: int = 1) -> None:
        """Its schedule becomes due."""
        at = to_us(clock.now()) - seconds_ago * 1_000_000
        with self.tenant.world.db.begin(self.tenant.scope) as tx:
            tx.update("schedules", {"schedule_id": made["trigger_id"]}, {"next_at": at})


def until(holds: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


@pytest.fixture
def shop(world: World) -> Automation:
    return Automation(world.tenant())


# ---- making


def test_a_daily_trigger_shows_every_field_that_clients_need_and_when_it_is_due(shop: Automation) -> None:
    made = shop.make(description="Every night")
    for name in ("trigger_id", "namespace_id", "internal_id", "action_type", "action_config", "trigger_type"):
        assert made[name], name
    assert made["is_overdue"] is False
    assert made["status"] == "active"
    assert made["name"] is None
    assert f"T{HOUR:02}:00:00" in made["next_scheduled_at"]
    assert shop.get(made) == made
    assert shop.tenant.events("trigger.created") == [(made["trigger_id"], shop.tenant.key_id)]


@pytest.mark.parametrize(
    ("kind", "config", "field"),
    [
        ("cron", {"cron_expression": "0 0 30 2 *"}, "cron_expression"),
        ("cron", {"cron_expression": "* * * * * *"}, "cron_expression"),
        ("cron", {"cron_expression": "0 2 * * *", "timezone": "Mars/Base"}, "timezone"),
        ("cron", {}, "cron_expression"),
        ("cron", {"cron_expression": "0 2 * * *", "misfire_policy": "never"}, "misfire_policy"),
        ("interval", {"interval_seconds": 5}, "interval_seconds"),
        ("interval", {"interval_seconds": 10**12}, "interval_seconds"),
        ("event", {"event_type": "trigger.fired"}, "trigger.fired"),
        ("event", {"event_type": "no.such"}, "documents_added"),
        ("event", {"event_type": "documents_added", "event_threshold": 0}, "event_threshold"),
        ("conditional", {"condition_type": "drift", "threshold": 3}, "threshold"),
        ("conditional", {"condition_type": "volume", "threshold": 1, "metric": "cosine_drift"}, "metric"),
        ("conditional", {"condition_type": "volume", "threshold": 1, "check_interval_seconds": 1}, "check_interval"),
        ("conditional", {"condition_type": "weather", "threshold": 1}, "condition_type"),
        ("sometimes", {}, "trigger_type"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused_naming_the_field(
    shop: Automation, kind: str, config: dict[str, Any], field: str
) -> None:
    answer = shop.make(422, trigger_type=kind, schedule_config=config)
    assert field in str(answer)


@pytest.mark.parametrize(
    ("action", "config", "status"),
    [
        ("retriever_execution", {"retriever_id": "ret_none"}, 404),
        ("cluster", {"cluster_id": "clust_none"}, 404),
        ("taxonomy_enrichment", {"taxonomy_id": "tax_none", "collection_id": "things"}, 404),
        ("alert_evaluation", {"alert_id": "alt_none"}, 404),
        ("collection_trigger", {"collection_id": "nothing"}, 404),
        ("batch_rerun", {"bucket_id": "nothing"}, 404),
        ("batch_rerun", {"bucket_id": "b", "retry_failed_only": True, "filters": {"title": "x"}}, 422),
        ("collection_trigger", {"collection_id": "things", "object_ids": ["x"] * 1001}, 422),
        ("retriever_execution", {"retriever_id": "by text", "acceptance": {"judge_field": "ok"}}, 422),
        ("retriever_execution", {"retriever_id": "by text", "skip_cache": False}, 422),
        ("retriever_execution", {}, 422),
        ("sync", {}, 422),
        ("sync", {"sync_config_id": "sync_none"}, 404),
        ("explode", {}, 422),
    ],
)
def test_an_action_that_cannot_be_done_is_refused(
    shop: Automation, action: str, config: dict[str, Any], status: int
) -> None:
    shop.make(status, action_type=action, action_config=config)
    assert shop.call("GET", "/triggers")["total"] == 0


def test_names_are_unique_and_found_and_unknown_keys_are_told(shop: Automation) -> None:
    made = shop.make(name="nightly", color="red", schedule_config={**DAILY, "zone": "UTC"})
    assert len(made["warnings"]) == 2
    assert shop.call("GET", "/triggers/nightly")["trigger_id"] == made["trigger_id"]
    shop.make(409, name="nightly")


def test_nobody_sees_or_uses_what_belongs_to_another_organization(world: World, shop: Automation) -> None:
    made, stranger = shop.make(), Automation(world.tenant())
    path = f"/triggers/{made['trigger_id']}"
    for method, suffix in [("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/execute"), ("GET", "/history")]:
        stranger.call(method, path + suffix, None, 404)
    stranger.make(404, action_config={"retriever_id": shop.retriever})
    assert stranger.call("GET", "/triggers")["total"] == 0


# ---- lists


def test_a_list_is_filtered_sorted_and_paged(shop: Automation) -> None:
    first, second = shop.make(), shop.idle(trigger_type="interval", schedule_config={"interval_seconds": 3600})
    shop.call("POST", f"/triggers/{second['trigger_id']}/pause")

    def ids(**asked: Any) -> list[str]:
        return [entry["trigger_id"] for entry in shop.call("POST", "/triggers/list", asked)["results"]]

    assert ids() == [second["trigger_id"], first["trigger_id"]]
    assert ids(direction="asc") == [first["trigger_id"], second["trigger_id"]]
    assert ids(resource_id=shop.retriever) == [first["trigger_id"]]
    assert ids(status="paused") == ids(trigger_type="interval") == ids(action_type="batch_rerun")
    assert ids(limit=1, offset=1) == [first["trigger_id"]]
    assert ids(sort_by="status", direction="asc") == [first["trigger_id"], second["trigger_id"]]
    found = shop.call("GET", "/triggers", action_type="batch_rerun")
    assert (found["total"], found["offset"], found["limit"]) == (1, 0, 50)
    shop.call("POST", "/triggers/list", {"sort_by": "password"}, 422)
    shop.call("POST", "/triggers/list", {"limit": 10**6}, 422)


# ---- changing


def test_a_patch_changes_when_it_runs_and_never_what_it_does(shop: Automation) -> None:
    made = shop.make()
    path = f"/triggers/{made['trigger_id']}"
    config = {"cron_expression": f"30 {HOUR} * * *"}
    changed = shop.call("PATCH", path, {"schedule_config": config, "description": "new"})
    assert f"T{HOUR:02}:30:00" in changed["next_scheduled_at"]
    assert changed["description"] == "new"
    assert changed["action_config"] == made["action_config"]
    shop.call("PATCH", path, {"action_config": {}}, 409)
    shop.call("PATCH", path, {"schedule_config": {"interval_seconds": 60}}, 422)
    assert f"T{HOUR:02}:30:00" in shop.get(made)["next_scheduled_at"]


def test_a_paused_trigger_is_not_due_and_resuming_makes_up_for_nothing(shop: Automation) -> None:
    made = shop.idle(trigger_type="interval", schedule_config={"interval_seconds": 60, "misfire_policy": "all"})
    path = f"/triggers/{made['trigger_id']}"
    paused = shop.call("POST", f"{path}/pause")
    assert (paused["status"], paused["next_scheduled_at"]) == ("paused", None)
    shop.due(made, 3600)
    resumed = shop.call("POST", f"{path}/resume")
    assert resumed["status"] == "active"
    assert resumed["next_scheduled_at"] > resumed["updated_at"]
    assert shop.runs(made) == []
    assert [kind for kind in ("trigger.paused", "trigger.resumed") if shop.tenant.events(kind)] == [
        "trigger.paused",
        "trigger.resumed",
    ]


def test_a_deleted_trigger_is_gone_with_its_schedule_and_history(shop: Automation) -> None:
    made = shop.idle()
    path = f"/triggers/{made['trigger_id']}"
    shop.call("POST", f"{path}/execute")
    shop.ended(made)
    assert shop.tenant.client.delete(f"/v1{path}").status_code == 204
    shop.call("GET", path, None, 404)
    with shop.tenant.world.db.read(shop.tenant.scope) as tx:
        assert tx.count("schedules", {}) == tx.count("trigger_runs", {}) == 0


# ---- runs


def test_a_due_trigger_runs_once_and_its_history_says_how_it_went(shop: Automation) -> None:
    shop.write("red rose", "blue sea")
    made = shop.make()
    shop.due(made)
    (run,) = shop.ended(made)
    assert run["status"] == "completed"
    assert run["verdict"]["accepted"] is True
    assert run["verdict"]["results"] == 2
    assert run["execution_time_ms"] >= 0
    shown = shop.get(made)
    assert (shown["execution_count"], shown["last_execution_status"], shown["consecutive_failures"]) == (
        1,
        "completed",
        0,
    )
    assert shown["last_execution_task_id"] == run["task_id"]
    assert shop.call("GET", f"/tasks/{run['task_id']}")["status"] == "COMPLETED"
    assert f"T{HOUR:02}:00:00" in shown["next_scheduled_at"]
    assert [ident for ident, _ in shop.tenant.events("trigger.execution.completed")] == [made["trigger_id"]]


def test_run_now_gives_a_task_whatever_the_schedule_says(shop: Automation) -> None:
    made = shop.idle(status="paused")
    task = shop.call("POST", f"/triggers/{made['trigger_id']}/execute")
    assert task["task_type"] == "api_buckets_batches_process"
    assert task["status"] == "COMPLETED"
    (run,) = shop.ended(made)
    assert (run["status"], run["manual"], run["task_id"]) == ("completed", True, task["task_id"])


def test_a_run_is_skipped_while_the_last_one_goes_on(shop: Automation) -> None:
    made = shop.idle()
    with shop.tenant.world.db.begin(shop.tenant.scope) as tx:
        row = {"run_id": "trun_0", "trigger_id": made["trigger_id"], "due_at": 1, "status": "running"}
        tx.insert("trigger_runs", [{**row, "task_id": None, "body": {"task_ids": []}, "created_at": clock.now()}])
    shop.due(made)
    skipped, going = shop.ended(made)
    assert (skipped["status"], going["status"]) == ("skipped", "running")
    assert "trun_0" in skipped["error"]
    shop.call("POST", f"/triggers/{made['trigger_id']}/execute", None, 409)


def test_due_times_missed_under_skip_are_recorded(shop: Automation) -> None:
    made = shop.idle(schedule_config={**DAILY, "misfire_policy": "skip"})
    shop.due(made, 7200)
    (run,) = shop.ended(made)
    assert run["status"] == "skipped"
    assert "missed" in run["error"]
    assert shop.get(made)["execution_count"] == 0


def test_a_canary_fails_when_its_answer_is_not_what_is_accepted(shop: Automation) -> None:
    config = {"retriever_id": shop.retriever, "inputs": {"query": "x"}, "acceptance": {"min_results": 1}}
    made = shop.make(action_config={**config, "notification": {"notify_on": "change"}})
    for count in (1, 2):
        shop.call("POST", f"/triggers/{made['trigger_id']}/execute")
        shop.ended(made, count)
    second, first = shop.runs(made)
    assert first["status"] == "failed"
    assert "accepted are 1 or more" in first["error"]
    assert (first["changed"], second["changed"]) == (True, False)
    assert (first["notify"], second["notify"]) == (True, False)
    task = shop.call("GET", f"/tasks/{first['task_id']}")
    assert task["status"] == "FAILED"
    assert "accepted" in task["error"]
    shop.write("red rose")
    shop.call("POST", f"/triggers/{made['trigger_id']}/execute")
    assert shop.ended(made, 3)[0]["changed"] is True
    assert shop.get(made)["consecutive_failures"] == 0


def test_a_judge_counts_the_share_that_passes(shop: Automation) -> None:
    shop.write("a", "b", "c")
    acceptance = {"judge_field": "title", "min_pass_ratio": 0.5}
    config = {"retriever_id": shop.retriever, "inputs": {"query": "a"}, "acceptance": acceptance}
    made = shop.make(action_config=config)
    shop.call("POST", f"/triggers/{made['trigger_id']}/execute")
    (run,) = shop.ended(made)
    assert run["verdict"]["pass_ratio"] == 0
    assert "title" in run["error"]


def test_a_trigger_whose_retriever_is_gone_says_so_and_is_switched_off_after_five_failures(shop: Automation) -> None:
    made = shop.make()
    assert shop.tenant.client.delete(f"/v1/retrievers/{shop.retriever}", params={"force": True}).status_code == 200
    for count in range(1, 6):
        shop.due(made)
        runs = shop.ended(made, count)
        assert runs[0]["status"] == "failed"
        assert shop.retriever in runs[0]["error"]
        assert "change or delete the trigger" in runs[0]["error"]
    shown = shop.get(made)
    assert (shown["status"], shown["consecutive_failures"], shown["next_scheduled_at"]) == ("failed", 5, None)
    assert [ident for ident, _ in shop.tenant.events("trigger.disabled")] == [made["trigger_id"]]
    assert shop.call("POST", f"/triggers/{made['trigger_id']}/resume")["consecutive_failures"] == 0


def test_a_task_that_is_killed_ends_its_run_as_canceled(shop: Automation) -> None:
    made = shop.idle()
    task_id = "00000000-0000-7000-8000-000000000001"
    moment = clock.now()
    with shop.tenant.world.db.begin(shop.tenant.scope) as tx:
        task = {"task_id": task_id, "task_type": "api_buckets_batches_process", "status": "PROCESSING", "inputs": []}
        tx.insert("tasks", [{**task, "outputs": [], "additional_data": {}, "created_at": moment, "updated_at": moment}])
        run = {
            "run_id": "trun_x",
            "trigger_id": made["trigger_id"],
            "due_at": 1,
            "status": "running",
            "body": {"task_ids": [task_id]},
        }
        tx.insert("trigger_runs", [{**run, "task_id": task_id, "created_at": moment}])
        tx.enqueue("trigger.watch", {"run_id": "trun_x", "looks": 0})
    shop.call("DELETE", f"/tasks/{task_id}")
    (ended,) = shop.ended(made)
    assert ended["status"] == "canceled"


# ---- events


def event(shop: Automation, threshold: int = 1, cooldown: int = 0, **more: Any) -> Any:
    config = {"event_type": "documents_added", "event_threshold": threshold, "cooldown_seconds": cooldown, **more}
    return shop.idle(trigger_type="event", schedule_config=config)


def test_a_run_begins_when_enough_documents_were_added(shop: Automation) -> None:
    made = event(shop, 3)
    shop.write("a", "b")
    until(lambda: shop.get(made)["event_counter"] == 2)
    assert shop.runs(made) == []
    shop.write("c")
    (run,) = shop.ended(made)
    assert run["cause"]["events"] == 3
    until(lambda: shop.get(made)["event_counter"] == 0)
    shop.write("a")  # an update, no addition
    shop.write("d")
    until(lambda: shop.get(made)["event_counter"] == 1)


def test_another_collection_and_a_paused_trigger_do_not_count(shop: Automation) -> None:
    other = shop.tenant.collection("others", [TEXT])
    elsewhere, paused, here = event(shop, collection_id=other), event(shop), event(shop, collection_id="things")
    shop.call("POST", f"/triggers/{paused['trigger_id']}/pause")
    shop.write("a")
    shop.ended(here)
    assert shop.runs(elsewhere) == shop.runs(paused) == []


def test_a_run_waits_for_the_end_of_the_cool_down(shop: Automation) -> None:
    made = event(shop, 1, 3600)
    shop.write("a")
    shop.ended(made)
    shop.write("b")
    until(lambda: shop.get(made)["next_scheduled_at"] is not None)
    shown = shop.get(made)
    assert shown["next_scheduled_at"] > shown["last_cooldown_at"]
    assert shown["event_counter"] == 1
    assert len(shop.runs(made)) == 1


# ---- conditions


def condition(shop: Automation, **config: Any) -> Any:
    made = shop.idle(trigger_type="conditional", schedule_config={"collection_id": "things", **config})
    until(lambda: shop.get(made)["last_condition_check_at"] is not None)  # the first look is the baseline
    return made


def look_again(shop: Automation, made: Any) -> None:
    before = shop.get(made)["last_condition_check_at"]
    shop.due(made)
    until(lambda: shop.get(made)["last_condition_check_at"] != before)


def test_a_volume_condition_fires_when_enough_was_added_and_takes_a_new_baseline(shop: Automation) -> None:
    made = condition(shop, condition_type="volume", threshold=2)
    assert shop.get(made)["baseline_snapshot"]["document_count"] == 0
    shop.write("a")
    look_again(shop, made)
    assert shop.get(made)["last_volume_measurement"]["fired"] is False
    shop.write("b")
    look_again(shop, made)
    shop.ended(made)
    shown = shop.get(made)
    assert shown["last_volume_measurement"]["value"] == 2
    assert shown["baseline_snapshot"]["document_count"] == 2
    look_again(shop, made)
    assert len(shop.runs(made)) == 1


def test_a_drift_condition_fires_when_the_mean_vector_has_turned(shop: Automation) -> None:
    shop.write("aaaa", "aaab")
    made = condition(shop, condition_type="drift", threshold=0.2)
    shop.write("aaba")
    look_again(shop, made)
    assert shop.get(made)["last_drift_measurement"]["fired"] is False
    shop.write(*("zzzz" + "z" * n for n in range(20)))
    look_again(shop, made)
    (run,) = shop.ended(made)
    assert run["cause"]["condition"]["value"] >= 0.2
    assert "mean" not in shop.get(made)["baseline_snapshot"]


def test_drift_without_vectors_and_a_condition_over_nothing_are_refused(shop: Automation) -> None:
    shop.tenant.collection("bare", [])
    config = {"condition_type": "drift", "threshold": 0.1, "collection_id": "bare"}
    shop.make(409, trigger_type="conditional", schedule_config=config)
    bucket = {"action_type": "batch_rerun", "action_config": {"bucket_id": shop.bucket}}
    shop.make(422, trigger_type="conditional", schedule_config={"condition_type": "volume", "threshold": 1}, **bucket)


# ---- the older routes of clusters


def test_the_older_routes_know_only_triggers_of_clusters(shop: Automation) -> None:
    made = shop.make()
    assert shop.call("POST", "/clusters/triggers/list")["results"] == []
    shop.call("GET", f"/clusters/triggers/{made['trigger_id']}", None, 404)
    spec = {"trigger_type": "cron", "schedule_config": DAILY}
    shop.call("POST", "/clusters/triggers", spec, 422)
    shop.call("POST", "/clusters/triggers", {**spec, "cluster_id": "clust_none"}, 404)


def test_a_cluster_trigger_is_one_record_in_two_views(shop: Automation) -> None:
    shop.write("a", "b", "c")
    cluster = shop.call(
        "POST",
        "/clusters",
        {
            "cluster_name": "themes",
            "collection_ids": [shop.collection],
            "cluster_type": "vector",
            "vector_config": {
                "feature_uris": [URI],
                "clustering_method": "kmeans",
                "kmeans_parameters": {"n_clusters": 2},
            },
        },
    )
    spec = {
        "cluster_id": cluster["cluster_id"],
        "trigger_type": "interval",
        "schedule_config": {"interval_seconds": 600},
    }
    made = shop.call("POST", "/clusters/triggers", {**spec, "description": "often"})
    assert made["execution_config"] == {"collection_ids": [shop.collection], "config": {}}
    path = f"/clusters/triggers/{made['trigger_id']}"
    assert shop.call("GET", path)["cluster_id"] == cluster["cluster_id"]
    assert shop.call("POST", "/clusters/triggers/list", {"cluster_id": cluster["cluster_id"]})["total"] == 1
    assert shop.call("PATCH", path, {"description": "less"})["description"] == "less"
    assert shop.call("POST", f"{path}/pause")["status"] == "paused"
    assert shop.call("POST", f"{path}/resume")["status"] == "active"
    assert shop.call("GET", f"/triggers/{made['trigger_id']}")["action_type"] == "cluster"
    task = shop.call("POST", f"/triggers/{made['trigger_id']}/execute")
    assert task["task_type"] == "engine_cluster_build"
    shop.ended(made)
    (run,) = shop.call("POST", f"{path}/history", {"limit": 5})["executions"]
    assert run["job_id"] == task["task_id"]
    assert shop.tenant.client.delete(f"/v1{path}").status_code == 204
    shop.call("GET", path, None, 404)
