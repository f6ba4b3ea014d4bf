"""The Leiden algorithm: groups of a graph of nearest neighbours that are well connected inside. Pure Python and NumPy.

Source: Traag, Waltman, van Eck, From Louvain to Leiden (Scientific Reports 2019), algorithm A.2, with the quality
functions of Reichardt and Bornholdt (modularity with a resolution) and the constant Potts model.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mediatheca.kernel.clustering import NOISE, Fit, Matrix, trivial

RANDOMNESS = 0.01
"""θ: how far from greedy the refinement is."""
LEVELS = 50


@dataclass(slots=True)
class _Graph:
    near: list[list[tuple[int, float]]]
    """Node → (neighbour, weight), itself left out."""
    mass: list[float]
    """Node → its weight in the penalty: degree, or number of vectors."""
    penalty: float

    def __len__(self) -> int:
        return len(self.near)


def leiden(
    matrix: Matrix,
    *,
    seed: int,
    resolution: float = 1.0,
    neighbours: int = 30,
    objective: Literal["RBConfiguration", "modularity", "CPM"] = "RBConfiguration",
    iterations: int = 2,
    min_cluster_size: int = 0,
) -> Fit:
    """Groups of the graph of nearest neighbours, weighted by cosine (rows have unit length)."""
    if (done := trivial(matrix)) is not None:
        return done
    chance = random.Random(seed)
    graph = _neighbour_graph(matrix, min(neighbours, len(matrix) - 1), objective, resolution)
    found = list(range(len(graph)))
    for _ in range(max(1, iterations)):
        before = found
        found = _once(graph, found, chance)
        if found == before:
            break
    labels = np.asarray(found, np.int32)
    notes = []
    if min_cluster_size > 1:
        sizes = np.bincount(labels)
        small = sizes[labels] < min_cluster_size
        labels = np.where(small, NOISE, labels).astype(np.int32)
        notes = (
            [f"{int(small.sum())} vectors in groups of less than {min_cluster_size} are noise"] if small.any() else []
        )
    return Fit(labels, None, notes)


def _neighbour_graph(matrix: Matrix, neighbours: int, objective: str, resolution: float) -> _Graph:
    from sklearn.neighbors import NearestNeighbors

    found, near = NearestNeighbors(n_neighbors=neighbours + 1, algorithm="brute").fit(matrix).kneighbors(matrix)
    edges: list[dict[int, float]] = [{} for _ in range(len(matrix))]
    for node, (others, distances) in enumerate(zip(near.tolist(), found.tolist(), strict=True)):
        for other, distance in zip(others, distances, strict=True):
            if other != node:
                weight = max(1.0 - distance * distance / 2.0, 1e-6)
                edges[node][other] = edges[other][node] = weight
    adjacency = [list(own.items()) for own in edges]
    degrees = [sum(weight for _, weight in own) for own in adjacency]
    if objective == "CPM":
        return _Graph(adjacency, [1.0] * len(adjacency), resolution)
    gamma = 1.0 if objective == "modularity" else resolution
    return _Graph(adjacency, degrees, gamma / max(sum(degrees), 1e-12))


def _once(graph: _Graph, found: list[int], chance: random.Random) -> list[int]:
    """Move, refine, make every refined group one node; until nothing moves."""
    members, level, groups = list(range(len(found))), graph, _compact(found)
    for _ in range(LEVELS):
        groups = _compact(_moved(level, groups, chance))
        if len(set(groups)) == len(level):
            break
        refined = _compact(_refined(level, groups, chance))
        if len(set(refined)) == len(level):  # nothing can be joined: the groups of this level are the end
            break
        level, groups = _aggregated(level, refined, groups)
        members = [refined[node] for node in members]
    return _compact([groups[node] for node in members])


def _compact(groups: list[int]) -> list[int]:
    names: dict[int, int] = {}
    return [names.setdefault(group, len(names)) for group in groups]


def _moved(graph: _Graph, groups: list[int], chance: random.Random) -> list[int]:
    """Fast local moving: every node to the group that gains most, its neighbours looked at again when it moves."""
    groups = list(groups)
    mass: dict[int, float] = {}
    for node, group in enumerate(groups):
        mass[group] = mass.get(group, 0.0) + graph.mass[node]
    order = list(range(len(graph)))
    chance.shuffle(order)
    waiting, queued = deque(order), [True] * len(graph)
    free = len(graph)
    while waiting:
        node = waiting.popleft()
        queued[node] = False
        links: dict[int, float] = {}
        for other, weight in graph.near[node]:
            links[groups[other]] = links.get(groups[other], 0.0) + weight
        own, weight_of = groups[node], graph.mass[node] * graph.penalty
        mass[own] -= graph.mass[node]
        best, gain = own, links.get(own, 0.0) - weight_of * mass[own]
        for group, linked in links.items():
            value = linked - weight_of * mass[group]
            if value > gain + 1e-12:
                best, gain = group, value
        if gain < -1e-12:  # better alone
            best, free = free, free + 1
        mass[best] = mass.get(best, 0.0) + graph.mass[node]
        if best != own:
            groups[node] = best
            for other, _ in graph.near[node]:
                if not queued[other] and groups[other] != best:
                    queued[other] = True
                    waiting.append(other)
    return groups


def _refined(graph: _Graph, groups: list[int], chance: random.Random) -> list[int]:
    """Inside every group, single nodes join well-connected ones: the result may be finer than the groups."""
    refined = list(range(len(graph)))
    mass, total = list(graph.mass), [0.0] * len(graph)
    for node, group in enumerate(groups):
        total[group] += graph.mass[node]
    outward = [sum(w for other, w in graph.near[node] if groups[other] == groups[node]) for node in range(len(graph))]
    alone = [True] * len(graph)
    order = list(range(len(graph)))
    chance.shuffle(order)
    for node in order:
        whole = total[groups[node]]
        own = graph.mass[node]
        if not alone[node] or outward[node] < graph.penalty * own * (whole - own) - 1e-12:
            continue
        links: dict[int, float] = {}
        for other, weight in graph.near[node]:
            if groups[other] == groups[node]:
                links[refined[other]] = links.get(refined[other], 0.0) + weight
        options = [(node, 0.0)]
        for group, linked in links.items():
            connected = outward[group] >= graph.penalty * mass[group] * (whole - mass[group]) - 1e-12
            gain = linked - graph.penalty * own * mass[group]
            if group != node and connected and gain >= 0:
                options.append((group, gain))
        chosen = _drawn(options, chance)
        if chosen != node:
            refined[node] = chosen
            mass[chosen] += own
            outward[chosen] += outward[node] - 2.0 * links[chosen]
            alone[node] = alone[chosen] = False
    return refined


def _drawn(options: list[tuple[int, float]], chance: random.Random) -> int:
    """One of (group, gain), with a probability that grows with exp(gain / θ)."""
    top = max(gain for _, gain in options)
    weights = [math.exp((gain - top) / RANDOMNESS) for _, gain in options]
    return chance.choices([group for group, _ in options], weights)[0]


def _aggregated(graph: _Graph, refined: list[int], groups: list[int]) -> tuple[_Graph, list[int]]:
    """The graph whose nodes are the refined groups, and the group that each of them lies in."""
    count = max(refined) + 1
    links: list[dict[int, float]] = [{} for _ in range(count)]
    mass, above = [0.0] * count, [0] * count
    for node, own in enumerate(refined):
        mass[own] += graph.mass[node]
        above[own] = groups[node]
        for other, weight in graph.near[node]:
            target = refined[other]
            if target != own:
                links[own][target] = links[own].get(target, 0.0) + weight
    return _Graph([list(own.items()) for own in links], mass, graph.penalty), above
