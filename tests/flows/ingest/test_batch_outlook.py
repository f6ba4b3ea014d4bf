"""What a batch says of itself: its phase of life, its place in the queue, what its failures have in common, its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from datapath_app import Application
from datapath_process import wait_until
from datapath_shop import Shop, content, ok
from tier_shop import reading

from mediatheca.flows.ingest.errors import by_category
from mediatheca.flows.ingest.outlook import lifecycle, waiting_items

BackOff = Callable[..., None]


def test_failures_are_counted_by_category_and_the_first_is_named(shop: Shop, tmp_path: Path) -> None:
    shop.create([{"number": 1, "version": 1, "text": "!raise first"}])
    shop.create([content(2, 1), {"number": 3, "version": 1}, {"number": 4, "version": 1, "text": "!raise second"}])
    batch = shop.process()
    assert batch["error_summary"] == {"runtime": 2, "validation": 1}
    assert (batch["failure_category"], batch["lifecycle"]) == ("pipeline", "indexed")
    assert "poison" in batch["progress"]["extraction_first_error"]
    assert batch["progress"]["first_error"] == batch["lifecycle_reason"]
    brief = ok(shop.client.post("/v1/batches/list", json={}))["results"][0]
    assert brief["error_summary"] == batch["error_summary"]


def test_nothing_is_left_of_the_failures_that_a_retry_made_up_for(shop: Shop, tmp_path: Path) -> None:
    flag = tmp_path / "now"
    shop.create([content(1, 1), {"number": 2, "version": 1, "text": f"!until {flag}"}])
    batch = shop.process()
    assert batch["error_summary"] == {"runtime": 1}
    flag.touch()
    shop.retry(batch["batch_id"])
    again = shop.ended(batch["batch_id"])
    assert (again["error_summary"], again["failure_category"], again["progress"]["first_error"]) == (None, None, None)
    assert (again["status"], again["retry_count"]) == ("COMPLETED", 1)
    task = ok(shop.client.get(f"/v1/tasks/{again['task_id']}"))
    assert "error_summary" not in task["outputs"][0]


def test_an_item_that_takes_too_long_failed_at_a_resource(tmp_path: Path, back_off: BackOff) -> None:
    back_off(3600)
    application = Application(tmp_path, item_timeout_s=2)
    try:
        shop = application.shop()
        shop.create([content(1, 1), {"number": 2, "version": 1, "text": "!hang"}])
        batch = shop.process()
        (failure,) = batch["failed_objects"]
        assert (failure["phase"], failure["error_type"], failure["attempt"]) == ("timeout", "resource", 1)
        assert (batch["error_summary"], batch["failure_category"]) == ({"resource": 1}, "timeout")
        path = f"/v1/buckets/{shop.bucket}/batches/{batch['batch_id']}"
        transient = ok(shop.client.post(f"{path}/retry", json={"retry_mode": "transient_only"}))
        assert transient["retried_object_count"] == 0
        advice = ok(shop.client.get(f"{path}/diagnose"))["recommendations"]
        assert any("MEDIATHECA_ITEM_TIMEOUT_S" in line for line in advice)
    finally:
        application.close()


def test_a_batch_that_waits_says_how_many_are_before_it_and_for_how_long(shop: Shop, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    shop.create([content(number, 1) for number in range(12)])
    assert shop.process()["queue_position"] is None
    shop.create([{"number": 99, "version": 1, "text": f"!wait {gate}"}])
    running = shop.trigger(dedup_strategy="replace")
    wait_until(Path(f"{gate}.waiting").exists)
    taken = shop.trigger()  # one chunk is read while another one is extracted
    wait_until(lambda: shop.batch(taken)["status"] == "PROCESSING")
    first, second = shop.trigger(), shop.trigger()
    batches = [shop.batch(ident) for ident in (first, second)]
    assert [batch["queue_position"] for batch in batches] == [1, 2]
    assert [batch["progress"]["queue_position"] for batch in batches] == [1, 2]
    assert [batch["lifecycle"] for batch in batches] == ["queued", "queued"]
    task = ok(shop.client.get(f"/v1/tasks/{batches[1]['task_id']}"))
    assert (task["queue_position"], task["cancellation"]) == (2, None)
    assert task["estimated_wait_minutes"] >= 0
    assert 0 <= batches[0]["estimated_wait_minutes"] <= batches[1]["estimated_wait_minutes"]
    assert shop.batch(running)["lifecycle"] in ("admitted", "extracting")
    for ident in (running, taken, first, second):
        shop.cancel(ident)
    gate.touch()


def test_a_cancel_says_what_it_stopped(shop: Shop, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    reading(shop, "last", [shop.collection])
    shop.create([{"number": number, "version": 1, "text": f"!wait {gate}"} for number in range(11)])
    path = f"/v1/buckets/{shop.bucket}/batches"
    batch_id = ok(shop.client.post(path, json={"auto_submit": True}))["batch_id"]
    wait_until(Path(f"{gate}.waiting").exists)
    told = shop.cancel(batch_id)["cancellation"]
    gate.touch()
    assert told == {
        "canceled": 4, "already_terminal": 0, "not_found": 0,
        "ray_jobs_requested": 4, "ray_jobs_accepted": 4, "ray_jobs_refused": 0,
    }  # fmt: skip
    batch = shop.batch(batch_id)
    assert (batch["lifecycle"], batch["lifecycle_reason"]) == ("canceled", "canceled by request")


@pytest.mark.parametrize(
    ("status", "done", "wanted"),
    [
        ("DRAFT", 0, "accepted"), ("QUEUED", 0, "queued"), ("PROCESSING", 0, "admitted"),
        ("PROCESSING", 1, "extracting"), ("COMPLETED", 1, "indexed"), ("COMPLETED_WITH_ERRORS", 1, "indexed"),
        ("FAILED", 1, "failed"), ("CANCELED", 0, "canceled"),
    ],
)  # fmt: skip
def test_the_phases_of_life_follow_the_status(status: str, done: int, wanted: str) -> None:
    assert lifecycle({"status": status}, {"processed": done, "items_processed": 0}) == wanted


def test_phases_that_plug_ins_name_are_runtime_errors_and_the_words_agree_with_the_number() -> None:
    assert by_category({"fetch": 2, "memory": 1, "timeout": 3, "anything": 1}) == {
        "network": 2, "resource": 4, "runtime": 1,
    }  # fmt: skip
    assert waiting_items(0) == []
    assert waiting_items(1) == ["1 item that failed is tried again automatically"]
    assert waiting_items(2) == ["2 items that failed are tried again automatically"]
