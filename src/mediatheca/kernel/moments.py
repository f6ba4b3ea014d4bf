"""Points and ranges in time merged to moments. Pure. All times are milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Strategy: TypeAlias = Literal["max", "avg", "sum"]


@dataclass(frozen=True, slots=True)
class Span:
    """One match: from where to where, how well, and in which document."""

    start_ms: float
    end_ms: float
    score: float
    document_id: str


@dataclass(slots=True)
class Moment:
    """Matches that lie next to each other."""

    start_ms: float
    end_ms: float
    scores: list[float] = field(default_factory=list)
    document_ids: list[str] = field(default_factory=list)

    def score(self, strategy: Strategy) -> float:
        if strategy == "max":
            return max(self.scores)
        return sum(self.scores) / (len(self.scores) if strategy == "avg" else 1)


def merge(spans: Iterable[Span], tolerance_ms: float) -> list[Moment]:
    """The spans in the order of their start, joined while the next one starts within the tolerance of the end."""
    moments: list[Moment] = []
    for span in sorted(spans, key=lambda span: (span.start_ms, span.end_ms, span.document_id)):
        if not moments or span.start_ms > moments[-1].end_ms + tolerance_ms:
            moments.append(Moment(span.start_ms, span.end_ms))
        moment = moments[-1]
        moment.end_ms = max(moment.end_ms, span.end_ms)
        moment.scores.append(span.score)
        if span.document_id not in moment.document_ids:
            moment.document_ids.append(span.document_id)
    return moments


SHORTEST_MS = 600.0
"""A range of media is hardly ever shorter than this in milliseconds, or longer in seconds."""


def in_seconds(path: str, ranges: Sequence[tuple[float, float]]) -> bool:
    """Whether the times at a path are seconds: by its name, else by their size."""
    name = path.rsplit(".", 1)[-1].lower()
    if name.endswith(("_ms", "_millis", "_milliseconds")):
        return False
    if name.endswith(("_s", "_sec", "_secs", "_seconds")):
        return True
    times = [time for pair in ranges for time in pair]
    if any(time != int(time) for time in times):
        return True
    lengths = sorted(end - start for start, end in ranges if end > start)
    if lengths:
        return lengths[len(lengths) // 2] < SHORTEST_MS
    gaps = sorted(
        later - earlier for earlier, later in zip(sorted(times), sorted(times)[1:], strict=False) if later > earlier
    )
    return bool(gaps) and gaps[0] < SHORTEST_MS / 6
