"""Runs of syncs over a real S3 server: every file becomes one object, and stays it."""

from __future__ import annotations

from typing import Any

import pytest
from sync_world import SyncWorld

from helpers import failed, ok, wait_for


def test_a_run_takes_every_file_of_the_folder_once(world: SyncWorld) -> None:
    for number in range(7):
        world.files.put(f"deep/{number}.txt", f"text {number}".encode(), "text/plain")
    world.files.put("../elsewhere/8.txt", b"not ours")
    sync = world.sync(batch_size=3)
    job = world.run(sync)
    assert (job["files_synced"], job["files_failed"], job["trigger"], job["phase"]) == (7, 0, "manual", "idle")
    objects = world.objects()
    assert sorted(objects) == [f"{number}.txt" for number in range(7)]
    assert {each["key_prefix"] for each in objects.values()} == {"deep"}
    assert objects["3.txt"]["source_path"] == f"{world.files.folder}/deep/3.txt"
    assert world.content("3.txt") == b"text 3"
    again = world.run(sync)
    assert (again["files_synced"], again["files_verified"]) == (0, 7)
    assert {name: each["object_id"] for name, each in world.objects().items()} == {
        name: each["object_id"] for name, each in objects.items()
    }
    shown = world.get(sync)
    assert (shown["status"], shown["total_files_synced"], shown["sync_run_counter"]) == ("ACTIVE", 7, 2)
    assert shown["total_bytes_synced"] == sum(len(f"text {number}") for number in range(7))
    assert shown["last_sync_at"]
    assert shown["locked"] is False


def test_what_was_taken_is_processed_and_found(world: SyncWorld) -> None:
    collection = world.collection()
    for number in range(5):
        world.files.put(f"{number}.txt", f"text {number}".encode(), metadata={"topic": "sea"})
    topic = {"source": {"type": "metadata", "key": "topic"}}
    mapping = {"mappings": {"content": {"source": {"type": "file"}}, "topic": topic}}
    sync = world.sync(batch_chunk_size=2, schema_mapping=mapping)
    job = world.run(sync)
    assert len(job["batch_ids"]) == 3
    path = f"/v1/collections/{collection}/documents/list"
    wait_for(lambda: len(ok(world.client.post(path, json={}))["results"]) == 5)
    shown = world.get(sync)
    assert shown["batches_created"] == 3
    assert shown["batch_ids"] == job["batch_ids"]
    batch = ok(world.client.get(f"/v1/buckets/{world.bucket}/batches/{job['batch_ids'][0]}"))
    assert batch["object_count"] == 2
    world.files.put("1.txt", b"another text", metadata={"topic": "land"})
    world.run(sync)

    def changed() -> bool:
        documents = ok(world.client.post(path, json={"limit": 100}))["results"]
        return sorted(each["topic"] for each in documents) == ["land", "sea", "sea", "sea", "sea"]

    wait_for(changed)


def test_without_submission_the_objects_wait(world: SyncWorld) -> None:
    world.collection()
    world.files.put("1.txt", b"x")
    job = world.run(world.sync(skip_batch_submission=True))
    assert job["batch_ids"] == []
    assert ok(world.client.post(f"/v1/buckets/{world.bucket}/batches/list", json={}))["results"] == []


def test_a_changed_file_is_new_content_of_the_same_object(world: SyncWorld) -> None:
    world.files.put("a.txt", b"before")
    world.files.put("b.txt", b"stays")
    sync = world.sync()
    world.run(sync)
    before = world.objects()
    patched = {"topic": "kept by hand"}
    ok(world.client.patch(f"/v1/buckets/{world.bucket}/objects/{before['a.txt']['object_id']}", json=patched))
    world.files.put("a.txt", b"after all")
    job = world.run(sync)
    assert (job["progress"]["updated"], job["files_verified"]) == (1, 1)
    after = world.objects()
    assert after["a.txt"]["object_id"] == before["a.txt"]["object_id"]
    assert after["a.txt"]["topic"] == "kept by hand"
    assert world.content("a.txt") == b"after all"
    assert world.stored_files() == 2  # the old content went


def test_a_file_that_was_written_again_with_the_same_content_is_no_change(world: SyncWorld) -> None:
    world.files.put("a.txt", b"same")
    sync = world.sync()
    world.run(sync)
    with world.read() as tx:
        version = tx.rows("objects", {})[0]["version"]
    world.files.put("a.txt", b"same", metadata={"touched": "yes"})
    job = world.run(sync)
    assert (job["files_synced"], job["files_verified"]) == (0, 1)
    with world.read() as tx:
        assert tx.rows("objects", {})[0]["version"] == version
    assert world.stored_files() == 1


