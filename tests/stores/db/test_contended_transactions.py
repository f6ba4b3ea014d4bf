"""Two transactions that wait for each other: PostgreSQL ends one of them, and it is run again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import ContentionError, Database
from mediatheca.stores.db.tables import metadata
from mediatheca.stores.db.tx import Tx

SCOPE = Scope("org", "ns")


@pytest.fixture
def db(postgres_url: str) -> Iterator[Database]:
    """Two tables' rows of a PostgreSQL that notices a deadlock soon."""
    database = Database(f"{postgres_url}{'&' if '?' in postgres_url else '?'}options=-cdeadlock_timeout%3D50ms")
    database.migrate()
    with database.system() as connection:
        connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)}"))
    with database.begin(SCOPE) as tx:
        tx.insert("document_tables", [{"collection_id": name} for name in ("a", "b")])
    yield database
    database.close()


def counts(db: Database) -> dict[str, int]:
    with db.read(SCOPE) as tx:
        return {row["collection_id"]: row["write_seq"] for row in tx.rows("document_tables", {})}


class Crossing:
    """Work on two rows in opposite orders: the first attempts meet in the middle."""

    def __init__(self) -> None:
        self.attempts = 0
        self._meet = threading.Barrier(2, timeout=120)
        self._lock = threading.Lock()

    def run(self, db: Database, first: str, second: str) -> None:
        tries = 0

        def work(tx: Tx) -> None:
            nonlocal tries
            tries += 1
            with self._lock:
                self.attempts += 1
            tx.next_seq(first)
            if tries == 1:
                self._meet.wait()
            tx.next_seq(second)
            tx.emit("crossed", first)

        db.run(SCOPE, work)


def in_threads(*works: Callable[[], None]) -> list[BaseException]:
    caught: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            caught.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    return caught


def test_both_sides_of_a_deadlock_get_their_turn(db: Database) -> None:
    crossing = Crossing()
    assert in_threads(lambda: crossing.run(db, "a", "b"), lambda: crossing.run(db, "b", "a")) == []
    assert crossing.attempts == 3, "one of them ran twice"
    assert counts(db) == {"a": 2, "b": 2}
    with db.read(SCOPE) as tx:
        assert tx.count("events", {"type": "crossed"}) == 2, "nothing of the lost attempt is left"


def test_a_deadlock_outside_of_run_says_that_it_may_be_tried_again(db: Database) -> None:
    meet = threading.Barrier(2, timeout=120)

    def cross(first: str, second: str) -> None:
        with db.begin(SCOPE) as tx:
            tx.next_seq(first)
            meet.wait()
            tx.next_seq(second)

    (error,) = in_threads(lambda: cross("a", "b"), lambda: cross("b", "a"))
    assert isinstance(error, ContentionError)
    assert error.retryable
    assert "try again" in error.message
    assert sum(counts(db).values()) == 2, "the other one is done"


def test_a_serialization_failure_is_run_again(db: Database) -> None:
    tries = 0

    def attempt() -> None:
        nonlocal tries
        tries += 1
        with db.system() as connection:
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
            look = text("SELECT write_seq FROM document_tables WHERE collection_id = 'a'")
            seen = connection.execute(look).scalar_one()
            if tries == 1:
                with db.begin(SCOPE) as tx:
                    tx.update("document_tables", {"collection_id": "a"}, {"write_seq": 10})
            statement = text("UPDATE document_tables SET write_seq = :next WHERE collection_id = 'a'")
            connection.execute(statement, {"next": seen + 1})

    db.again(attempt)
    assert tries == 2
    assert counts(db)["a"] == 11


def test_what_always_loses_is_given_up_after_a_few_attempts(db: Database) -> None:
    tries = 0

    def lose(tx: Tx) -> None:
        nonlocal tries
        tries += 1
        raise ContentionError("lost")

    with pytest.raises(ContentionError):
        db.run(SCOPE, lose)
    assert 3 <= tries <= 6


def test_other_trouble_is_not_tried_again(db: Database) -> None:
    tries = 0

    def fail(tx: Tx) -> None:
        nonlocal tries
        tries += 1
        raise UnavailableError("disk full")

    with pytest.raises(UnavailableError):
        db.run(SCOPE, fail)
    assert tries == 1
