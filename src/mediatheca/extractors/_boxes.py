"""Rectangles on a page, and what stands in them: words and drawn lines. Points, origin at the top left, y downwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Box: TypeAlias = tuple[float, float, float, float]
"""x0, y0, x1, y1."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word, or a run of characters without a space (a line of Chinese)."""

    text: str
    box: Box
    line: int = 0
    """Words of one number were written as one line, in reading order."""
    size: float = 0.0
    """Height of the font in points."""
    confidence: float = 1.0
    """Of a recogniser; 1 for text that is in the file."""
    hyphenated: bool = False
    """The word goes on in the next line."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """A drawn line, horizontal or vertical."""

    horizontal: bool
    at: float
    """Its y, or its x when it is vertical."""
    start: float
    end: float


def union(boxes: Iterable[Box]) -> Box:
    """The smallest box around at least one."""
    x0s, y0s, x1s, y1s = zip(*boxes, strict=True)
    return min(x0s), min(y0s), max(x1s), max(y1s)


def both(first: Box, second: Box) -> Box:
    """The smallest box around two."""
    return (
        first[0] if first[0] < second[0] else second[0],
        first[1] if first[1] < second[1] else second[1],
        first[2] if first[2] > second[2] else second[2],
        first[3] if first[3] > second[3] else second[3],
    )


def area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def intersection(first: Box, second: Box) -> float:
    """Area that both cover."""
    return area(
        (max(first[0], second[0]), max(first[1], second[1]), min(first[2], second[2]), min(first[3], second[3]))
    )


def inside(box: Box, outer: Box, slack: float = 0.0) -> bool:
    """Whether the middle of a box lies in another."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return outer[0] - slack <= x <= outer[2] + slack and outer[1] - slack <= y <= outer[3] + slack


def overlap(start: float, end: float, other_start: float, other_end: float) -> float:
    """Share of the shorter of two intervals that lies in the other; 0 when they do not meet."""
    shorter = min(end - start, other_end - other_start)
    return max(0.0, min(end, other_end) - max(start, other_start)) / shorter if shorter > 0 else 0.0


def spans(intervals: Sequence[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    """Intervals joined where less than `gap` lies between them, in order."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if joined and start - joined[-1][1] < gap:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined
