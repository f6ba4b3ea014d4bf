"""Forests given as child → parent: checked, put in order, and told as paths. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

MAX_DEPTH = 20
"""Levels of a hierarchy."""
MAX_NODES = 10_000


class HierarchyError(ValueError):
    """The parents make no forest. `nodes` are the offending ones, in the order of the message."""

    def __init__(self, message: str, nodes: Sequence[Hashable] = ()) -> None:
        super().__init__(message)
        self.nodes = list(nodes)


@dataclass(frozen=True, slots=True)
class Forest(Generic[K]):
    """Nodes with at most one parent each, without a circle."""

    parents: Mapping[K, K | None]
    """Node → the one above it, in the order of the forest: parents before children."""
    levels: Mapping[K, int] = field(default_factory=dict)
    """0 for a root."""
    children: Mapping[K | None, tuple[K, ...]] = field(default_factory=dict)
    """Node → those below it; under None the roots."""

    @property
    def roots(self) -> tuple[K, ...]:
        return self.children.get(None, ())

    @property
    def depth(self) -> int:
        """How many levels there are."""
        return 1 + max(self.levels.values(), default=-1)

    def chain(self, node: K) -> list[K]:
        """The nodes from the root to this one."""
        found: list[K] = []
        current: K | None = node
        while current is not None:
            found.append(current)
            current = self.parents[current]
        return found[::-1]


def forest_of(parents: Mapping[K, K | None], *, max_depth: int = MAX_DEPTH, max_nodes: int = MAX_NODES) -> Forest[K]:
    """The forest of a child → parent map; siblings keep the order of the map.

    Raises:
        HierarchyError: no nodes or too many, a parent that is no node, a circle (all of it is named), or too deep.
    """
    if not parents:
        raise HierarchyError("there are no nodes")
    if len(parents) > max_nodes:
        raise HierarchyError(f"there are {len(parents):,} nodes; at most {max_nodes:,}")
    missing = list(dict.fromkeys(parent for parent in parents.values() if parent is not None and parent not in parents))
    if missing:
        raise HierarchyError(f"'{missing[0]}' is named as a parent and is no node", missing)
    children: dict[K | None, list[K]] = {}
    for node, parent in parents.items():
        children.setdefault(parent, []).append(node)
    levels = _levels(children)
    if len(levels) < len(parents):
        circle = _circle(parents, (node for node in parents if node not in levels))
        raise HierarchyError(f"the parents make a circle: {' → '.join(map(str, circle))}", circle)
    depth = 1 + max(levels.values())
    if depth > max_depth:
        deepest = [node for node, level in levels.items() if level + 1 == depth]
        raise HierarchyError(f"there are {depth} levels, down to '{deepest[0]}'; at most {max_depth}", deepest)
    ordered = {node: parents[node] for node in levels}
    return Forest(ordered, levels, {parent: tuple(below) for parent, below in children.items()})


def _levels(children: Mapping[K | None, Sequence[K]]) -> dict[K, int]:
    """Every node that hangs on a root, level by level."""
    levels: dict[K, int] = {}
    row = list(children.get(None, ()))
    level = 0
    while row:
        levels.update((node, level) for node in row)
        row = [child for node in row for child in children.get(node, ())]
        level += 1
    return levels


def _circle(parents: Mapping[K, K | None], hanging: Iterable[K]) -> list[K]:
    """One circle, from the node that stands first in it back to that node."""
    current: K | None = next(iter(hanging))
    seen: dict[K, None] = {}
    while current is not None and current not in seen:
        seen[current] = None
        current = parents[current]
    assert current is not None
    members = list(seen)
    return [*members[members.index(current) :], current]


def path_of(value: object, separator: str) -> tuple[str, ...]:
    """The steps of a path as a document holds it: a text with separators, or a list of texts. Empty: there is none."""
    if isinstance(value, str):
        parts: Iterable[object] = value.split(separator)
    elif isinstance(value, list | tuple):
        parts = value
    else:
        return ()
    steps = [part.strip() for part in parts if isinstance(part, str)]
    return tuple(step for step in steps if step)


def with_prefixes(paths: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[str, ...] | None]:
    """Every path and what lies above it, as a child → parent map."""
    found: dict[tuple[str, ...], tuple[str, ...] | None] = {}
    for path in paths:
        for length in range(1, len(path) + 1):
            found[path[:length]] = path[: length - 1] or None
    return found
