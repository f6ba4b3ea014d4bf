"""What the world must look like, given what the server acknowledged. Thread-safe; one operation an object at a time."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from enum import Enum


class Doubt(Enum):
    """A request that got no answer: it may have happened or not."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    DOCUMENT = "delete document"


@dataclass
class Thing:
    """One object as far as its owner knows."""

    number: int
    object_id: str = ""
    version: int = 1
    exists: bool = True
    settled: bool = False
    """A batch that was triggered after its last change is complete: nothing will touch its documents by itself."""
    buried: set[int] = field(default_factory=set)
    """Parts whose documents were deleted since the last change."""
    doubt: Doubt | None = None
    doubtful_part: int = 0
    busy: bool = False


class Model:
    """All things ever made."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.things: dict[int, Thing] = {}
        self.lock = threading.Lock()
        self.counts: dict[str, int] = {}
        self.open: tuple[str, list[tuple[Thing, int]]] | None = None
        """The batch that runs, and what it settles when it is complete."""

    def count(self, name: str, by: int = 1) -> None:
        with self.lock:
            self.counts[name] = self.counts.get(name, 0) + by

    def new(self, count: int) -> list[Thing]:
        with self.lock:
            made = [Thing(len(self.things) + step, busy=True, doubt=Doubt.CREATE) for step in range(count)]
            self.things |= {thing.number: thing for thing in made}
            return made

    def borrow(self, *, settled: bool = False) -> Thing | None:
        """An object that exists and that nobody works on; it is given back with `give`."""
        with self.lock:
            free = [t for t in self.things.values() if t.exists and not t.busy and t.doubt is None and t.object_id]
            free = [t for t in free if t.settled] if settled else free
            if not free:
                return None
            chosen = self.random.choice(free)
            chosen.busy = True
            return chosen

    def give(self, thing: Thing) -> None:
        with self.lock:
            thing.busy = False

    def waiting(self) -> list[tuple[Thing, int]]:
        """Objects and versions that a batch triggered from now on covers."""
        with self.lock:
            return [(t, t.version) for t in self.things.values() if t.exists and not t.busy and t.doubt is None]

    def settle(self, covered: list[tuple[Thing, int]]) -> None:
        with self.lock:
            for thing, version in covered:
                if thing.exists and thing.version == version and thing.doubt is None and not thing.busy:
                    thing.settled = True

    def alive(self) -> list[Thing]:
        with self.lock:
            return [thing for thing in self.things.values() if thing.exists]
