"""When a webhook is switched off, and who hears of it. Time is in the results, so it is driven by the test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mediatheca.flows.delivery import Recorded
from mediatheca.flows.webhooks.health import (
    DISABLE_AFTER_S,
    FAILING_S,
    FAILURES,
    begin_health,
    clear_health,
    end_health,
    health_of,
    note_results,
)
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database

ORG = Scope("org_a")
START = datetime(2026, 1, 1, tzinfo=UTC)


def hook(db: Database, ident: str = "wh_1", *kinds: str, scope: Scope = ORG) -> None:
    def channel(kind: str) -> dict[str, Any]:
        return {"channel": kind, "channel_id": "", "config": {}, "sealed": None, "seal_id": ""}

    body = {"events": ["*"], "is_active": True, "deliver_to": [channel(kind) for kind in kinds or ("webhook",)]}
    with db.begin(scope) as tx:
        begin_health(tx, tx.put("webhook", "wh", ident, body, ident=ident))


def result(
    status: str, seconds: float = 0, ident: str = "wh_1", *, gone: bool = False, kind: str = "webhook"
) -> Recorded:
    return Recorded(
        ORG, kind, ident, "dlv", "evt", status, gone, 200 if status == "delivered" else 500,
        "" if status == "delivered" else "status 500", START + timedelta(seconds=seconds),
    )  # fmt: skip


def note(db: Database, *results: Recorded) -> None:
    with db.across("deliverer") as tx:
        note_results(tx, results)


def health(db: Database, ident: str = "wh_1") -> dict[str, Any]:
    with db.read(ORG) as tx:
        return health_of(tx, [ident])[ident]


def is_active(db: Database, ident: str = "wh_1") -> bool:
    with db.read(ORG) as tx:
        return bool(tx.get("webhook", ident).body["is_active"])


def disabled(db: Database) -> list[dict[str, Any]]:
    with db.read(ORG) as tx:
        return tx.rows("events", {"type": "webhook.disabled"})


def test_failures_are_counted_and_an_arrival_ends_the_count(db: Database) -> None:
    hook(db)
    note(db, result("pending", 1), result("pending", 2))
    note(db, result("failed", 3))
    found = health(db)
    assert (found["consecutive_failures"], found["last_status"]) == (3, 500)
    assert found["first_failure_at"] == "2026-01-01T00:00:01.000000Z"
    assert found["last_failure_at"] == "2026-01-01T00:00:03.000000Z"
    assert found["last_failure_cause"] == found["last_error"] == "status 500"
    note(db, result("delivered", 4))
    found = health(db)
    assert (found["consecutive_failures"], found["first_failure_at"]) == (0, None)
    assert found["last_success_at"] == "2026-01-01T00:00:04.000000Z"
    assert is_active(db)


def test_what_was_not_tried_says_nothing_about_the_receiver(db: Database) -> None:
    hook(db)
    note(
        db, result("canceled"), result("not_configured"), result("failed", kind="alert"), result("failed", ident="wh_9")
    )
    assert health(db)["consecutive_failures"] == 0


def test_counting_makes_no_new_version_and_tells_nobody(db: Database) -> None:
    hook(db)
    topics: list[set[str]] = []
    db.listen(topics.append)
    note(db, result("pending"))
    assert not any("resource:webhook" in each for each in topics)
    with db.read(ORG) as tx:
        assert tx.get("webhook", "wh_1").version == 1


def test_a_receiver_that_is_gone_switches_its_webhook_off_at_once(db: Database) -> None:
    hook(db)
    note(db, result("failed", gone=True))
    assert not is_active(db)
    (event,) = disabled(db)
    assert event["resource_id"] == "wh_1"
    assert "410" in event["payload"]["reason"]
    assert health(db)["disabled_reason"] == health(db)["paused_reason"] == event["payload"]["reason"]
    note(db, result("failed", gone=True))
    assert len(disabled(db)) == 1


def test_of_several_channels_one_that_is_gone_does_not_silence_the_others(db: Database) -> None:
    hook(db, "wh_1", "webhook", "slack")
    note(db, result("failed", gone=True))
    assert is_active(db)


def test_a_hundred_failures_switch_it_off_only_when_they_took_an_hour(db: Database) -> None:
    hook(db)
    note(db, *(result("pending", n) for n in range(FAILURES)))
    assert is_active(db)
    note(db, result("pending", FAILING_S - 1))
    assert is_active(db)
    note(db, result("pending", FAILING_S))
    assert not is_active(db)
    assert health(db)["consecutive_failures"] == FAILURES + 2


def test_five_days_without_an_arrival_switch_it_off(db: Database) -> None:
    hook(db)
    note(db, result("pending", 0))
    note(db, result("pending", DISABLE_AFTER_S - 1))
    assert is_active(db)
    note(db, result("failed", DISABLE_AFTER_S))
    assert not is_active(db)
    assert "nothing has arrived since 2026-01-01" in disabled(db)[0]["payload"]["reason"]


@pytest.mark.parametrize("later", [DISABLE_AFTER_S, FAILING_S])
def test_one_arrival_in_between_keeps_it_on(db: Database, later: int) -> None:
    hook(db)
    note(db, *(result("pending", n / 10) for n in range(FAILURES)))
    note(db, result("delivered", later - 1), result("pending", later))
    assert is_active(db)


def test_results_of_one_commit_count_in_the_order_of_their_time(db: Database) -> None:
    hook(db)
    note(db, result("delivered", 5), result("pending", 2), result("pending", 9), result("pending", 1))
    assert health(db)["consecutive_failures"] == 1


def test_its_mail_channels_are_told_and_no_others(db: Database) -> None:
    hook(db, "wh_1", "webhook", "email", "slack", "email")
    note(db, *(result("pending", n) for n in range(FAILURES)), result("failed", FAILING_S))
    with db.read(ORG) as tx:
        rows = tx.rows("deliveries", {}, order=("channel_no",))
    assert [row["channel_no"] for row in rows] == [1, 3]
    assert all(row["channel"]["always"] for row in rows)
    assert "switched off" in rows[0]["body"]["title"]
    assert "PATCH is_active" in rows[0]["body"]["text"]


def test_switching_on_forgets_failures_and_remembers_the_last_arrival(db: Database) -> None:
    hook(db)
    note(db, result("delivered", 0), result("failed", 5, gone=True))
    with db.begin(ORG) as tx:
        clear_health(tx, tx.get("webhook", "wh_1"))
    found = health(db)
    assert (found["consecutive_failures"], found["disabled_reason"], found["last_error"]) == (0, None, None)
    assert found["last_success_at"] == "2026-01-01T00:00:00.000000Z"


def test_a_deleted_webhook_leaves_nothing_and_late_results_are_ignored(db: Database) -> None:
    hook(db)
    with db.begin(ORG) as tx:
        found = tx.get("webhook", "wh_1")
        tx.remove(found)
        end_health(tx, found)
    note(db, result("failed", gone=True))
    with db.read(ORG) as tx:
        assert tx.rows("resources", {}) == []
    assert disabled(db) == []
