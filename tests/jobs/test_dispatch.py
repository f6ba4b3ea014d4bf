"""Every event reaches every consumer exactly once, whatever fails and whoever else reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from mediatheca.jobs.dispatch import FAILED, TRIES, Dispatcher, Take
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.event_feed import Event, EventFeed
from mediatheca.stores.db.system_tx import SystemTx

A, B = Scope("org_a", "ns_1"), Scope("org_b", "ns_2")


@dataclass
class Jobs:
    """A consumer that makes one job of each event."""

    name: str = "jobs"
    types: frozenset[str] = frozenset()
    refuses: Callable[[Event], Exception | None] = lambda event: None
    breaks: Callable[[Event], Exception | None] = lambda event: None
    pages: list[int] = field(default_factory=list)

    def take(self, events: Sequence[Event]) -> Take | None:
        self.pages.append(len(events))
        for event in events:
            if error := self.refuses(event):
                raise error
        wanted = [event for event in events if not event.type.startswith("dull")]

        def act(tx: SystemTx) -> None:
            for event in wanted:
                tx.for_scope(event.scope).enqueue(self.name, {"type": event.type})
                if error := self.breaks(event):
                    raise error

        return act if wanted else None


def emit(db: Database, *types: str, scope: Scope = A) -> None:
    with db.begin(scope) as tx:
        for type in types:
            tx.emit(type, "res")


def made(db: Database, kind: str = "jobs", scope: Scope = A) -> list[str]:
    with db.read(scope) as tx:
        return [row["payload"]["type"] for row in tx.rows("jobs", {"kind": kind}, order=("job_id",))]


def dispatcher(db: Database, *consumers: Jobs) -> Dispatcher:
    made = Dispatcher(db, EventFeed(db), consumers, backoff=(0.0,))
    made.lag()  # cursors begin here
    return made


def drain(spine: Dispatcher, rounds: int = 50) -> None:
    for _ in range(rounds):
        spine.tick()


def test_events_become_jobs_of_their_own_tenant(db: Database) -> None:
    consumer = Jobs()
    spine = dispatcher(db, consumer)
    emit(db, "a.one", "a.two")
    emit(db, "b.one", scope=B)
    assert spine.tick() == 3
    assert (made(db), made(db, scope=B)) == (["a.one", "a.two"], ["b.one"])
    assert spine.tick() == 0
    assert spine.lag() == {"jobs": 0}


def test_a_consumer_gets_only_the_types_it_named(db: Database) -> None:
    some, everything = Jobs("some", frozenset({"a.one"})), Jobs("all")
    spine = dispatcher(db, some, everything)
    emit(db, "a.two", "a.one", "a.three")
    spine.tick()
    assert (made(db, "some"), made(db, "all")) == (["a.one"], ["a.two", "a.one", "a.three"])
    assert spine.lag() == {"some": 0, "all": 0}


def test_events_that_mean_nothing_cost_no_commit(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mediatheca.jobs.dispatch._LAZY_S", 3600.0)
    spine = dispatcher(db, Jobs())
    topics: list[set[str]] = []
    emit(db, "dull.one", "dull.two")
    db.listen(topics.append)
    assert spine.tick() == 2
    assert spine.tick() == 0
    assert topics == []
    assert EventFeed(db).cursor("jobs") == 0


def test_a_consumer_that_is_new_begins_with_what_comes_next(db: Database) -> None:
    emit(db, "before.one")
    EventFeed(db).sequence()
    spine = dispatcher(db, Jobs())
    emit(db, "after.one")
    spine.tick()
    assert made(db) == ["after.one"]


def test_nothing_is_lost_or_done_twice_after_a_crash_in_the_middle(db: Database) -> None:
    crash = [RuntimeError("killed")]
    consumer = Jobs(breaks=lambda event: crash.pop() if event.type == "a.two" and crash else None)
    spine = dispatcher(db, consumer)
    emit(db, "a.one", "a.two", "a.three")
    spine.tick()
    assert made(db) == []
    restarted = dispatcher(db, consumer)
    drain(restarted)
    assert made(db) == ["a.one", "a.two", "a.three"]


@pytest.mark.parametrize("where", ["refuses", "breaks"])
def test_a_poisonous_event_is_recorded_and_the_others_go_on(db: Database, where: str) -> None:
    def poison(event: Event) -> Exception | None:
        return ValueError("cannot read it") if event.type == "a.bad" else None

    consumer = Jobs(**{where: poison})  # type: ignore[arg-type]
    other = Jobs("other")
    spine = dispatcher(db, consumer, other)
    emit(db, "a.one", "a.bad", "a.two")
    drain(spine, 3)
    assert made(db, "other")[:3] == ["a.one", "a.bad", "a.two"]
    drain(spine)
    assert made(db) == ["a.one", "a.two", FAILED]
    with db.read(A) as tx:
        (record,) = tx.rows("events", {"type": FAILED})
        (bad,) = tx.rows("events", {"type": "a.bad"})
    assert record["payload"] | {"position": 0} == {
        "consumer": "jobs", "event_id": bad["event_id"], "event_type": "a.bad", "position": 0,
        "reason": "ValueError: cannot read it",
    }  # fmt: skip
    assert consumer.pages.count(1) >= TRIES


def test_a_record_that_cannot_be_read_is_not_recorded_again(db: Database) -> None:
    spine = dispatcher(db, Jobs(refuses=lambda event: ValueError("never")))
    emit(db, "a.bad")
    drain(spine, 100)
    with db.read(A) as tx:
        assert tx.count("events", {"type": FAILED}) == 1
    assert spine.lag() == {"jobs": 0}


def test_an_event_is_not_given_up_while_the_database_is_away(db: Database) -> None:
    away = [True]
    consumer = Jobs(refuses=lambda event: UnavailableError("no answer") if away else None)
    spine = dispatcher(db, consumer)
    emit(db, "a.one")
    drain(spine, 3 * TRIES)
    away.clear()
    drain(spine, 5)
    assert made(db) == ["a.one"]


def test_two_dispatchers_share_the_events(db: Database) -> None:
    spines = [dispatcher(db, Jobs()) for _ in range(2)]
    done = threading.Event()

    def work(spine: Dispatcher) -> None:
        while not done.is_set() or spine.tick():
            spine.tick()

    threads = [threading.Thread(target=work, args=(spine,)) for spine in spines]
    for thread in threads:
        thread.start()
    for number in range(100):
        emit(db, f"a.{number}")
    done.set()
    for thread in threads:
        thread.join(120)
    drain(spines[0], 3)
    assert sorted(made(db)) == sorted(f"a.{number}" for number in range(100))


def test_a_running_dispatcher_wakes_by_itself(db: Database) -> None:
    spine = Dispatcher(db, EventFeed(db), [Jobs()])
    spine.start()
    try:
        emit(db, "a.one")
        deadline = time.monotonic() + 120
        while not made(db) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert made(db) == ["a.one"]
    finally:
        spine.close()


def test_two_consumers_of_one_name_are_refused(db: Database) -> None:
    with pytest.raises(ValueError, match="one name: jobs, jobs"):
        Dispatcher(db, EventFeed(db), [Jobs(), Jobs()])
