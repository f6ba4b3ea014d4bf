"""Windows of requests that several processes count together."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from mediatheca.flows.publishing import door
from mediatheca.flows.publishing.door import PublicDoor, SharedWindows, Windows
from mediatheca.kernel.errors import TooManyRequestsError
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.publications import count_request, forget_requests
from mediatheca.stores.db.tables import request_windows


def rows(db: Database) -> list[tuple[object, ...]]:
    with db.system() as connection:
        return [tuple(row) for row in connection.execute(request_windows.select())]


def test_two_processes_share_one_limit(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "time", SimpleNamespace(time=lambda: 1_000_000.0))  # no window ends while it runs
    first, second = SharedWindows(db), SharedWindows(db)
    for windows in (first, second, first):
        windows.take("a", 86_400, 3, "requests")
    second.take("b", 86_400, 3, "requests")
    for windows in (first, second):
        with pytest.raises(TooManyRequestsError) as refused:
            windows.take("a", 86_400, 3, "requests")
        assert 0 < refused.value.retry_after_s <= 86_400
    assert "a" not in {row[0] for row in rows(db)}  # a name may hold an address


def test_many_at_once_never_exceed_the_limit(db: Database) -> None:
    allowed: list[bool] = []

    def visit() -> None:
        for _ in range(10):
            allowed.append(count_request(db, "n", 60, 7, 25, 1))

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(allowed) == 25


def test_a_new_window_begins_anew_and_a_late_clock_counts_in_it(db: Database) -> None:
    assert count_request(db, "n", 60, 1, 1, 1)
    assert not count_request(db, "n", 60, 1, 1, 1)
    assert count_request(db, "n", 60, 2, 1, 1)
    assert not count_request(db, "n", 60, 1, 1, 1)
    assert count_request(db, "n", 60, 2, 1, -1)
    assert count_request(db, "n", 60, 2, 1, 1)


def test_windows_that_are_over_are_removed(db: Database) -> None:
    count_request(db, "old", 60, 1, 5, 1)
    count_request(db, "day", 86_400, 0, 5, 1)
    forget_requests(db, 100_000.0)
    assert [row[0] for row in rows(db)] == ["day"]


def test_the_door_counts_in_the_database_where_several_processes_serve(db: Database) -> None:
    windows = PublicDoor(db)._windows
    assert isinstance(windows, SharedWindows if db.dialect == "postgresql" else Windows)
