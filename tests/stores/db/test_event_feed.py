"""Readers of events see every event once, in one order, whatever commits when."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import text, update

from mediatheca.kernel.clock import now
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db import tables
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.event_feed import Event, EventFeed

A, B = Scope("org_a", "ns_1"), Scope("org_b", "ns_1")


@pytest.fixture
def feed(db: Database) -> EventFeed:
    return EventFeed(db)


def emit(db: Database, *types: str, scope: Scope = A) -> None:
    with db.begin(scope) as tx:
        for type in types:
            tx.emit(type, "res", {"type": type})


def read(feed: EventFeed, after: int = 0, limit: int = 100, **options: object) -> list[Event]:
    feed.sequence()
    return feed.read(after, limit, **options)  # type: ignore[arg-type]


def types(events: list[Event]) -> list[str]:
    return [event.type for event in events]


def test_events_come_in_order_with_what_they_say(db: Database, feed: EventFeed) -> None:
    emit(db, "object.created", "object.updated")
    emit(db, "bucket.created", scope=B)
    found = read(feed)
    assert types(found) == ["object.created", "object.updated", "bucket.created"]
    assert [event.scope for event in found] == [A, A, B]
    assert found[0].payload == {"type": "object.created"}
    assert found[0].created_at <= now()
    assert types(read(feed, found[0].position)) == ["object.updated", "bucket.created"]
    assert types(read(feed, limit=2)) == ["object.created", "object.updated"]
    assert feed.newest() == found[-1].position


def test_a_reader_of_one_tenant_sees_only_its_own(db: Database, feed: EventFeed) -> None:
    emit(db, "a.one")
    emit(db, "a.org", scope=Scope("org_a"))
    emit(db, "b.one", scope=B)
    assert types(read(feed, organization_id="org_a")) == ["a.one", "a.org"]
    assert types(read(feed, organization_id="org_a", namespace_id="ns_1")) == ["a.one"]
    assert types(read(feed, organization_id="org_a", namespace_id="")) == ["a.org"]
    assert types(read(feed, organization_id="org_b", types={"b.one", "a.one"})) == ["b.one"]


def test_an_event_is_not_read_before_its_commit(db: Database, feed: EventFeed) -> None:
    with db.begin(A) as tx:
        tx.emit("slow.one", "res")
        assert read(feed) == []
    assert types(read(feed)) == ["slow.one"]


@pytest.fixture
def postgresql(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    database.migrate()
    with database.system() as connection:
        connection.execute(text("TRUNCATE events, event_cursors"))
    yield database
    database.close()


def test_what_commits_late_is_not_hidden_behind_a_cursor(postgresql: Database) -> None:
    """SQLite has one writer at a time: there no transaction can be overtaken."""
    feed = EventFeed(postgresql)
    with postgresql.begin(A) as late:
        late.emit("late.one", "res")
        emit(postgresql, "early.one")
        early = read(feed)
        assert types(early) == ["early.one"]
    assert types(read(feed, early[-1].position)) == ["late.one"]
    assert types(read(feed)) == ["early.one", "late.one"]


def test_positions_are_given_once_while_many_write_and_number(db: Database, feed: EventFeed) -> None:
    seen: list[Event] = []

    def write(name: str) -> None:
        for number in range(20):
            emit(db, f"{name}.{number}")

    writers = [threading.Thread(target=write, args=(name,)) for name in ("x", "y", "z")]
    numberers = [threading.Thread(target=lambda: [feed.sequence() for _ in range(20)]) for _ in range(2)]
    for thread in (*writers, *numberers):
        thread.start()
    while any(thread.is_alive() for thread in writers) or len(seen) < 60:
        seen += read(feed, seen[-1].position if seen else 0, limit=7)
    for thread in (*writers, *numberers):
        thread.join()
    assert len({event.event_id for event in seen}) == len(seen) == 60
    for name in ("x", "y", "z"):
        assert [t for t in types(seen) if t.startswith(name)] == [f"{name}.{number}" for number in range(20)]


def test_a_new_consumer_begins_with_what_comes_next(db: Database, feed: EventFeed) -> None:
    emit(db, "old.one")
    feed.sequence()
    cursor = feed.cursor("fresh")
    emit(db, "new.one")
    assert types(read(feed, cursor)) == ["new.one"]
    assert feed.cursor("fresh") == cursor


def test_a_cursor_moves_with_the_work_and_only_from_where_it_was(db: Database, feed: EventFeed) -> None:
    assert feed.cursor("reader") == 0
    with db.across() as tx:
        assert feed.advance(tx.connection, "reader", 0, 5)
        assert not feed.advance(tx.connection, "reader", 0, 7)
        tx.for_scope(B).emit("b.said", "res")
    assert feed.cursor("reader") == 5
    assert [event.scope for event in read(feed)] == [B]


def test_old_events_are_forgotten_but_never_the_newest(db: Database, feed: EventFeed) -> None:
    emit(db, *(f"old.{number}" for number in range(5)))
    emit(db, "fresh.one")
    read(feed)
    aged = (
        update(tables.events).where(tables.events.c.type != "fresh.one").values(created_at=now() - timedelta(days=91))
    )
    with db.system() as connection:
        connection.execute(aged)
    assert feed.oldest() == 0
    assert feed.forget(now() - timedelta(days=90)) == 5
    assert types(read(feed)) == ["fresh.one"]
    assert feed.oldest() == read(feed)[0].position - 1 > 0
    assert feed.forget(now() + timedelta(days=1)) == 0
    last = read(feed)[-1].position
    emit(db, "next.one")
    assert read(feed, last)[0].position > last


def test_events_of_documents_with_the_longest_ids_are_kept(db: Database, feed: EventFeed) -> None:
    with db.begin(A) as tx:
        tx.emit("document.created", "ä" * 512)
    assert read(feed)[0].resource_id == "ä" * 512


def test_an_empty_feed_says_so(db: Database, feed: EventFeed) -> None:
    assert (feed.oldest(), feed.newest(), feed.sequence(), read(feed)) == (0, 0, 0, [])
    with db.system() as connection:
        assert connection.execute(text("SELECT count(*) FROM events")).scalar_one() == 0
