"""Who is sent to next: a lane for each channel of each target, in turns, so that nobody waits for a slow receiver."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from mediatheca.flows.delivery.addresses import Address
from mediatheca.flows.delivery.backoff import BREAK_AFTER, PROBE_S, Breaker
from mediatheca.stores.db.deliveries import Claimed

Key: TypeAlias = tuple[str, int]
"""(target id, number of the channel)."""
MAX_BROKEN = 10_000
BUFFER = 4096
"""Messages held ready, over all lanes."""
BUFFER_TARGET = 32
"""Of one target: from here on only others are claimed."""
FEW = 8
CLAIM, SMALL_CLAIM = 64, 16
"""Messages claimed at a time: so few that several servers share what there is, and that, with more than a few targets,
the backlog of one takes no room from the others."""
ORGANIZATION_PART = 4
"""What is on its way for one organization is at most one in so many of all."""


@dataclass(eq=False, slots=True)
class Lane:
    """What waits for one channel, and what is on its way there."""

    key: Key
    organization_id: str
    breaker: Breaker
    waiting: deque[tuple[Claimed, Address]] = field(default_factory=deque)
    flying: int = 0


class Lanes:
    """All lanes. Used in one thread. `per_target`: how many messages are on their way to a channel at once."""

    def __init__(self, at_once: int, per_target: int, probes: Sequence[float] = PROBE_S) -> None:
        self._at_once, self._per_target, self._probes = at_once, per_target, probes
        self._part = max(1, at_once // ORGANIZATION_PART)
        self._lanes: dict[Key, Lane] = {}
        self._turns: deque[Lane] = deque()
        self._breakers: dict[Key, Breaker] = {}
        """Of channels that have failed lately."""
        self.flying = 0
        self.waiting = 0
        self._flying_of: Counter[str] = Counter()
        self._lanes_of: Counter[str] = Counter()
        """By organization."""

    def add(self, claimed: Claimed, address: Address) -> None:
        key = (claimed.target_id, claimed.channel_no)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key, claimed.scope.organization_id, self._breakers.get(key) or Breaker())
            self._lanes_of[lane.organization_id] += 1
            self._turns.append(lane)
        lane.waiting.append((claimed, address))
        self.waiting += 1

    @property
    def has_room(self) -> bool:
        return self.waiting < BUFFER

    @property
    def claim(self) -> int:
        """How many messages to ask for."""
        return CLAIM if len(self._lanes) <= FEW else SMALL_CLAIM

    def wants_more(self, lane: Lane) -> bool:
        """Whether a lane runs short of messages."""
        return len(lane.waiting) < self._share(BUFFER_TARGET, BUFFER)

    def _share(self, most: int, total: int) -> int:
        """What one lane may have of a total, so that half of it stays free for those who come later."""
        return max(1, min(most, total // (2 * max(1, len(self._lanes)))))

    def full(self) -> set[str]:
        """Targets that have enough waiting."""
        most = self._share(BUFFER_TARGET, BUFFER)
        counts: dict[str, int] = {}
        for (target_id, _), lane in self._lanes.items():
            counts[target_id] = counts.get(target_id, 0) + len(lane.waiting)
        return {target_id for target_id, count in counts.items() if count >= most}

    def ready(self, now: float) -> Iterator[tuple[Lane, Claimed, Address]]:
        """What may be sent now, a message of each lane in turn."""
        idle = 0
        while idle < len(self._turns):
            lane = self._turns[0]
            self._turns.rotate(-1)
            if not lane.waiting or not self._room(lane) or lane.flying >= lane.breaker.allowed(now, self._most(lane)):
                idle += 1
                continue
            idle = 0
            claimed, address = lane.waiting.popleft()
            lane.flying += 1
            self.flying += 1
            self._flying_of[lane.organization_id] += 1
            self.waiting -= 1
            yield lane, claimed, address

    def _most(self, lane: Lane) -> int:
        """How many messages may be on their way to a lane: half of its organization's part stays free, too."""
        most = self._share(self._per_target, self._at_once)
        return max(1, min(most, self._part // (2 * self._lanes_of[lane.organization_id])))

    def _room(self, lane: Lane) -> bool:
        """Whether one more may be on its way, of all and of the organization. The first message of a lane need not wait
        for those that have many on their way."""
        times = 1 if lane.flying else 2
        return self.flying < times * self._at_once and self._flying_of[lane.organization_id] < times * self._part

    def landed(self, lane: Lane, arrived: bool, now: float) -> bool:
        """An attempt has ended; whether that brought back a receiver that had been left alone."""
        lane.flying -= 1
        self.flying -= 1
        self._flying_of[lane.organization_id] -= 1
        was_broken = lane.breaker.failures >= BREAK_AFTER
        lane.breaker.note(arrived, now, self._probes)
        if arrived:
            self._breakers.pop(lane.key, None)
        elif lane.key in self._breakers or len(self._breakers) < MAX_BROKEN:
            self._breakers[lane.key] = lane.breaker
        self._tidy(lane)
        return arrived and was_broken

    def postponed(self, now: float) -> list[tuple[Claimed, float]]:
        """Takes out what waits for receivers that are left alone, with the seconds that it has to wait."""
        out: list[tuple[Claimed, float]] = []
        for lane in list(self._lanes.values()):
            if lane.waiting and not lane.flying and not lane.breaker.allowed(now, 1):
                out += [(claimed, lane.breaker.open_until - now) for claimed, _ in lane.waiting]
                self.waiting -= len(lane.waiting)
                lane.waiting.clear()
                self._tidy(lane)
        return out

    def _tidy(self, lane: Lane) -> None:
        if not lane.waiting and not lane.flying:
            del self._lanes[lane.key]
            self._turns.remove(lane)
            self._lanes_of[lane.organization_id] -= 1
            if not self._lanes_of[lane.organization_id]:
                del self._lanes_of[lane.organization_id], self._flying_of[lane.organization_id]
