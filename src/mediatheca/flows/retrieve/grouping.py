"""The final results of an execution in groups of one field's value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mediatheca.flows.retrieve.request import GroupBy
from mediatheca.kernel.ordering import parse_sort, read_field, sort_hits
from mediatheca.kernel.search import Hit


def group_hits(hits: Iterable[Hit], group: GroupBy) -> list[tuple[Any, list[Hit]]]:
    """Groups in the order of their best hit; at most `max_features` of each, sorted inside where asked."""
    groups: dict[str, tuple[Any, list[Hit]]] = {}
    for hit in hits:
        value = read_field(hit, group.field)
        groups.setdefault(repr(value), (value, []))[1].append(hit)
    keys = parse_sort(group.sort, "group_by.sort")
    return [(value, sort_hits(found, keys)[: group.max_features]) for value, found in groups.values()]
