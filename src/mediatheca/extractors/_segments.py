"""Where a recording is cut into segments: by time, at cuts of the picture, in silences. Pure; all times in seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SHORTEST_S = 1.0
"""A last piece shorter than this is joined to the one before."""
MAX_SEGMENTS = 20_000
_EDGE_S = 0.1
"""Encoders add a little silence at the ends."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a recording: from `start` up to but not including `end`."""

    start: float
    end: float

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2

    @property
    def length(self) -> float:
        return self.end - self.start

    def spread(self, count: int) -> list[float]:
        """Times in the middles of `count` equal parts."""
        return [self.start + self.length * (part + 0.5) / count for part in range(count)]


def by_time(duration: float, interval: float) -> list[Segment]:
    """Windows of equal length; the last is shorter, and joined to the one before it below `SHORTEST_S`."""
    if duration <= 0:
        return []
    marks = [number * interval for number in range(math.ceil(duration / interval))]
    if len(marks) > 1 and duration - marks[-1] < SHORTEST_S:
        marks.pop()
    return _between(marks, duration)


def at_marks(marks: Sequence[float], duration: float, longest: float) -> list[Segment]:
    """Segments between marks (cuts, middles of silences); those longer than `longest` are cut into equal parts."""
    inside = [0.0, *sorted({mark for mark in marks if 0 < mark < duration})]
    return [part for segment in _between(inside, duration) for part in _equal_parts(segment, longest)]


def _between(marks: Sequence[float], duration: float) -> list[Segment]:
    ends = [*marks[1:], duration]
    return [Segment(start, end) for start, end in zip(marks, ends, strict=True) if end > start]


def _equal_parts(segment: Segment, longest: float) -> list[Segment]:
    # A hair above a multiple is rounding, not another part.
    count = max(1, math.ceil(segment.length / longest - 1e-6))
    step = segment.length / count
    marks = [segment.start + number * step for number in range(count)]
    return _between(marks, segment.end)


def middles(spans: Sequence[tuple[float, float]], duration: float) -> list[float]:
    """Where silences are cut; those that touch an end of the recording are not between anything."""
    return [(start + end) / 2 for start, end in spans if start > _EDGE_S and end < duration - _EDGE_S]
