"""Items that failed for the moment are tried again by themselves: how often, in which chunks, and what is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datapath_app import Application
from datapath_process import wait_until
from datapath_shop import Shop, content, ok, parts_of
from tier_shop import audit, listed, processed, reading, statuses, submitted, tier

BackOff = Callable[..., None]
LONG = 3600.0


def later(flag: Path, number: int = 1, **fields: Any) -> dict[str, Any]:
    """An object that fails until the file is there."""
    return {"number": number, "version": 1, "text": f"!later {flag}", **fields}


def waiting(shop: Shop, batch_id: str) -> dict[str, Any]:
    """The batch when all that is left of it waits for its next attempt."""

    def look() -> dict[str, Any] | None:
        batch = shop.batch(batch_id)
        left = {name for name in batch["progress"]["chunks"] if name in ("PENDING", "PROCESSING")}
        return batch if left == {"PENDING"} and batch["progress"]["retrying"] else None

    return wait_until(look) or {}


def hurry(application: Application, shop: Shop) -> None:
    """Whatever waits for its next attempt is due."""
    with application.db.begin(application.scope(shop)) as tx:
        tx.update("jobs", {"kind": "ingest.chunk", "status": "ready"}, {"run_at": 0})
    application.app.pool.wake({"jobs"})


def balanced(shop: Shop, batch_id: str) -> bool:
    rows = audit(shop, batch_id)["tiers"]
    return all(row["submitted"] == row["processed"] + row["skipped"] + row["failed"] for row in rows)


# ---- how often


def test_an_item_that_fails_for_the_moment_is_tried_again_by_itself(
    application: Application, shop: Shop, tmp_path: Path, back_off: BackOff
) -> None:
    back_off(LONG, LONG)
    flag = tmp_path / "now"
    shop.create([*(content(number, 1) for number in range(3)), later(flag)])
    batch_id = shop.trigger()
    batch = waiting(shop, batch_id)
    assert batch["status"] == "PROCESSING"
    assert (batch["progress"]["retrying"], batch["progress"]["failed"], batch["failed_objects"]) == (1, 0, [])
    assert (batch["progress"]["processed"], batch["progress"]["total"]) == (3, 4)
    assert (batch["retry_count"], batch["max_retries"], batch["last_retry_at"]) == (1, 2, None)
    assert batch["next_retry_at"] > batch["updated_at"]
    assert "1 item" in batch["status_message"]
    assert balanced(shop, batch_id)
    flag.touch()
    hurry(application, shop)
    ended = shop.ended(batch_id)
    assert (ended["status"], ended["failed_objects"], ended["progress"]["retrying"]) == ("COMPLETED", [], 0)
    assert (ended["progress"]["processed"], ended["progress"]["total"]) == (4, 4)
    assert ended["last_retry_at"] is not None
    assert ended["next_retry_at"] is None
    assert len(shop.documents()) == 1 + sum(len(parts_of(number, 1)) for number in range(3))
    assert audit(shop, batch_id)["all_balanced"]


def test_after_its_last_attempt_it_has_failed_until_somebody_retries_it(shop: Shop, back_off: BackOff) -> None:
    back_off(0.01, 0.01)
    shop.create([content(1, 1), {"number": 9, "version": 1, "text": "!fail today"}])
    batch = shop.process()
    assert batch["status"] == "COMPLETED_WITH_ERRORS"
    (failure,) = shop.failures(batch["batch_id"])
    assert (failure["attempt"], failure["error_type"], failure["retried_at"]) == (3, "transient", None)
    assert (batch["retry_count"], batch["progress"]["failed"]) == (2, 1)
    assert (batch["progress"]["processed"], batch["progress"]["total"]) == (2, 2)
    shop.retry(batch["batch_id"])
    shop.ended(batch["batch_id"])
    (failure,) = shop.failures(batch["batch_id"])
    assert failure["attempt"] == 4
    assert audit(shop, batch["batch_id"])["all_balanced"]


def test_what_cannot_succeed_is_tried_once(shop: Shop, back_off: BackOff) -> None:
    back_off(LONG, LONG)
    shop.create([content(1, 1), {"number": 2, "version": 1, "text": "!raise"}, {"number": 3, "version": 1}])
    batch = shop.process()
    assert {row["attempt"] for row in shop.failures(batch["batch_id"])} == {1}
    assert {row["error_type"] for row in shop.failures(batch["batch_id"])} == {"permanent"}
    assert (batch["status"], batch["retry_count"]) == ("COMPLETED_WITH_ERRORS", 0)


def test_all_items_of_a_chunk_that_failed_for_the_moment_are_one_job(
    application: Application, shop: Shop, tmp_path: Path, back_off: BackOff
) -> None:
    back_off(LONG, LONG)
    flag = tmp_path / "now"
    shop.create([later(flag, number) for number in range(9)])
    batch_id = shop.trigger()
    batch = waiting(shop, batch_id)
    assert (batch["progress"]["chunks"], batch["progress"]["retrying"]) == ({"FAILED": 1, "PENDING": 1}, 9)
    assert len(application.jobs("ingest.chunk")) == 1
    flag.touch()
    hurry(application, shop)
    assert shop.ended(batch_id)["status"] == "COMPLETED"


# ---- tiers


def test_what_is_behind_waits_for_the_second_attempt_and_runs_once(
    application: Application, shop: Shop, tmp_path: Path, back_off: BackOff
) -> None:
    back_off(LONG, LONG)
    flag = tmp_path / "now"
    left, right = reading(shop, "left", [shop.collection], text="tag"), reading(shop, "right", [shop.collection])
    last = reading(shop, "last", [left, right])
    shop.create([{**content(1, 1), "tag": f"!later {flag}"}, {**content(2, 1), "tag": "fine"}])
    count = len(parts_of(1, 1)) + len(parts_of(2, 1))
    batch_id = submitted(shop)
    batch = waiting(shop, batch_id)
    assert statuses(batch) == ["COMPLETED", "PROCESSING", "PENDING"]
    assert batch["tier_tasks"][1]["documents_retrying"] == len(parts_of(1, 1))
    assert (len(shop.documents(left)), shop.documents(last)) == (len(parts_of(2, 1)), [])
    assert balanced(shop, batch_id)
    flag.touch()
    hurry(application, shop)
    ended = shop.ended(batch_id)
    assert (ended["status"], statuses(ended)) == ("COMPLETED", ["COMPLETED"] * 3)
    assert len(shop.documents(left)) == count
    assert [found["source_documents_fetched"] for found in ended["tier_tasks"]] == [2, 2 * count, 2 * count]
    assert len(shop.documents(last)) == 2 * count
    assert ended["progress"]["processed"] == ended["progress"]["total"] == 8
    assert audit(shop, batch_id)["all_balanced"]


def test_what_never_succeeds_at_the_first_tier_skips_those_behind_it(shop: Shop, back_off: BackOff) -> None:
    back_off(0.01, 0.01)
    reading(shop, "last", [reading(shop, "middle", [shop.collection])])
    shop.create([{"number": 9, "version": 1, "text": "!fail"}])
    batch = processed(shop)
    assert (batch["status"], statuses(batch)) == ("FAILED", ["FAILED", "SKIPPED", "SKIPPED"])
    assert {row["attempt"] for row in listed(shop, batch["batch_id"])} == {3}
    assert audit(shop, batch["batch_id"])["all_balanced"]


def test_items_of_a_later_tier_have_as_many_attempts_of_their_own(
    shop: Shop, tmp_path: Path, back_off: BackOff
) -> None:
    back_off(0.01, 0.01)
    reading(shop, "middle", [shop.collection], text="tag")
    shop.create([{"number": 9, "version": 1, "text": "!fail"}, {**content(1, 1), "tag": "!fail"}])
    batch = processed(shop)
    found = {(row["tier_num"], row["attempt"]) for row in listed(shop, batch["batch_id"])}
    assert found == {(0, 3), (1, 3)}
    assert audit(shop, batch["batch_id"])["all_balanced"]


# ---- what happens while they wait


def test_a_batch_canceled_while_items_wait_shows_them_as_failed_and_runs_nothing_more(
    application: Application, shop: Shop, tmp_path: Path, back_off: BackOff
) -> None:
    back_off(LONG, LONG)
    shop.create([content(1, 1), later(tmp_path / "never")])
    batch_id = shop.trigger()
    waiting(shop, batch_id)
    told = shop.cancel(batch_id)
    assert (told["cancellation"]["canceled"], told["cancellation"]["already_terminal"]) == (1, 1)
    batch = shop.batch(batch_id)
    assert (batch["status"], batch["progress"]["retrying"], batch["progress"]["failed"]) == ("CANCELED", 0, 1)
    assert application.jobs("ingest.chunk") == []
    assert shop.failures(batch_id)[0]["retried_at"] is None
    assert balanced(shop, batch_id)


def test_a_collection_deleted_while_its_items_wait_ends_the_batch(
    application: Application, shop: Shop, tmp_path: Path, back_off: BackOff
) -> None:
    back_off(LONG, LONG)
    middle = reading(shop, "middle", [shop.collection], text="tag")
    shop.create([{**content(1, 1), "tag": f"!later {tmp_path / 'never'}"}])
    batch_id = submitted(shop)
    waiting(shop, batch_id)
    ok(shop.client.delete(f"/v1/collections/{middle}"))
    application.services.indexer.tick()
    ended = shop.ended(batch_id)
    assert (ended["status"], ended["unaccounted_object_count"]) == ("COMPLETED", 0)
    assert application.jobs("ingest.chunk") == []
    assert audit(shop, batch_id)["all_balanced"]


def test_a_collection_switched_off_while_its_items_wait_has_failed_in_them(
    application: Application, shop: Shop, tmp_path: Path, back_off: BackOff
) -> None:
    back_off(LONG, LONG)
    shop.create([content(1, 1), later(tmp_path / "never")])
    batch_id = shop.trigger()
    waiting(shop, batch_id)
    ok(shop.client.patch(f"/v1/collections/{shop.collection}", json={"enabled": False}))
    hurry(application, shop)
    ended = shop.ended(batch_id)
    assert (ended["status"], ended["progress"]["failed"]) == ("COMPLETED_WITH_ERRORS", 1)
    assert len(shop.failures(batch_id)) == 1
    assert audit(shop, batch_id)["all_balanced"]


def test_a_manual_retry_waits_for_the_end_and_says_why(
    application: Application, shop: Shop, tmp_path: Path, back_off: BackOff
) -> None:
    back_off(LONG, LONG)
    shop.create([later(tmp_path / "never")])
    batch_id = shop.trigger()
    waiting(shop, batch_id)
    refused = shop.client.post(f"/v1/buckets/{shop.bucket}/batches/{batch_id}/retry", json={})
    assert refused.status_code == 409
    assert "failed items of it are being tried again" in refused.text
    assert len(application.jobs("ingest.chunk")) == 1
    shop.cancel(batch_id)


def test_a_tier_canceled_while_items_wait_can_be_run_again_and_takes_each_of_them_once(
    application: Application, shop: Shop, tmp_path: Path, back_off: BackOff
) -> None:
    back_off(LONG, LONG)
    flag = tmp_path / "now"
    last = reading(shop, "last", [shop.collection])
    shop.create([content(1, 1), later(flag)])
    batch_id = submitted(shop)
    batch = waiting(shop, batch_id)
    assert tier(shop, batch, 0, "cancel")["canceled"] == 1
    ended = shop.ended(batch_id)
    assert (ended["status"], ended["progress"]["failed"]) == ("COMPLETED_WITH_ERRORS", 1)
    assert len(shop.documents(last)) == len(parts_of(1, 1))  # those behind it go on with what is there
    flag.touch()
    assert tier(shop, ended, 0, "retry")["retried_object_count"] == 1
    again = shop.ended(batch_id)
    assert (again["status"], again["progress"]["failed"]) == ("COMPLETED", 0)
    assert len(shop.documents(last)) == len(parts_of(1, 1)) + 1
    assert audit(shop, batch_id)["all_balanced"]


def test_a_document_that_goes_while_it_waits_is_not_missed(
    application: Application, shop: Shop, tmp_path: Path, back_off: BackOff
) -> None:
    back_off(LONG, LONG)
    last = reading(shop, "last", [shop.collection], text="tag")
    (gone, *_) = shop.create([{**content(n, 1), "tag": f"!later {tmp_path / 'now'}"} for n in (1, 2)])
    batch_id = submitted(shop)
    waiting(shop, batch_id)
    shop.delete(gone)
    (tmp_path / "now").touch()
    hurry(application, shop)
    ended = shop.ended(batch_id)
    assert (ended["status"], ended["progress"]["failed"]) == ("COMPLETED", 0)
    assert len(shop.documents(last)) == len(parts_of(2, 1))
    assert audit(shop, batch_id)["all_balanced"]


def test_items_wait_over_a_restart(tmp_path: Path, back_off: BackOff) -> None:
    back_off(LONG, LONG)
    flag, data = tmp_path / "now", tmp_path / "data"
    first = Application(data)
    try:
        shop = first.shop()
        shop.create([content(1, 1), later(flag)])
        batch_id = shop.trigger()
        waiting(shop, batch_id)
        headers = dict(shop.client.headers)
    finally:
        first.close()
    assert headers
    flag.touch()
    second = Application(data)
    try:
        again = second.again(shop)
        assert waiting(again, batch_id)["progress"]["retrying"] == 1
        hurry(second, again)
        assert again.ended(batch_id)["status"] == "COMPLETED"
        assert len(again.documents()) == len(parts_of(1, 1)) + 1
    finally:
        second.close()


@pytest.mark.parametrize("seconds", [(0.01,), (0.01, 0.01)])
def test_each_item_has_the_attempts_that_are_configured(
    shop: Shop, back_off: BackOff, seconds: tuple[float, ...]
) -> None:
    back_off(*seconds)
    shop.create([{"number": 9, "version": 1, "text": "!fail"}])
    batch = shop.process()
    assert batch["status"] == "FAILED"
    assert shop.failures(batch["batch_id"])[0]["attempt"] == 1 + len(seconds)
