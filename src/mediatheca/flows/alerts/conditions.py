"""Whether what an evaluation found is a hit: `trigger_on`, `min_count`, `threshold`. Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from mediatheca.flows.alerts.matches import Match
from mediatheca.kernel.filter_values import spelled
from mediatheca.kernel.ordering import read_field

OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le,
}  # fmt: skip
COUNT = ("match_count", "count")
SCORE = ("score", "raw_score")


def is_hit(body: Mapping[str, Any], matches: list[Match]) -> tuple[bool, str]:
    """Whether the alert with this body is hit by these matches, best first, and why or why not."""
    if body.get("trigger_on") == "no_results":
        return (not matches), ("nothing was found" if not matches else f"{_documents(matches)} found")
    least = int(body.get("min_count") or 1)
    if len(matches) < least:
        return False, f"{_documents(matches)} matched, {least} {'is' if least == 1 else 'are'} needed"
    threshold = body.get("threshold")
    if not threshold:
        return True, f"{_documents(matches)} matched"
    name, how = str(threshold.get("field")), str(threshold.get("operator"))
    value = value_of(name, matches)
    held = compare(value, how, threshold.get("value"))
    return (
        held,
        f"{name} of the best match is {value!r}, {how} {threshold.get('value')!r} {'holds' if held else 'does not'}",
    )


def _documents(matches: list[Match]) -> str:
    return f"{len(matches)} document{'' if len(matches) == 1 else 's'}"


def value_of(name: str, matches: list[Match]) -> Any:
    """What a threshold looks at: a field of the best match, its score, or how many there are."""
    if name in COUNT:
        return len(matches)
    best = matches[0]
    return best.score if name in SCORE else read_field(best.hit, name.removeprefix("metadata."))


def compare(value: Any, how: str, bound: Any) -> bool:
    """Numbers with numbers, texts with texts; what does not compare is only `ne`."""
    left, right = _number(value), _number(bound)
    if left is None or right is None:
        left, right = value, bound
    try:
        return bool(OPERATORS[how](left, right))
    except TypeError:
        return False


def _number(value: Any) -> int | float | None:
    if isinstance(value, str):
        return spelled(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
