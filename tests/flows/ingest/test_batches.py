"""Batches through the front door with real extraction processes: poison, retry, dedup, counters, cancel."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from datapath_app import Application
from datapath_process import wait_until
from datapath_shop import SEPARATOR, Shop, content, ok, parts_of

GOOD = [content(number, 1) for number in range(3)]


def bad(number: int, text: str) -> dict[str, Any]:
    return {"number": number, "version": 1, "text": text}


@pytest.mark.parametrize(
    ("text", "phase", "reason"),
    [
        ("!raise me", "extract", "poison me"),
        ("!fail today", "extract", "not this one: today"),
        ("!odd", "extract", "broken"),
        ("!exit", "crash", "tried 2 times"),
        ("!dimensions", "result", "of shape (3,), not (64)"),
        ("!unknown", "result", "a vector 'nonsense' it does not describe (grams)"),
        ("!nan", "result", "NaN"),
        ("!infinite", "result", "inf"),
    ],
)
def test_a_poison_object_fails_alone_with_its_reason(shop: Shop, text: str, phase: str, reason: str) -> None:
    fails_alone(shop, text, phase, reason)


def test_an_object_that_takes_too_long_fails_alone(tmp_path: Path) -> None:
    application = Application(tmp_path, item_timeout_s=5)
    try:
        fails_alone(application.shop(), "!hang", "timeout", "longer than 5 seconds")
    finally:
        application.close()


def fails_alone(shop: Shop, text: str, phase: str, reason: str) -> None:
    ids = shop.create([*GOOD, bad(99, f"a good paragraph{SEPARATOR}{text}")])
    batch = shop.process()
    assert batch["status"] == "COMPLETED_WITH_ERRORS"
    (failure,) = shop.failures(batch["batch_id"])
    assert (failure["object_id"], failure["phase"]) == (ids[-1], phase)
    assert reason in failure["reason"]
    assert shop.texts() == sorted(part for number in range(3) for part in parts_of(number, 1))
    assert batch["progress"]["failed"] == 1
    assert batch["progress"]["percent"] == 100.0


def test_a_batch_of_poison_only_fails_and_writes_nothing(shop: Shop) -> None:
    shop.create([bad(1, "!raise"), bad(2, "!fail")])
    batch = shop.process()
    assert batch["status"] == "FAILED"
    assert batch["failed_object_count"] == 2
    assert ok(shop.client.get(f"/v1/tasks/{batch['task_id']}"))["status"] == "FAILED"
    assert shop.search("anything at all") == []


def test_retry_processes_only_the_failed_objects_and_completes_the_batch(shop: Shop, tmp_path: Path) -> None:
    shop.create([*GOOD, bad(99, f"!until {tmp_path / 'now'}")])
    batch = shop.process()
    assert batch["status"] == "COMPLETED_WITH_ERRORS"
    written = {row["document_id"]: row["updated_at"] for row in shop.documents()}
    (tmp_path / "now").touch()
    shop.retry(batch["batch_id"])
    again = shop.ended(batch["batch_id"])
    assert again["status"] == "COMPLETED"
    assert again["failed_objects"] == []
    after = {row["document_id"]: row["updated_at"] for row in shop.documents()}
    assert len(after) == len(written) + 1
    assert written.items() <= after.items()
    assert shop.finds(f"!until {tmp_path / 'now'}")


def test_a_retry_that_fails_again_counts_its_attempts(shop: Shop) -> None:
    shop.create([*GOOD, bad(99, "!fail again")])
    batch = shop.process()
    shop.retry(batch["batch_id"])
    assert shop.ended(batch["batch_id"])["status"] == "COMPLETED_WITH_ERRORS"
    (failure,) = shop.failures(batch["batch_id"])
    assert failure["attempt"] == 2
    assert failure["error_type"] == "transient"


def test_two_rows_with_one_place_are_one_document_and_counted_once(shop: Shop) -> None:
    shop.create([bad(1, "!twice")])
    batch = shop.process()
    assert batch["documents_written"] == len(shop.documents()) == 1
    assert ok(shop.client.get(f"/v1/collections/{shop.collection}"))["document_count"] == 1


def test_an_object_without_documents_is_processed_and_leaves_none_of_its_old_ones(shop: Shop) -> None:
    (ident,) = shop.create([content(1, 1)])
    assert shop.process()["status"] == "COMPLETED"
    shop.update(ident, {"text": "!nothing"})
    batch = shop.process()
    assert batch["status"] == "COMPLETED"
    assert shop.documents() == []
    assert shop.search(parts_of(1, 1)[0]) == []


def test_a_completed_batch_is_searchable_at_once(shop: Shop) -> None:
    for start in range(0, 60, 15):
        shop.create([content(number, 1) for number in range(start, start + 15)])
        assert shop.process()["status"] == "COMPLETED"
        missing = [part for number in range(start + 15) for part in parts_of(number, 1) if not shop.finds(part)]
        assert missing == []


def test_counters_add_up_and_every_object_is_accounted_for(shop: Shop) -> None:
    shop.create([content(number, 1) for number in range(25)])
    batch = shop.process()
    wanted = sum(len(parts_of(number, 1)) for number in range(25))
    assert batch["progress"]["chunks"] == {"COMPLETED": 3}
    assert (batch["documents_written"], batch["progress"]["processed"], batch["object_count"]) == (wanted, 25, 25)
    audit = ok(shop.client.get(f"/v1/buckets/{shop.bucket}/batches/{batch['batch_id']}/audit"))
    assert audit["all_balanced"], audit
    assert ok(shop.client.get(f"/v1/collections/{shop.collection}"))["document_count"] == wanted


def test_skip_leaves_unchanged_objects_alone(shop: Shop) -> None:
    ids = shop.create([content(number, 1) for number in range(5)])
    shop.process()
    before = {row["document_id"]: row["updated_at"] for row in shop.documents()}
    shop.update(ids[0], content(0, 2))
    batch = shop.process()
    assert batch["progress"]["filtered"] == 4
    assert batch["documents_written"] == len(parts_of(0, 2))
    kept = {row["document_id"]: row["updated_at"] for row in shop.documents() if row["number"] != 0}
    assert kept.items() <= before.items()


@pytest.mark.parametrize("strategy", ["replace", "force"])
def test_replace_and_force_write_everything_again_under_the_same_ids(shop: Shop, strategy: str) -> None:
    shop.create([content(number, 1) for number in range(5)])
    shop.process()
    before = {row["document_id"]: row["updated_at"] for row in shop.documents()}
    batch = shop.process(dedup_strategy=strategy)
    after = {row["document_id"]: row["updated_at"] for row in shop.documents()}
    assert batch["progress"]["filtered"] == 0
    assert batch["documents_written"] == len(before)
    assert before.keys() == after.keys()
    assert all(before[ident] < after[ident] for ident in before)


def test_an_updated_object_replaces_its_documents_in_one_step(application: Application, shop: Shop) -> None:
    """Whoever looks meanwhile sees all documents of one version: never none, never two versions."""
    (ident,) = shop.create([content(7, 1)])
    shop.process()
    odd: list[set[str]] = []
    done = threading.Event()

    def watch() -> None:
        view = application.again(shop)
        while not done.is_set():
            seen = {row["text"] for row in view.documents()}
            if seen not in [set(parts_of(7, version)) for version in range(1, 12)]:
                odd.append(seen)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for version in range(2, 12):
        shop.update(ident, content(7, version))
        assert shop.process()["status"] == "COMPLETED"
        assert {hit["text"] for hit in shop.search(parts_of(7, version)[0])} == set(parts_of(7, version))
    done.set()
    watcher.join()
    assert odd == []


def test_cancel_stops_a_batch_that_waits_and_one_that_runs(shop: Shop, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    shop.create([bad(number, f"!wait {gate}") for number in range(25)])
    batch = shop.trigger()
    wait_until(Path(f"{gate}.waiting").exists)
    assert shop.batch(batch)["status"] == "PROCESSING"
    shop.cancel(batch)
    gate.touch()
    assert shop.batch(batch)["status"] == "CANCELED"
    shop.create([content(1, 1)])
    assert shop.process(object_ids=[max(shop.objects())])["status"] == "COMPLETED"  # later work has come and gone
    assert shop.batch(batch)["status"] == "CANCELED"
    assert shop.batch(batch)["documents_written"] == 0
    assert shop.texts() == sorted(parts_of(1, 1))


def test_a_batch_whose_collection_is_deleted_meanwhile_ends(shop: Shop, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    shop.create([content(number, 1) for number in range(10)])
    shop.process()
    shop.create([bad(number, f"!wait {gate}") for number in range(10)])
    other = shop.add_collection("other")
    batch = ok(
        shop.client.post(f"/v1/buckets/{shop.bucket}/batches", json={"collection_ids": [shop.collection, other]})
    )
    hook = {"webhook_url": "https://example.org/hook"}
    task = ok(shop.client.post(f"/v1/buckets/{shop.bucket}/batches/{batch['batch_id']}/submit", json=hook))
    assert "POST /v1/webhooks" in task["warnings"][0]
    wait_until(lambda: shop.batch(batch["batch_id"])["progress"]["chunks"].get("COMPLETED"))
    ok(shop.client.delete(f"/v1/collections/{shop.collection}"))
    gate.touch()
    ended = shop.ended(batch["batch_id"])
    assert ended["status"] == "COMPLETED"
    assert len(shop.documents(other)) == len(shop.texts(other)) > 10


def test_a_deleted_collection_takes_its_files_and_its_work_with_it(
    application: Application, shop: Shop, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    shop.create([content(1, 1)])
    shop.process()
    assert list(application.folder.glob(f"*/{shop.collection}*"))
    shop.create([bad(number, f"!wait {gate}") for number in range(25)])
    batch = shop.trigger()
    wait_until(Path(f"{gate}.waiting").exists)
    ok(shop.client.delete(f"/v1/collections/{shop.collection}"))
    gate.touch()
    assert shop.ended(batch)["status"] == "CANCELED"
    wait_until(lambda: not application.jobs("collection.drop") and not application.jobs("ingest.chunk"))
    application.services.indexer.tick()
    assert list(application.folder.glob(f"*/{shop.collection}*")) == []


def test_a_collection_created_and_deleted_at_once_leaves_nothing(application: Application, shop: Shop) -> None:
    for number in range(5):
        ident = shop.add_collection(f"short-lived-{number}")
        ok(shop.client.delete(f"/v1/collections/{ident}"))
        wait_until(lambda: not application.jobs("collection.drop"))
        application.services.indexer.tick()
        assert list(application.folder.glob(f"*/{ident}*")) == []


def test_failures_the_queue_and_the_reconciliation_come_in_pages(shop: Shop) -> None:
    ids = sorted(shop.create([bad(number, "!fail") for number in range(5)]))
    batch = shop.process()
    path = f"/v1/buckets/{shop.bucket}/batches/{batch['batch_id']}"
    assert [row["object_id"] for row in paged(shop, f"{path}/failed-documents", 5)] == ids
    found = paged(shop, f"/v1/collections/{shop.collection}/reconciliation", 5)
    assert [(row["object_id"], row["reason"]) for row in found] == [(ident, "failed") for ident in ids]
    assert ok(shop.client.get(f"{path}/logs"))["truncated"] is False
    assert paged(shop, "/v1/batches/queue", 0) == []


def test_the_queue_shows_what_runs_then_what_waits_in_turn(shop: Shop, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    shop.create([bad(number, f"!wait {gate}") for number in range(5)])
    running = shop.trigger()
    wait_until(Path(f"{gate}.waiting").exists)
    waiting = [shop.trigger() for _ in range(3)]
    queue = ok(shop.client.get("/v1/batches/queue"))
    assert queue["results"][0]["batch_id"] == running
    assert queue["active_count"] + queue["waiting_count"] == queue["pagination"]["total"] == 4
    places = {batch["batch_id"]: batch["queue_position"] for batch in queue["waiting"]}
    assert list(places) == waiting[-len(places) :]
    assert list(places.values()) == list(range(1, len(places) + 1))
    later = ok(shop.client.get("/v1/batches/queue", params={"limit": 2, "offset": 2}))["results"]
    assert [batch["batch_id"] for batch in later] == waiting[1:]
    for batch in (running, *waiting):
        shop.cancel(batch)
    gate.touch()


def paged(shop: Shop, path: str, total: int) -> list[dict[str, Any]]:
    """All results of a list that is read two at a time."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = ok(shop.client.get(path, params={"limit": 2} | ({"cursor": cursor} if cursor else {})))
        assert page["pagination"]["total"] == total
        assert len(page["results"]) <= 2
        found += page["results"]
        cursor = page["pagination"]["next_cursor"]
        if cursor is None:
            return found
