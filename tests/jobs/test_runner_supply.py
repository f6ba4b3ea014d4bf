"""Files are brought ahead of their turn within bounds, and none stays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mediatheca.extractors import Item, ItemError, Source
from mediatheca.jobs import runner_supply
from mediatheca.jobs.runner_supply import AHEAD, Awaited, Supply, awaited
from mediatheca.kernel.ids import new_uuid


def item(name: str, *files: str, size: int = 0) -> Item:
    given: list[Source] = [Awaited(key=each, store_key=each, hash="h", mime_type="a/b", size=size) for each in files]
    return Item(name, {"text": [Source(value="x")], "files": given})


class Carrier:
    """Writes files of `size` bytes; waits before each until `gate` is open."""

    def __init__(self, size: int = 10) -> None:
        self.size, self.gate = size, threading.Event()
        self.gate.set()
        self.asked: list[str] = []

    def __call__(self, source: Awaited, path: Path) -> Source:
        self.asked.append(source.store_key)
        assert self.gate.wait(120)
        if source.store_key == "broken":
            raise ItemError("it is broken")
        if source.store_key == "down":
            raise ConnectionError("the store is down")
        path.write_bytes(b"x" * self.size)
        return Source(path=str(path), key=source.key, hash=source.hash, mime_type=source.mime_type)


@pytest.fixture
def folders(tmp_path: Path) -> Callable[[], Path]:
    def make() -> Path:
        made = tmp_path / new_uuid()
        made.mkdir()
        return made

    return make


@pytest.fixture
def supplies() -> Iterator[list[Supply]]:
    made: list[Supply] = []
    yield made
    for each in made:
        each.close()


def ready(supply: Supply, index: int) -> Item:
    while not supply.ready(index):
        supply.wait(0.1)
    return supply.take(index)


def arrived(supply: Supply, indexes: range) -> None:
    while not all(map(supply.ready, indexes)):
        supply.wait(0.1)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_an_item_comes_whole_and_its_files_go_when_it_is_over(
    tmp_path: Path, folders: Callable[[], Path], supplies: list[Supply]
) -> None:
    supply = Supply([item("a", "one", "two"), item("b")], Carrier(), folders)
    supplies.append(supply)
    assert (supply.lacks(0), supply.lacks(1)) == (True, False)
    assert supply.ready(1)
    assert supply.take(1).item_id == "b"
    assert not supply.ready(0)
    supply.ask([0, 1])
    whole = ready(supply, 0)
    assert not list(awaited(whole))
    assert [(s.key, s.hash, s.mime_type) for s in whole.inputs["files"]] == [("one", "h", "a/b"), ("two", "h", "a/b")]
    assert [Path(s.path or "").read_bytes() for s in whole.inputs["files"]] == [b"x" * 10] * 2
    supply.release(0)
    supply.release(0)
    assert list(tmp_path.iterdir()) == []
    supply.ask([0])
    assert ready(supply, 0).item_id == "a"


def test_no_more_are_brought_ahead_than_there_is_room_for(folders: Callable[[], Path], supplies: list[Supply]) -> None:
    carrier = Carrier()
    supply = Supply([item(f"{n}", f"{n}") for n in range(50)], carrier, folders)
    supplies.append(supply)
    for _ in range(3):
        supply.ask(range(50))
    arrived(supply, range(AHEAD))
    assert len(carrier.asked) == AHEAD
    for index in range(3):
        supply.take(index)  # in somebody's hands now
    for _ in range(3):
        supply.ask(range(3, 50))
    arrived(supply, range(3, AHEAD + 3))
    assert len(carrier.asked) == AHEAD + 3


def test_large_files_are_brought_one_by_one(
    folders: Callable[[], Path], supplies: list[Supply], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_supply, "AHEAD_BYTES", 1000)
    carrier = Carrier(size=1000)
    supply = Supply([item(f"{n}", f"{n}") for n in range(20)], carrier, folders)
    supplies.append(supply)
    supply.ask([0])
    arrived(supply, range(1))
    supply.ask(range(20))
    assert carrier.asked == ["0"]
    supply.take(0)
    supply.ask([1])
    arrived(supply, range(1, 2))
    assert carrier.asked == ["0", "1"]


def test_sizes_that_are_known_count_before_the_files_are_here(
    folders: Callable[[], Path], supplies: list[Supply], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_supply, "AHEAD_BYTES", 1000)
    carrier = Carrier(size=300)
    supply = Supply([item(f"{n}", f"{n}", size=300) for n in range(20)], carrier, folders)
    supplies.append(supply)
    for _ in range(3):
        supply.ask(range(20))
    arrived(supply, range(3))
    supply.ask(range(20))
    assert sorted(carrier.asked) == ["0", "1", "2"]


def test_what_comes_next_is_brought_even_when_there_is_no_room(
    folders: Callable[[], Path], supplies: list[Supply]
) -> None:
    carrier = Carrier()
    supply = Supply([item(f"{n}", f"{n}") for n in range(30)], carrier, folders)
    supplies.append(supply)
    supply.ask(range(10, 30))
    arrived(supply, range(10, 10 + AHEAD))
    supply.ask([3, *range(10, 30)])
    assert ready(supply, 3).item_id == "3"
    assert len(carrier.asked) == AHEAD + 1


def test_an_item_without_its_file_is_that_items_error_and_anything_else_is_everybodys(
    tmp_path: Path, folders: Callable[[], Path], supplies: list[Supply]
) -> None:
    supply = Supply([item("a", "fine", "broken"), item("b", "down")], Carrier(), folders)
    supplies.append(supply)
    supply.ask([0])
    with pytest.raises(ItemError, match="it is broken"):
        ready(supply, 0)
    supply.ask([1])
    with pytest.raises(ConnectionError, match="the store is down"):
        ready(supply, 1)
    supply.close()
    assert files(tmp_path) == []


def test_what_arrives_after_the_end_does_not_stay(tmp_path: Path, folders: Callable[[], Path]) -> None:
    carrier = Carrier()
    carrier.gate.clear()
    supply = Supply([item(f"{n}", f"{n}") for n in range(3)], carrier, folders)
    supply.ask(range(3))
    while len(carrier.asked) < 3:
        threading.Event().wait(0.01)
    supply.close()
    carrier.gate.set()
    for thread in [each for each in threading.enumerate() if each.name == "runner-files"]:
        thread.join(120)
    assert files(tmp_path) == []


def test_without_files_to_bring_nothing_is_started(folders: Callable[[], Path], tmp_path: Path) -> None:
    before = set(threading.enumerate())  # those that end meanwhile, of other tests, are none of ours
    supply = Supply([item("a"), item("b")], None, folders)
    supply.ask([0, 1])
    assert supply.take(0).item_id == "a"
    assert [each.name for each in set(threading.enumerate()) - before if each.name == "runner-files"] == []
    assert list(tmp_path.iterdir()) == []
    supply.close()
