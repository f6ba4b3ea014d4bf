"""The action `sync` of triggers."""

from __future__ import annotations

from typing import Any

from sync_world import SyncWorld

from helpers import failed, ok, wait_for

NIGHTLY = {"trigger_type": "cron", "schedule_config": {"cron_expression": "0 2 * * *"}}


def ended(world: SyncWorld, trigger: str) -> dict[str, Any]:
    path = f"/v1/triggers/{trigger}/history"
    found: dict[str, Any] = wait_for(
        lambda: next((r for r in ok(world.client.get(path))["executions"] if r["status"] != "running"), None)
    )
    return found


def test_a_trigger_runs_a_sync_and_its_history_leads_to_the_run(world: SyncWorld) -> None:
    world.files.put("a.txt", b"x")
    sync = world.sync(sync_from="2099-01-01")
    config = {"sync_id": sync, "full_sync": True}
    made = ok(world.client.post("/v1/triggers", json={"action_type": "sync", "action_config": config, **NIGHTLY}))
    assert made["action_config"] == {"sync_config_id": sync, "bucket_id": world.bucket, "full_sync": True}
    task = ok(world.client.post(f"/v1/triggers/{made['trigger_id']}/execute"))
    run = ended(world, made["trigger_id"])
    assert (run["status"], run["task_id"]) == ("completed", task["task_id"])
    job = world.job(sync, task["inputs"][0]["sync_job_id"])
    assert (job["files_synced"], job["full_sync"], job["task_id"]) == (1, True, task["task_id"])


def test_a_run_that_fails_is_a_trigger_that_failed(world: SyncWorld) -> None:
    sync = world.sync(source_path="films", connection_id=world.connect())
    with world.server.app.services.db.begin(world.scope) as tx:  # somebody has changed the bucket's mapping meanwhile
        record = tx.get("sync", sync)
        tx.change(record, {**record.body, "batch_collection_ids": ["col_gone"]})
    world.collection()
    world.files.put("../films-root.txt", b"x")
    path = world.files.folder.rsplit("/", 1)[0]
    ok(world.client.patch(f"{world.path}/{sync}", json={"source_path": path}))
    made = ok(
        world.client.post(
            "/v1/triggers", json={"action_type": "sync", "action_config": {"sync_config_id": sync}, **NIGHTLY}
        )
    )
    ok(world.client.post(f"/v1/triggers/{made['trigger_id']}/execute"))
    run = ended(world, made["trigger_id"])
    assert run["status"] == "failed"
    assert "col_gone" in run["error"]


def test_a_trigger_of_a_sync_that_is_not_there_or_paused(world: SyncWorld) -> None:
    sync, other = world.sync(), world.new_bucket("other")
    for config in ({"sync_config_id": "sync_none"}, {"sync_config_id": sync, "bucket_id": other}):
        body = {"action_type": "sync", "action_config": config, **NIGHTLY}
        failed(world.client.post("/v1/triggers", json=body), 404)
    body = {"action_type": "sync", "action_config": {"sync_config_id": sync}, **NIGHTLY}
    made = ok(world.client.post("/v1/triggers", json=body))
    ok(world.client.post(f"{world.path}/{sync}/pause"))
    assert "paused" in failed(world.client.post(f"/v1/triggers/{made['trigger_id']}/execute"), 409)["message"]
