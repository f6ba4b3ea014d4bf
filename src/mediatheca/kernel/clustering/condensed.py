"""The condensed tree of HDBSCAN: which regions persist, and which of them are the groups. Pure.

Walking down a dendrogram, a split of which only one side has `smallest` points is that side losing points; a split of
which both have is two new regions. λ is 1 / distance.
Source: Campello, Moulavi, Sander (PAKDD 2013); selection by `epsilon`: Malzer, Baum (2020).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.clustering import NOISE, Floats, Labels

ROOT = 0


@dataclass(slots=True)
class Condensed:
    """Regions numbered from 0, the root; a child has a higher number than its parent."""

    parent: list[int]
    birth: list[float]
    size: list[int]
    left_region: npt.NDArray[np.int64]
    """Point → the region it fell out of."""
    left_at: npt.NDArray[np.float64]
    """Point → the λ at which it did."""
    children: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Selection:
    method: Literal["eom", "leaf"] = "eom"
    epsilon: float = 0.0
    allow_single: bool = False
    max_size: int | None = None


@dataclass(frozen=True, slots=True)
class Selected:
    labels: Labels
    probabilities: Floats


def condense(left: list[int], right: list[int], distance: list[float], sizes: list[int], *, smallest: int) -> Condensed:
    """The condensed tree of a dendrogram as `single_linkage` gives it."""
    points = len(left) + 1
    order, first = _leaves(left, right, sizes, points)
    tree = Condensed([-1], [0.0], [points], np.zeros(points, np.int64), np.zeros(points), [[]])
    waiting = [(2 * points - 2, ROOT)]
    while waiting:
        node, region = waiting.pop()
        merge = node - points
        at = 1.0 / distance[merge] if distance[merge] > 0 else np.inf
        sides = (left[merge], right[merge])
        big = [side for side in sides if sizes[side] >= smallest]
        for side in sides:
            if side not in big:
                fallen = order[first[side] : first[side] + sizes[side]]
                tree.left_region[fallen], tree.left_at[fallen] = region, at
            elif len(big) == 1:
                _follow(tree, waiting, side, region, at, points)
            else:
                _follow(tree, waiting, side, _born(tree, region, at, sizes[side]), at, points)
    return tree


def _follow(tree: Condensed, waiting: list[tuple[int, int]], side: int, region: int, at: float, points: int) -> None:
    if side >= points:
        waiting.append((side, region))
    else:  # only where a group may be a single point
        tree.left_region[side], tree.left_at[side] = region, at


def _born(tree: Condensed, parent: int, at: float, size: int) -> int:
    made = len(tree.parent)
    tree.parent.append(parent)
    tree.birth.append(at)
    tree.size.append(size)
    tree.children.append([])
    tree.children[parent].append(made)
    return made


def _leaves(
    left: list[int], right: list[int], sizes: list[int], points: int
) -> tuple[npt.NDArray[np.int64], list[int]]:
    """Points in the order of the dendrogram, and where the points of every node begin in it."""
    first = [0] * (2 * points - 1)
    order = np.zeros(points, np.int64)
    for merge in range(points - 2, -1, -1):
        begin = first[points + merge]
        first[left[merge]] = begin
        first[right[merge]] = begin + sizes[left[merge]]
    for point in range(points):
        order[first[point]] = point
    return order, first


def select(tree: Condensed, by: Selection) -> Selected:
    """The groups: regions of the largest excess of mass, or the leaves."""
    chosen = _leaf_regions(tree) if by.method == "leaf" else _most_stable(tree, by)
    if by.epsilon > 0:
        chosen = _not_below(tree, chosen, by)
    if by.method == "leaf" and not chosen and by.allow_single:
        chosen = {ROOT}
    return _label(tree, chosen, by)


def _stabilities(tree: Condensed) -> list[float]:
    births = np.array(tree.birth)
    at = np.minimum(tree.left_at, np.finfo(np.float64).max / (len(tree.left_at) + 1))
    found = np.bincount(tree.left_region, weights=at - births[tree.left_region], minlength=len(births))
    for region in range(1, len(births)):
        parent = tree.parent[region]
        found[parent] += (births[region] - births[parent]) * tree.size[region]
    return [float(value) for value in found]


def _most_stable(tree: Condensed, by: Selection) -> set[int]:
    stability = _stabilities(tree)
    chosen: set[int] = set()
    for region in range(len(tree.parent) - 1, -1, -1):
        if region == ROOT and not by.allow_single:
            continue
        below = sum(stability[child] for child in tree.children[region])
        too_large = by.max_size is not None and tree.size[region] > by.max_size
        if tree.children[region] and (below > stability[region] or too_large):
            stability[region] = below
        elif not too_large or not tree.children[region]:
            chosen -= _under(tree, region)
            chosen.add(region)
    return chosen


def _under(tree: Condensed, region: int) -> set[int]:
    found, waiting = set(), list(tree.children[region])
    while waiting:
        child = waiting.pop()
        found.add(child)
        waiting += tree.children[child]
    return found


def _leaf_regions(tree: Condensed) -> set[int]:
    return {region for region in range(1, len(tree.parent)) if not tree.children[region]}


def _not_below(tree: Condensed, chosen: set[int], by: Selection) -> set[int]:
    """Regions born below the distance `epsilon` give way to their nearest ancestor born above it."""
    found: set[int] = set()
    for region in sorted(chosen):
        while region != ROOT and 1.0 / tree.birth[region] < by.epsilon:
            parent = tree.parent[region]
            if parent == ROOT and not by.allow_single:
                break
            region = parent
        found.add(region)
    return {region for region in found if not any(region in _under(tree, other) for other in found - {region})}


def _label(tree: Condensed, chosen: set[int], by: Selection) -> Selected:
    numbers = {region: number for number, region in enumerate(sorted(chosen))}
    owner = np.full(len(tree.parent), NOISE, np.int64)
    for region in range(len(tree.parent)):
        above = owner[tree.parent[region]] if region else NOISE
        owner[region] = numbers.get(region, above)
    labels = owner[tree.left_region]
    if chosen == {ROOT}:  # what left before the first split, or below epsilon, is noise around the one group
        births = [tree.birth[child] for child in tree.children[ROOT]]
        least = 1.0 / by.epsilon if by.epsilon > 0 else max(births, default=0.0)
        labels = np.where(tree.left_at >= least, labels, NOISE)
    finite = np.isfinite(tree.left_at)
    at = np.where(finite, tree.left_at, tree.left_at[finite].max() if finite.any() else 1.0)
    probabilities = np.zeros(len(labels), np.float32)
    for number in numbers.values():
        own = labels == number
        top = float(at[own].max()) if own.any() else 0.0
        probabilities[own] = at[own] / top if top > 0 else 1.0
    return Selected(labels.astype(np.int32), probabilities)
