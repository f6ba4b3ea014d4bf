"""Clips are cut one at a time, and only a few callers may wait for that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mediatheca.flows.clip_room import MOST, MOST_OF_ORGANIZATION, ClipRoom
from mediatheca.jobs.runner import LocalRunner
from mediatheca.kernel.errors import TooManyRequestsError
from mediatheca.providers import ModelSettings


@pytest.fixture
def room(tmp_path: Path) -> Iterator[ClipRoom]:
    made = ClipRoom(LocalRunner(1, 400, 20, ModelSettings(models_dir=tmp_path), scratch=tmp_path / "scratch"))
    yield made
    made.close()


class Visitors:
    """Callers that stay in the room until they may go."""

    def __init__(self, room: ClipRoom) -> None:
        self.room, self.go = room, threading.Event()
        self.at_work = self.most = 0
        self._lock, self._threads = threading.Lock(), list[threading.Thread]()

    def enter(self, organization: str) -> None:
        before = self.room._inside.total()
        self._threads.append(threading.Thread(target=self._visit, args=(organization,)))
        self._threads[-1].start()
        while self.room._inside.total() == before:
            threading.Event().wait(0.005)

    def _visit(self, organization: str) -> None:
        with self.room.turn(organization):
            with self._lock:
                self.at_work += 1
                self.most = max(self.most, self.at_work)
            assert self.go.wait(240)
            with self._lock:
                self.at_work -= 1

    def leave(self) -> None:
        self.go.set()
        for thread in self._threads:
            thread.join(240)


@pytest.fixture
def visitors(room: ClipRoom) -> Iterator[Visitors]:
    made = Visitors(room)
    yield made
    made.leave()


def test_an_organization_has_its_share_and_no_more(room: ClipRoom, visitors: Visitors) -> None:
    for _ in range(MOST_OF_ORGANIZATION):
        visitors.enter("org_a")
    with pytest.raises(TooManyRequestsError, match="of this organization are being cut") as caught:
        room.turn("org_a").__enter__()
    assert caught.value.retry_after_s > 0
    visitors.enter("org_b")
    visitors.leave()
    assert visitors.most == 1
    with room.turn("org_a"):
        pass


def test_all_together_have_no_more_than_the_process_has_threads_for(room: ClipRoom, visitors: Visitors) -> None:
    for number in range(MOST):
        visitors.enter(f"org_{number}")
    with pytest.raises(TooManyRequestsError, match=f"{MOST} clips are being cut"):
        room.turn("org_new").__enter__()
    visitors.leave()
    assert not room._inside


def test_a_cut_that_fails_gives_its_place_back(room: ClipRoom) -> None:
    for _ in range(2 * MOST):
        with pytest.raises(ValueError, match="broken"), ExitStack() as stack:
            stack.enter_context(room.turn("org_a"))
            raise ValueError("broken")
    assert not room._inside
