"""The change feed over both databases: order, filters, cursors, tenants."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from mediatheca.flows.events.feed import MAX_TYPES, Wanted, event_view, operation, page, position, wanted
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ForbiddenError, GoneError, NotFoundError, ValidationError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.event_feed import EventFeed
from mediatheca.stores.db.listing import encode_cursor

ORG, OTHER = Scope("org_a"), Scope("org_b")
IN_A = Scope("org_a", "ns_1")
ALL_OF_A = Wanted("org_a")


def emit(db: Database, *types: str, scope: Scope = IN_A, ident: str = "res") -> None:
    with db.begin(scope, "key_1") as tx:
        for type in types:
            tx.emit(type, ident, {"n": 1})


def types_of(db: Database, asked: Wanted, after: int = 0, limit: int = 100) -> list[str]:
    return [event.type for event in page(EventFeed(db), asked, after, limit).events]


def wanted_by(db: Database, *event_types: str, admin: bool = False, namespace: str | None = None) -> Wanted:
    with db.read(ORG) as tx:
        return wanted(tx, admin=admin, namespace=namespace, event_types=event_types)


def test_an_organization_sees_its_own_events_and_no_others(db: Database) -> None:
    emit(db, "object.created")
    emit(db, "object.deleted", scope=Scope("org_b", "ns_1"))
    emit(db, "bucket.created", scope=ORG)
    assert types_of(db, ALL_OF_A) == ["object.created", "bucket.created"]
    assert types_of(db, Wanted("org_b")) == ["object.deleted"]
    assert types_of(db, Wanted("org_c")) == []


def test_pages_follow_each_other_without_gap_or_repetition(db: Database) -> None:
    feed = EventFeed(db)
    emit(db, *(f"object.n{n}" for n in range(10)))
    seen, at, more = [], 0, True
    while more:
        found = page(feed, ALL_OF_A, at, 3)
        seen += [event.type for event in found.events]
        at, more = position(feed, ALL_OF_A, ALL_OF_A.cursor(found.upto)), found.has_more
    assert seen == [f"object.n{n}" for n in range(10)]
    assert page(feed, ALL_OF_A, at, 3).upto == at
    emit(db, "object.late")
    assert types_of(db, ALL_OF_A, at) == ["object.late"]


def test_a_page_that_just_fits_has_no_more(db: Database) -> None:
    emit(db, "object.a", "object.b")
    found = page(EventFeed(db), ALL_OF_A, 0, 2)
    assert (len(found.events), found.has_more) == (2, False)


def test_the_cursor_of_a_feed_where_nothing_happens_moves_on(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = EventFeed(db)
    emit(db, "object.created", "object.updated", scope=OTHER)
    assert page(feed, ALL_OF_A, 0, 10).upto == 0
    monkeypatch.setattr("mediatheca.flows.events.feed._IDLE", 1)
    assert page(feed, ALL_OF_A, 0, 10).upto == feed.newest()


def test_filters_by_namespace_and_type(db: Database) -> None:
    with db.begin(ORG) as tx:
        made = tx.put("namespace", "ns", "main", {}, ident="ns_1")
    emit(db, "object.created", "object.deleted")
    emit(db, "object.created", scope=Scope("org_a", "ns_2"))
    assert types_of(db, wanted_by(db, namespace="main")) == ["object.created", "object.deleted"]
    assert types_of(db, wanted_by(db, namespace=made.id)) == ["object.created", "object.deleted"]
    assert types_of(db, wanted_by(db, "object.created")) == ["object.created", "object.created"]
    assert types_of(db, wanted_by(db, "object.created", namespace="ns_2")) == ["object.created"]


def test_events_of_a_namespace_that_is_gone_can_be_read_and_one_that_never_was_is_refused(db: Database) -> None:
    emit(db, "namespace.deleted", scope=ORG, ident="ns_old")
    emit(db, "object.created", scope=Scope("org_a", "ns_older"))
    emit(db, "object.created", scope=Scope("org_b", "ns_foreign"))
    assert types_of(db, wanted_by(db, namespace="ns_old")) == []
    assert types_of(db, wanted_by(db, namespace="ns_older")) == ["object.created"]
    for name in ("ns_never", "ns_foreign"):
        with pytest.raises(NotFoundError):
            wanted_by(db, namespace=name)


def test_a_name_finds_the_events_that_are_told_under_it(db: Database) -> None:
    emit(db, "collection.documents.written", "document.created", "batch.completed")
    assert types_of(db, wanted_by(db, "document.created")) == ["collection.documents.written", "document.created"]
    assert types_of(db, wanted_by(db, "collection.documents.batch_completed")) == ["batch.completed"]
    assert types_of(db, wanted_by(db, "manifest.apply.resource_state")) == []


def test_keys_and_secrets_are_for_administrators(db: Database) -> None:
    emit(db, "api_key.created", "object.created", "secret.accessed", scope=ORG)
    assert types_of(db, wanted_by(db)) == ["object.created"]
    assert types_of(db, wanted_by(db, admin=True)) == ["api_key.created", "object.created", "secret.accessed"]
    assert types_of(db, wanted_by(db, "secret.accessed", admin=True)) == ["secret.accessed"]
    with pytest.raises(ForbiddenError, match="admin"):
        wanted_by(db, "secret.accessed")


def test_unknown_and_too_many_types_are_refused(db: Database) -> None:
    with pytest.raises(ValidationError, match=r"object\.created"):
        wanted_by(db, "object.exploded")
    with pytest.raises(ValidationError):
        wanted_by(db, *["object.created"] * (MAX_TYPES + 1))


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "\x00", "é" * 50, encode_cursor({}), encode_cursor({"p": "1"}), encode_cursor({"p": -1}),
     encode_cursor({"p": True, "f": ALL_OF_A.mark}), encode_cursor({"p": 2**63, "f": ALL_OF_A.mark})],
)  # fmt: skip
def test_what_is_no_cursor_is_refused(db: Database, cursor: str) -> None:
    with pytest.raises(ValidationError):
        position(EventFeed(db), ALL_OF_A, cursor)


def test_a_cursor_belongs_to_its_filters_its_rights_and_its_tenant(db: Database) -> None:
    emit(db, "object.created")
    page(EventFeed(db), ALL_OF_A, 0, 1)
    others = [
        Wanted("org_b"), Wanted("org_a", "ns_1"), Wanted("org_a", ""), Wanted("org_a", None, frozenset({"a.b"})),
        Wanted("org_a", without=frozenset()),
    ]  # fmt: skip
    assert len({asked.mark for asked in [ALL_OF_A, *others]}) == 6
    for asked in others:
        with pytest.raises(ValidationError, match="other filters"):
            position(EventFeed(db), asked, ALL_OF_A.cursor(1))


def test_a_cursor_that_has_missed_events_is_gone_and_says_where_to_begin(db: Database) -> None:
    feed = EventFeed(db)
    emit(db, "object.a", "object.b", "object.c")
    first, *_ = page(feed, ALL_OF_A, 0, 10).events
    feed.forget(clock.now() + timedelta(days=1))  # the newest stays
    with pytest.raises(GoneError) as caught:
        position(feed, ALL_OF_A, ALL_OF_A.cursor(first.position))
    assert caught.value.status == 410
    again = position(feed, ALL_OF_A, caught.value.details["oldest_cursor"])
    assert types_of(db, ALL_OF_A, again) == ["object.c"]


def test_a_cursor_from_before_a_restored_backup_is_gone(db: Database) -> None:
    emit(db, "object.a")
    page(EventFeed(db), ALL_OF_A, 0, 1)
    with pytest.raises(GoneError, match="behind the newest"):
        position(EventFeed(db), ALL_OF_A, ALL_OF_A.cursor(10**9))


def test_an_event_is_shown_with_everything_that_readers_look_at(db: Database) -> None:
    emit(db, "object.created", ident="obj_1")
    (event,) = page(EventFeed(db), ALL_OF_A, 0, 1).events
    shown: dict[str, Any] = event_view(event, ALL_OF_A)
    assert shown["cursor"] == ALL_OF_A.cursor(event.position)
    assert {key: shown[key] for key in shown if key not in ("seq", "cursor", "created_at", "event_id")} == {
        "namespace_id": "ns_1", "event_type": "object.created", "resource_type": "object", "resource_id": "obj_1",
        "operation": "insert", "payload": {"n": 1}, "actor": "key_1", "trace_id": None,
    }  # fmt: skip


def test_events_of_third_parties_have_an_operation_too() -> None:
    assert [operation(f"note.{verb}") for verb in ("created", "updated", "deleted", "sung")] == [
        "insert", "update", "delete", "other",
    ]  # fmt: skip
