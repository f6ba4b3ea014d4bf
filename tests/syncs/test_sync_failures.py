"""Files that cannot be taken, stores that do not answer, connections that fail again and again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sync_world import SyncWorld

from helpers import failed, ok
from mediatheca.kernel import clock
from outside_site import Reply, a_site

NUMBERED = {
    "mappings": {
        "content": {"source": {"type": "file"}},
        "n": {
            "source": {"type": "filename_regex", "pattern": r"^(\d+)\."},
            "transform": "json_parse",
            "required": True,
        },
    }
}


def test_a_file_that_is_no_object_is_put_aside_and_the_rest_goes_on(world: SyncWorld) -> None:
    for name in ("1.txt", "two.txt", "3.txt"):
        world.files.put(name, name.encode())
    sync = world.sync(schema_mapping=NUMBERED)
    job = world.run(sync)
    assert (job["files_synced"], job["files_failed"]) == (2, 1)
    assert ok(world.client.get(f"/v1/tasks/{job['task_id']}"))["status"] == "COMPLETED_WITH_ERRORS"
    (row,) = world.failures(sync)
    assert (row["error_type"], row["source_object_id"]) == ("mapping_error", f"{world.files.folder}/two.txt")
    assert "'n'" in row["error_message"]
    assert (row["retry_count"], row["max_retries_reached"], row["resolved_at"]) == (1, True, None)
    assert {each["n"] for each in world.objects().values()} == {1, 3}
    assert world.stored_files() == 2  # of what was refused nothing is left
    metrics = ok(world.client.get(f"{world.path}/{sync}/metrics"))
    assert (metrics["dlq_total"], metrics["dlq_by_error"]) == (1, {"mapping_error": 1})


def test_what_failed_rests_until_it_changes_is_put_back_or_a_day_has_gone(world: SyncWorld) -> None:
    world.files.put("two.txt", b"x")
    sync = world.sync(schema_mapping=NUMBERED)
    world.run(sync)
    assert world.run(sync)["files_failed"] == 0  # it rests
    world.files.put("two.txt", b"y")
    assert world.run(sync)["files_failed"] == 1  # it changed
    path = f"{world.path}/{sync}/dlq"
    assert ok(world.client.post(f"{path}/requeue", json={"error_types": ["other"]}))["requeued"] == 0
    assert ok(world.client.post(f"{path}/requeue"))["requeued"] == 1
    assert world.failures(sync)[0]["requeued_at"]
    assert world.failures(sync, only_max_retries=True) == []
    assert world.run(sync)["files_failed"] == 1  # it was put back
    with world.server.app.services.db.begin(world.scope) as tx:
        tx.update("sync_failures", {"sync_id": sync}, {"last_seen_at": clock.now() - timedelta(hours=25)})
    assert world.run(sync)["files_failed"] == 1  # a day has gone
    (row,) = world.failures(sync)
    assert row["last_reattempt_at"]
    with world.server.app.services.db.begin(world.scope) as tx:
        old = {"last_seen_at": clock.now() - timedelta(days=8), "last_reattempt_at": clock.now() - timedelta(days=2)}
        tx.update("sync_failures", {"sync_id": sync}, old)
    world.run(sync)
    assert world.failures(sync)[0]["disposal_reason"] == "not_taken_within_seven_days"


def test_what_is_marked_as_failed_stays_so(world: SyncWorld) -> None:
    world.files.put("two.txt", b"x")
    sync = world.sync(schema_mapping=NUMBERED)
    world.run(sync)
    path = f"{world.path}/{sync}/dlq/bulk-mark-failed"
    assert ok(world.client.post(path, json={"error_types": ["mapping_error"]}))["updated"] == 1
    assert world.run(sync, full_sync=True)["files_failed"] == 0
    assert world.failures(sync)[0]["disposal_reason"] == "marked_failed"
    failed(world.client.post(path, json={"error_types": []}), 422)


def test_what_is_taken_after_all_is_resolved(world: SyncWorld) -> None:
    world.files.put("two.txt", b"x")
    sync = world.sync(schema_mapping=NUMBERED)
    world.run(sync)
    ok(world.client.patch(f"{world.path}/{sync}", json={"schema_mapping": None}))
    assert world.run(sync, full_sync=True)["files_synced"] == 1
    (row,) = world.failures(sync)
    assert row["resolved_at"]
    assert ok(world.client.get(f"{world.path}/{sync}/metrics"))["dlq_total"] == 0


def test_a_file_that_is_too_large_is_not_even_read(world: SyncWorld) -> None:
    world.files.put("big.txt", bytes((1 << 20) + 1))
    world.files.put("fits.txt", bytes(1 << 20))
    sync = world.sync()
    assert world.run(sync)["files_synced"] == 1
    assert world.failures(sync)[0]["error_type"] == "file_too_large"


def test_a_file_of_a_type_that_the_bucket_does_not_take_is_put_aside(world: SyncWorld) -> None:
    world.files.put("a.txt", b"text")
    world.files.put("b.png", b"\x89PNG\r\n\x1a\n" + bytes(20))
    sync = world.sync()
    job = world.run(sync)
    assert (job["files_synced"], job["files_failed"]) == (1, 1)
    assert "image/png" in world.failures(sync)[0]["error_message"]


def test_a_value_that_does_not_fit_the_schema_is_put_aside(world: SyncWorld) -> None:
    world.files.put("a.txt", b"text")
    mapping = {"content": {"source": {"type": "file"}}, "n": {"source": {"type": "constant", "value": "no number"}}}
    sync = world.sync(schema_mapping={"mappings": mapping})
    world.run(sync)
    assert world.failures(sync)[0]["error_type"] == "schema_mismatch"
    assert world.objects() == {}
    assert world.stored_files() == 0


@pytest.mark.parametrize("status", [403, 503])
def test_five_failed_runs_in_a_row_suspend_the_connection(world: SyncWorld, status: int) -> None:
    with a_site() as store:
        store.routes["*"] = Reply(b"<Error><Code>SlowDown</Code><Message>secret words</Message></Error>", status)
        made = world.connection(endpoint_url=store.url) | {"test_before_save": False}
        connection = ok(world.client.post("/v1/organizations/connections", json=made))["connection_id"]
        look = f"/v1/organizations/connections/{connection}"
        sync = world.sync(connection_id=connection)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mediatheca.flows.syncs.run.ATTEMPTS", 1)
            for number in range(1, 6):
                job = world.run(sync, "failed")
                assert str(status) in job["error"]
                assert "secret words" not in job["error"]
                shown = world.get(sync)
                assert (shown["status"], shown["consecutive_failures"]) == ("FAILED", number)
                assert ok(world.client.get(look))["consecutive_failures"] == number  # in the same moment
        held = ok(world.client.get(look))
        assert (held["status"], held["is_active"]) == ("SUSPENDED", False)
        assert held["last_error"] == job["error"]
        assert "is_active" in failed(world.client.post(f"{world.path}/{sync}/trigger"), 422)["message"]
    repaired = {"provider_config": world.connection()["provider_config"], "is_active": True}
    assert ok(world.client.patch(look, json=repaired))["consecutive_failures"] == 0
    world.files.put("a.txt", b"x")
    assert world.run(sync)["files_synced"] == 1
    assert world.get(sync)["consecutive_failures"] == 0


def test_a_store_that_goes_away_blames_no_file(world: SyncWorld) -> None:
    listing = (
        b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>films/a.txt</Key><Size>3</Size>"
        b"<ETag>1</ETag><LastModified>2026-01-01T00:00:00Z</LastModified></Contents></ListBucketResult>"
    )
    with a_site() as store:
        store.routes["/tests/"] = Reply(listing)
        store.routes["*"] = Reply(b"", 500)
        made = world.connection(endpoint_url=store.url) | {"test_before_save": False}
        connection = ok(world.client.post("/v1/organizations/connections", json=made))["connection_id"]
        sync = world.sync(connection_id=connection, source_path="films")
        job = world.run(sync, "failed")
        assert "500" in job["error"]
        assert world.failures(sync) == []
        assert len([asked for asked in store.asked if asked.path.startswith("/tests/films")]) == 3


def test_an_archived_file_says_what_to_do(world: SyncWorld) -> None:
    listing = (
        b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>films/a.txt</Key><Size>3</Size>"
        b"<ETag>1</ETag><StorageClass>DEEP_ARCHIVE</StorageClass></Contents></ListBucketResult>"
    )
    with a_site() as store:
        store.routes["*"] = Reply(listing)
        made = world.connection(endpoint_url=store.url) | {"test_before_save": False}
        connection = ok(world.client.post("/v1/organizations/connections", json=made))["connection_id"]
        sync = world.sync(connection_id=connection, source_path="films")
        assert world.run(sync)["files_failed"] == 1
    (row,) = world.failures(sync)
    assert row["error_type"] == "source_archived"
    assert "DEEP_ARCHIVE" in row["error_message"]


def _broken_listings() -> list[tuple[bytes, str]]:
    one = b"<Contents><Key>films/%d</Key><Size>%s</Size><ETag>1</ETag></Contents>"
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><ListBucketResult>&a;</ListBucketResult>'
    endless = b"<ListBucketResult><IsTruncated>true</IsTruncated>" + one % (1, b"0") + b"</ListBucketResult>"
    sizeless = b"<ListBucketResult>" + one % (1, b"-5") + b"</ListBucketResult>"
    return [(b"<html>welcome", "XML"), (bomb, "entities"), (endless, "advance"), (sizeless, "size")]


@pytest.mark.parametrize(("listing", "told"), _broken_listings())
def test_a_store_that_answers_nonsense_ends_the_run(world: SyncWorld, listing: bytes, told: str) -> None:
    with a_site() as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr("mediatheca.flows.syncs.run.ATTEMPTS", 1)
        store.routes["*"] = Reply(listing)
        made = world.connection(endpoint_url=store.url) | {"test_before_save": False}
        connection = ok(world.client.post("/v1/organizations/connections", json=made))["connection_id"]
        job = world.run(world.sync(connection_id=connection, source_path="films"), "failed")
    assert told in job["error"]


def test_a_collection_that_is_gone_fails_the_run_and_the_next_one_takes_everything(world: SyncWorld) -> None:
    collection = world.collection()
    world.files.put("a.txt", b"x")
    sync = world.sync(batch_collection_ids=["texts"])
    assert world.get(sync)["batch_collection_ids"] == [collection]
    other: dict[str, Any] = {"collection_name": "others", "source": {"type": "bucket", "bucket_ids": [world.bucket]}}
    other["feature_extractor"] = {"feature_extractor_name": "passthrough_extractor", "version": "v1"}
    ok(world.client.post("/v1/collections", json=other))
    ok(world.client.delete(f"/v1/collections/{collection}"))
    assert collection in world.run(sync, "failed")["error"]
    ok(world.client.patch(f"{world.path}/{sync}", json={"batch_collection_ids": []}))
    assert world.get(sync)["batch_collection_ids"] == []
    job = world.run(sync)
    assert (len(world.objects()), len(job["batch_ids"])) == (1, 1)


def test_a_file_that_changes_while_it_is_read_is_read_again_as_it_is_now(world: SyncWorld) -> None:
    """The store lists version 1, and has version 2 when it is asked for the file."""
    listing = (
        b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>films/a.txt</Key><Size>3</Size>"
        b"<ETag>1</ETag></Contents></ListBucketResult>"
    )
    with a_site() as store:
        store.routes["/tests/"] = Reply(listing)
        store.routes["*"] = Reply(b"new words", headers={"ETag": '"2"', "Content-Length": "9"})
        made = world.connection(endpoint_url=store.url) | {"test_before_save": False}
        connection = ok(world.client.post("/v1/organizations/connections", json=made))["connection_id"]
        sync = world.sync(connection_id=connection, source_path="films")
        assert world.run(sync)["files_synced"] == 1
        methods = [asked.method for asked in store.asked if asked.path.startswith("/tests/films")]
    assert methods == ["GET", "HEAD", "GET"]
    assert world.content("a.txt") == b"new words"
    with world.read() as tx:
        assert tx.column("sync_items", "etag", {}) == ["2"]
