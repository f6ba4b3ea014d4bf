"""Comparing two rankings of the same query. Pure."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any


def overlap(first: Sequence[str], second: Sequence[str], k: int) -> float:
    """Share of the first k that both have; 1 when both are empty."""
    a, b = set(first[:k]), set(second[:k])
    return len(a & b) / max(len(a), len(b)) if a or b else 1.0


def rank_biased_overlap(first: Sequence[str], second: Sequence[str], p: float = 0.9) -> float:
    """How alike two rankings are, 0 to 1, the top counting most: extrapolated RBO.

    `p`: how far down somebody looks; 0.9 puts 86 % of the weight on the first ten. Lists may differ in length and
    content; an id counts at its first place. Source: Webber, Moffat, Zobel (TOIS 2010), equation 32.
    """
    a, b = list(dict.fromkeys(first)), list(dict.fromkeys(second))
    short, long = sorted((a, b), key=len)
    if not long:
        return 1.0
    if not short:
        return 0.0
    s, el = len(short), len(long)
    agreement = _overlaps(short, long)
    total = sum(agreement[d - 1] / d * p**d for d in range(1, el + 1))
    total += sum(agreement[s - 1] * (d - s) / (s * d) * p**d for d in range(s + 1, el + 1))
    rest = ((agreement[el - 1] - agreement[s - 1]) / el + agreement[s - 1] / s) * p**el
    return min(1.0, (1 - p) / p * total + rest)


def _overlaps(short: Sequence[str], long: Sequence[str]) -> list[int]:
    """Size of the overlap at each depth of the longer list."""
    seen_short: set[str] = set()
    seen_long: set[str] = set()
    sizes, size = [], 0
    for depth, ident in enumerate(long):
        other = short[depth] if depth < len(short) else None
        seen_long.add(ident)
        if other is not None:
            seen_short.add(other)
            size += other in seen_long
        if ident != other:
            size += ident in seen_short
        sizes.append(size)
    return sizes


def moves(first: Sequence[str], second: Sequence[str], k: int) -> dict[str, list[dict[str, Any]]]:
    """What stands elsewhere in `second`, among the first k of both: ranks are 1-based, `change` > 0 is upwards.

    The largest moves come first.
    """
    before = {ident: rank for rank, ident in enumerate(dict.fromkeys(first[:k]), start=1)}
    after = {ident: rank for rank, ident in enumerate(dict.fromkeys(second[:k]), start=1)}
    both = [(ident, rank, after[ident]) for ident, rank in before.items() if after.get(ident, rank) != rank]
    both.sort(key=lambda entry: (-abs(entry[1] - entry[2]), entry[2]))
    moved = [{"document_id": i, "rank_a": old, "rank_b": new, "change": old - new} for i, old, new in both]
    gone = [{"document_id": ident, "rank_a": rank} for ident, rank in before.items() if ident not in after]
    new = [{"document_id": ident, "rank_b": rank} for ident, rank in after.items() if ident not in before]
    return {"moved": moved, "only_in_a": gone, "only_in_b": new}


@dataclass(frozen=True, slots=True)
class Draft:
    """An interleaved list, and which documents each side picked."""

    shown: list[str]
    first: set[str]
    second: set[str]


def team_draft(first: Sequence[str], second: Sequence[str], k: int, generator: random.Random) -> Draft:
    """Team-draft interleaving (Radlinski, Kurup, Joachims, CIKM 2008): sides pick in turns, a coin says who begins."""
    shown: list[str] = []
    picked: tuple[set[str], set[str]] = (set(), set())
    queues = (list(dict.fromkeys(first)), list(dict.fromkeys(second)))
    places = [0, 0]
    while len(shown) < k:
        sizes = len(picked[0]), len(picked[1])
        turn = 0 if sizes[0] < sizes[1] or (sizes[0] == sizes[1] and generator.random() < 0.5) else 1
        ident = _next(queues[turn], places, turn, shown)
        if ident is None:
            turn = 1 - turn
            ident = _next(queues[turn], places, turn, shown)
        if ident is None:
            break
        shown.append(ident)
        picked[turn].add(ident)
    return Draft(shown, picked[0], picked[1])


def _next(queue: Sequence[str], places: list[int], turn: int, shown: Collection[str]) -> str | None:
    while places[turn] < len(queue) and queue[places[turn]] in shown:
        places[turn] += 1
    return queue[places[turn]] if places[turn] < len(queue) else None
