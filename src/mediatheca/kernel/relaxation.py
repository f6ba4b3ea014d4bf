"""Conditions whose input was not given: dropped from a filter, and reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from mediatheca.kernel.errors import ValidationError

Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Absent:
    """The value of a template whose input was not given. `template` is its text."""

    template: str = ""

    def __bool__(self) -> bool:
        return False


MISSING = Absent()


@dataclass(frozen=True, slots=True)
class Relaxation:
    """A condition that was dropped because the input it needs was not given: the result is broader."""

    field: str
    template: str
    place: str

    def as_dict(self) -> dict[str, str]:
        return {"field": self.field, "template": self.template, "place": self.place}


def prune(value: Any, place: Path, name: str, relaxations: list[Relaxation]) -> Any:
    """Drop the conditions of a filter whose value is absent; a branch that loses all of them is absent itself."""
    if isinstance(value, Absent):
        relaxations.append(Relaxation(name, value.template, ".".join(map(str, place))))
        return value
    if isinstance(value, list):
        kept = [prune(item, (*place, index), name, relaxations) for index, item in enumerate(value)]
        kept = [item for item in kept if not isinstance(item, Absent)]
        return kept if kept or not value else MISSING
    if isinstance(value, dict):
        return _prune_object(value, place, name, relaxations)
    return value


def _prune_object(value: dict[str, Any], place: Path, name: str, relaxations: list[Relaxation]) -> Any:
    if "field" in value or "key" in value:
        return _prune_leaf(value, place, relaxations)
    kept = {}
    for key, item in value.items():
        label = key if key.upper() not in ("AND", "OR", "NOT") and not key.startswith("$") else name
        pruned = prune(item, (*place, key), label, relaxations)
        if not isinstance(pruned, Absent):
            kept[key] = pruned
    return kept if kept or not value else MISSING


def _prune_leaf(value: dict[str, Any], place: Path, relaxations: list[Relaxation]) -> Any:
    """One condition. `on_missing` decides what an absent value does: drop it (default), match nothing, or fail."""
    policy = value.get("on_missing", "drop")
    leaf = {key: item for key, item in value.items() if key != "on_missing"}
    name = str(leaf.get("field", leaf.get("key")))
    found: list[Relaxation] = []
    pruned = {key: prune(item, (*place, key), name, found) for key, item in leaf.items()}
    if not any(isinstance(item, Absent) for item in pruned.values()):
        relaxations.extend(found)
        return pruned
    if policy == "error":
        raise ValidationError.at(place, f"the filter on '{name}' needs {found[0].template}, which was not given")
    if policy == "match_none":
        return {"field": "document_id", "operator": "in", "value": []}
    relaxations.extend(found)
    return MISSING