def test_files_with_the_same_content_are_one_object_unless_said_otherwise(world: SyncWorld) -> None:
    for name in ("a.txt", "b.txt"):
        world.files.put(name, b"same")
    sync = world.sync(batch_size=1)
    job = world.run(sync)
    assert (job["files_synced"], job["progress"]["duplicates"]) == (1, 1)
    assert len(world.objects()) == 1
    assert world.stored_files() == 1
    assert world.run(sync)["files_verified"] == 2
    # The object's own file changes: the other one becomes an object at last.
    world.files.put("a.txt", b"other")
    world.run(sync)
    world.run(sync)
    assert sorted(world.objects()) == ["a.txt", "b.txt"]
    assert world.content("b.txt") == b"same"


def test_every_file_is_an_object_where_duplicates_are_wanted(world: SyncWorld) -> None:
    for name in ("a.txt", "b.txt"):
        world.files.put(name, b"same")
    assert world.run(world.sync(skip_duplicates=False))["files_synced"] == 2


def test_empty_files_and_folders_are_no_objects(world: SyncWorld) -> None:
    world.files.put("empty.txt", b"")
    world.files.put("a.txt", b"x")
    job = world.run(world.sync())
    assert (job["files_synced"], job["progress"]["skipped"]) == (1, 1)


def test_a_run_takes_no_more_than_it_may_and_the_next_goes_on(world: SyncWorld) -> None:
    for number in range(5):
        world.files.put(f"{number}.txt", f"{number}".encode())
    sync = world.sync(max_objects_per_run=2, reconcile={"on_delete": True})
    first = world.run(sync)
    assert (first["files_synced"], first["metadata"]["capped"]) == (2, True)
    assert world.run(sync)["files_synced"] == 2
    last = world.run(sync)
    assert (last["files_synced"], "capped" in last["metadata"]) == (1, False)
    assert len(world.objects()) == 5


def test_a_run_in_many_slices_is_one_run(world: SyncWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mediatheca.flows.syncs.run.SLICE_S", 0.0)
    monkeypatch.setattr("mediatheca.flows.syncs.run.PAGE", 4)
    for number in range(10):
        world.files.put(f"{number}.txt", f"{number}".encode())
    sync = world.sync(batch_size=3)
    job = world.run(sync)
    assert (job["files_synced"], job["progress"]["discovered"]) == (10, 10)
    assert len(world.objects()) == 10


def test_initial_only_runs_once_and_is_complete(world: SyncWorld) -> None:
    world.files.put("a.txt", b"x")
    sync = world.sync(sync_mode="initial_only")
    assert world.get(sync)["next_sync_at"] is None
    world.run(sync)
    assert world.get(sync)["status"] == "COMPLETED"


def test_a_sync_runs_by_itself_when_it_is_due(world: SyncWorld) -> None:
    world.files.put("a.txt", b"x")
    sync = world.sync(polling_interval_seconds=3600)
    assert world.get(sync)["next_sync_at"]
    world.make_due(sync)
    wait_for(lambda: world.get(sync)["total_files_synced"] == 1)
    jobs = ok(world.client.post(f"{world.path}/{sync}/jobs"))
    assert [job["trigger"] for job in jobs["results"]] == ["scheduled"]


def test_a_paused_sync_does_not_run_until_it_is_resumed(world: SyncWorld) -> None:
    world.files.put("a.txt", b"x")
    sync = world.sync()
    paused = ok(world.client.post(f"{world.path}/{sync}/pause"))
    assert (paused["status"], paused["paused"], paused["is_active"]) == ("SUSPENDED", True, False)
    assert paused["next_sync_at"] is None
    assert "resume" in failed(world.client.post(f"{world.path}/{sync}/trigger"), 409)["message"]
    resumed = ok(world.client.post(f"{world.path}/{sync}/resume"))
    assert (resumed["status"], resumed["is_active"]) == ("PENDING", True)
    assert resumed["next_sync_at"]
    world.run(sync)


def test_a_second_trigger_is_skipped_and_a_full_one_follows(world: SyncWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.files.put("a.txt", b"x")
    sync = world.sync()
    with world.server.app.services.db.begin(world.scope) as tx:  # a run that nobody works on yet
        from mediatheca.flows.syncs.state import begin, hold

        held = hold(tx, sync)
        assert held is not None
        open_run = begin(tx, held, "manual")
        tx.update("jobs", {"group_key": open_run["sync_job_id"]}, {"run_at": 2**62})
    shown = world.get(sync)
    assert shown["locked"] is True
    assert shown["current_sync_run_id"] == open_run["sync_job_id"]
    second = world.trigger(sync)
    assert (second["status"], second["metadata"]["reason"]) == ("skipped", "skipped_already_running")
    assert world.trigger(sync, full_sync=True)["status"] == "skipped"
    assert world.get(sync)["pending_full_sync"] is True
    with world.server.app.services.db.begin(world.scope) as tx:
        tx.update("jobs", {"group_key": open_run["sync_job_id"]}, {"run_at": 0})
        tx.topics.add("jobs")
    world.ended(sync, open_run["sync_job_id"])

    def both() -> bool:
        jobs = ok(world.client.post(f"{world.path}/{sync}/jobs", json={"status": "completed"}))["results"]
        return [job["full_sync"] for job in jobs] == [True, False]

    wait_for(both)
    assert world.get(sync)["pending_full_sync"] is False


def test_unlocking_stops_a_run_and_lets_another_begin(world: SyncWorld) -> None:
    world.files.put("a.txt", b"x")
    sync = world.sync()
    with world.server.app.services.db.begin(world.scope) as tx:
        from mediatheca.flows.syncs.state import begin, hold

        held = hold(tx, sync)
        assert held is not None
        open_run = begin(tx, held, "manual")
        tx.update("jobs", {"group_key": open_run["sync_job_id"]}, {"run_at": 2**62})
    told = ok(world.client.post(f"{world.path}/{sync}/unlock"))
    assert (told["unlocked"], told["locked"], told["interrupted_job_id"]) == (True, False, open_run["sync_job_id"])
    assert world.job(sync, open_run["sync_job_id"])["status"] == "interrupted"
    assert ok(world.client.post(f"{world.path}/{sync}/unlock"))["unlocked"] is False
    world.run(sync)


def test_a_full_sync_brings_back_what_was_deleted_by_hand_and_others_do_not(world: SyncWorld) -> None:
    world.files.put("a.txt", b"x")
    sync = world.sync()
    world.run(sync)
    ident = world.objects()["a.txt"]["object_id"]
    world.client.delete(f"/v1/buckets/{world.bucket}/objects/{ident}")
    assert world.run(sync)["files_verified"] == 1
    assert world.objects() == {}
    assert world.run(sync, full_sync=True)["files_synced"] == 1
    assert world.content("a.txt") == b"x"


def test_older_files_are_left_out_until_a_full_sync(world: SyncWorld) -> None:
    world.files.put("a.txt", b"x")
    sync = world.sync(sync_from="2099-01-01T00:00:00")
    assert world.run(sync)["files_synced"] == 0
    assert world.run(sync, full_sync=True)["files_synced"] == 1


def test_every_run_is_told_as_events_and_polled_as_a_task(world: SyncWorld) -> None:
    world.files.put("a.txt", b"x")
    sync = world.sync()
    job = world.run(sync)
    events = ok(world.client.get("/v1/events", params={"limit": 1000}))["results"]
    told = [event["event_type"] for event in events if event["resource_id"] == sync]
    assert told == ["sync.created", "sync.started", "sync.completed"]
    payload: dict[str, Any] = events[-1]["payload"]
    assert (payload["sync_job_id"], payload["created"]) == (job["sync_job_id"], 1)
    task = ok(world.client.get(f"/v1/tasks/{job['task_id']}"))
    assert (task["status"], task["outputs"][0]["created"]) == ("COMPLETED", 1)


def test_metrics_say_whether_a_sync_works(world: SyncWorld) -> None:
    world.files.put("a.txt", b"x")
    sync = world.sync()
    fresh = ok(world.client.get(f"{world.path}/{sync}/metrics"))
    assert (fresh["healthy"], fresh["last_job"], fresh["seconds_since_last_sync"]) == (True, None, None)
    world.run(sync)
    found = ok(world.client.get(f"{world.path}/{sync}/metrics"))
    assert (found["total_files_synced"], found["failure_rate"], found["is_stale"]) == (1, 0.0, False)
    assert found["last_job"]["status"] == "completed"
    assert found["stale_after_seconds"] == 600


def test_deleting_a_sync_leaves_the_objects(world: SyncWorld) -> None:
    world.files.put("a.txt", b"x")
    sync = world.sync()
    world.run(sync)
    assert ok(world.client.delete(f"{world.path}/{sync}"))["success"] is True
    failed(world.client.get(f"{world.path}/{sync}"), 404)
    assert list(world.objects()) == ["a.txt"]
    with world.read() as tx:
        assert not [table for table in ("sync_jobs", "sync_items", "schedules") if tx.count(table, {})]


def test_deleting_a_bucket_takes_its_syncs_along(world: SyncWorld) -> None:
    world.files.put("a.txt", b"x")
    sync = world.sync()
    world.run(sync)
    ok(world.client.delete(f"/v1/buckets/{world.bucket}"))
    with world.read() as tx:
        assert not tx.count("resources", {"id": sync})
        assert not [table for table in ("sync_jobs", "sync_items", "schedules") if tx.count(table, {})]


def test_a_unique_key_of_the_bucket_joins_files_with_objects(world: SyncWorld) -> None:
    schema = {"properties": {"content": {"type": "text"}, "code": {"type": "string"}}}
    world.bucket = world.new_bucket("keyed", schema, unique_key={"fields": ["code"], "default_policy": "insert"})
    made = ok(world.client.post(f"/v1/buckets/{world.bucket}/objects", json={"code": "x1", "title": "by hand"}))
    world.files.put("x1.txt", b"from the store")
    mapping = {
        "content": {"source": {"type": "file"}},
        "code": {"source": {"type": "filename_regex", "pattern": r"^(\w+)\."}},
    }
    world.run(world.sync(schema_mapping={"mappings": mapping}))
    (found,) = world.objects().values()
    assert (found["object_id"], found["title"]) == (made["object_id"], "by hand")
