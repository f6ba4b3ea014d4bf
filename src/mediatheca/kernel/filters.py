"""The filter language: one tree, one meaning, every spelling of the wire.

Accepted spellings, at any level and mixed:

* logic: `{"AND": [...], "OR": [...], "NOT": [...]}` in any case, with or without `$`;
  `{"operator": "and", "conditions": [...]}`; `{"must": [...], "should": [...], "must_not": [...]}`. A NOT of a list:
  none of them may hold. An empty branch restricts nothing;
* conditions: `{"field", "operator" (default eq), "value"}`; `{"key", "match": {...}}` and `{"key", "range": {...}}`;
* short: `{"field": value}` is eq, with a list in; `{"field": {"gte": 1, "$lt": 5}}`. Several keys are AND-ed.

`case_sensitive` beside any of them holds for everything below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filter_checks import MAX_ITEMS, OPERATORS, checked, operator_name, unknown_operator
from mediatheca.kernel.filter_tree import SYSTEM_ALIASES, And, Filter, Leaf, Not, Or, leaves
from mediatheca.kernel.filter_values import present

__all__ = [
    "MAX_DEPTH", "MAX_ITEMS", "MAX_LEAVES", "OPERATORS", "And", "Filter", "Leaf", "Not", "Or", "all_of",
    "document_view", "empty_branches", "fields_of", "leaves", "parse_filter", "to_wire", "written_fields",
]  # fmt: skip

MAX_DEPTH = 10
"""Levels, the conditions being the last."""
MAX_LEAVES = 200
MAX_FIELD = 512

_LOGIC = {
    "and": "and", "or": "or", "not": "not", "$and": "and", "$or": "or", "$not": "not", "$nor": "not",
    "must": "and", "should": "or", "must_not": "not",
}  # fmt: skip
_LEAF_KEYS = frozenset(
    {"operator", "op", "value", "values", "match", "range", "geo_radius", "geo_bounding_box", "geo_polygon"}
)
_EMPTY_CHECKS = {"is_empty": "is_null", "is_null": "is_null"}


def document_view(
    payload: Mapping[str, Any],
    document_id: str,
    collection_id: str,
    system: Mapping[str, Any],
    score: float | None = None,
) -> Mapping[str, Any]:
    """What a filter sees of a document.

    The payload at the root; `document_id`, `collection_id` and `score`; system fields under `_internal`; and
    `root_object_id`, `source_object_id`, `created_at`, `updated_at` where the payload has no value of that name.
    """
    view = dict(payload)
    for name, field in SYSTEM_ALIASES.items():
        if not present(view.get(name)):
            view[name] = system.get(field)
    view.update(document_id=document_id, collection_id=collection_id, _internal=system)
    if score is not None:
        view.update(score=score, _score=score)
    return view


def all_of(*filters: Filter | None) -> Filter | None:
    """The conjunction; None when there is nothing to conjoin."""
    kept = tuple(entry for entry in filters if entry is not None)
    if len(kept) < 2:
        return kept[0] if kept else None
    return And(kept)


def fields_of(filter: Filter) -> set[str]:
    """The dotted paths a filter looks at."""
    return {leaf.field for leaf in leaves(filter)}


def written_fields(raw: Any) -> set[str]:
    """The dotted paths that a filter in any spelling looks at, templates still in it."""
    if isinstance(raw, Filter):
        return fields_of(raw)
    if isinstance(raw, list | tuple):
        return {name for entry in raw for name in written_fields(entry)}
    if not isinstance(raw, Mapping):
        return set()
    if _is_leaf(raw):
        return {name for name in (raw.get("field", raw.get("key")),) if isinstance(name, str)}
    found: set[str] = set()
    for key, value in raw.items():
        if key == "conditions" or str(key).lower() in _LOGIC:
            found |= written_fields(value)
        elif isinstance(key, str) and key not in ("case_sensitive", "operator", "logic"):
            found.add(key)
    return found


def empty_branches(raw: Any, path: str) -> list[str]:
    """Where an OR of a filter, as it was written, has a branch without a condition: it then restricts nothing."""
    if isinstance(raw, list | tuple):
        return [place for at, entry in enumerate(raw) for place in empty_branches(entry, f"{path}.{at}")]
    if not isinstance(raw, Mapping) or _is_leaf(raw):
        return []
    found = []
    for key, value in raw.items():
        logic = _logic_of(raw, key)
        if logic is not None:
            found += empty_branches(value, f"{path}.{key}")
        branches = value if isinstance(value, list | tuple) else [value]
        if logic == "or" and (not branches or any(map(_is_empty, branches))):
            found.append(f"{path}.{key}")
    return found


def _logic_of(raw: Mapping[str, Any], key: Any) -> str | None:
    named = raw.get("operator", raw.get("logic", "and")) if key == "conditions" else key
    return _LOGIC.get(str(named).lower())


def _is_empty(raw: Any) -> bool:
    if isinstance(raw, list | tuple):
        return all(map(_is_empty, raw))
    rest = {key: value for key, value in raw.items() if key != "case_sensitive"} if isinstance(raw, Mapping) else None
    return rest is not None and all(_logic_of(rest, key) and _is_empty(value) for key, value in rest.items())


def to_wire(filter: Filter) -> dict[str, Any]:
    """The canonical spelling; `parse_filter` reads it back."""
    if isinstance(filter, Leaf):
        value = list(filter.value) if isinstance(filter.value, tuple) else filter.value
        wire = {"field": filter.field, "operator": filter.operator, "value": value}
        return {**wire, "case_sensitive": True} if filter.case_sensitive else wire
    if isinstance(filter, Not):
        return {"NOT": [to_wire(filter.child)]}
    if not isinstance(filter, And | Or):
        raise TypeError(f"cannot spell {type(filter).__name__}")
    return {"AND" if isinstance(filter, And) else "OR": [to_wire(child) for child in filter.children]}


def parse_filter(raw: Any, *, case_sensitive: bool = False, path: str = "filters") -> Filter | None:
    """Parse a filter in any spelling; None when it restricts nothing. Templates must have been rendered.

    Raises:
        ValidationError: naming the path of what is wrong; deeper than 10 levels, more than 200 conditions or
            1,000 items in a list.
    """
    if isinstance(raw, Filter):
        return raw
    return None if raw is None else _Parser().tree(raw, case_sensitive, path, 0)


class _Parser:
    """Counts the conditions of one filter while it reads it."""

    def __init__(self) -> None:
        self._leaves = 0

    def tree(self, raw: Any, sensitive: bool, path: str, depth: int) -> Filter | None:
        if isinstance(raw, list | tuple):
            return self._logic("and", raw, sensitive, path, depth)
        if not isinstance(raw, Mapping):
            raise ValidationError.at(path, f"must be an object, got {type(raw).__name__} {str(raw)[:100]!r}", "filter")
        if "case_sensitive" in raw:
            sensitive = _sensitivity(raw["case_sensitive"], path)
            raw = {key: value for key, value in raw.items() if key != "case_sensitive"}
        if _is_leaf(raw):
            return self._leaf(raw, sensitive, path)
        if isinstance(raw.get("conditions"), list | tuple | Mapping):
            return self._conditions(raw, sensitive, path, depth)
        return all_of(*(self._entry(key, value, sensitive, path, depth) for key, value in raw.items()))

    def _conditions(self, raw: Mapping[str, Any], sensitive: bool, path: str, depth: int) -> Filter | None:
        given = raw.get("operator", raw.get("logic", "and"))
        logic = _LOGIC.get(str(given).lower())
        if logic is None:
            raise ValidationError.at(f"{path}.operator", f"must be and, or, not; got {str(given)[:100]!r}", "filter")
        rest = {key: value for key, value in raw.items() if key not in ("operator", "logic", "conditions")}
        conditions = self._logic(logic, raw["conditions"], sensitive, f"{path}.conditions", depth)
        return all_of(conditions, self.tree(rest, sensitive, path, depth) if rest else None)

    def _entry(self, key: Any, value: Any, sensitive: bool, path: str, depth: int) -> Filter | None:
        where = f"{path}.{key}"
        if not isinstance(key, str):
            raise ValidationError.at(where, "keys must be strings", "filter")
        logic = _LOGIC.get(key.lower())
        if logic is not None:
            return self._logic(logic, value, sensitive, where, depth)
        if key in _EMPTY_CHECKS and isinstance(value, Mapping) and isinstance(value.get("key"), str):
            return self._make(value["key"], _EMPTY_CHECKS[key], True, sensitive, where)
        if isinstance(value, Mapping):
            return self._operators(key, value, sensitive, where)
        return self._make(key, "in" if isinstance(value, list | tuple) else "eq", value, sensitive, where)

    def _operators(self, field: str, raw: Mapping[str, Any], sensitive: bool, path: str) -> Filter | None:
        """`{"gte": 1, "$lt": 5}`."""
        for name in raw:
            if operator_name(name) is None:
                raise unknown_operator(name, f"{path}.{name}")
        if not raw:
            raise ValidationError.at(path, "needs a value or operators with values, got {}", "filter")
        return all_of(*(self._make(field, name, value, sensitive, f"{path}.{name}") for name, value in raw.items()))

    def _logic(self, logic: str, raw: Any, sensitive: bool, path: str, depth: int) -> Filter | None:
        if depth >= MAX_DEPTH - 1:
            raise ValidationError.at(path, f"is nested deeper than {MAX_DEPTH} levels", "filter_depth")
        single = not isinstance(raw, list | tuple)
        entries: Sequence[Any] = [raw] if single else raw
        children = [
            self.tree(entry, sensitive, path if single else f"{path}.{at}", depth + 1)
            for at, entry in enumerate(entries)
        ]
        kept = tuple(child for child in children if child is not None)
        if not kept or (logic == "or" and len(kept) < len(children)):
            return None  # an empty branch is true
        if logic == "not":
            return Not(kept[0] if len(kept) == 1 else Or(kept))
        if len(kept) == 1:
            return kept[0]
        return And(kept) if logic == "and" else Or(kept)

    def _leaf(self, raw: Mapping[str, Any], sensitive: bool, path: str) -> Filter | None:
        field = raw.get("field", raw.get("key"))
        if not isinstance(field, str):
            raise ValidationError.at(f"{path}.field", f"must be a dotted path, got {str(field)[:100]!r}", "filter")
        match = raw.get("match")
        if isinstance(match, Mapping):
            if "operator" in match:
                return self._make(field, match["operator"], _value_of(match, path), sensitive, f"{path}.match")
            named = {"eq" if name == "value" else name: value for name, value in match.items()}
            return self._operators(field, named, sensitive, f"{path}.match")
        if isinstance(raw.get("range"), Mapping):
            bounds = {name: value for name, value in raw["range"].items() if value is not None}
            return self._operators(field, bounds, sensitive, f"{path}.range")
        for shape in ("geo_radius", "geo_bounding_box", "geo_polygon"):
            if shape in raw:
                return self._make(field, shape, raw[shape], sensitive, f"{path}.{shape}")
        operator = raw.get("operator", raw.get("op", "eq"))
        if operator_name(operator) is None:
            raise unknown_operator(operator, f"{path}.operator")
        return self._make(field, operator, _value_of(raw, path, operator), sensitive, f"{path}.value")

    def _make(self, field: str, operator: Any, value: Any, sensitive: bool, path: str) -> Filter:
        self._leaves += 1
        if self._leaves > MAX_LEAVES:
            raise ValidationError.at(
                path, f"is condition {self._leaves}, at most {MAX_LEAVES} are accepted", "filter_size"
            )
        field = field.replace("[]", "")  # `items[].name`: arrays mean any element without saying so
        if not field.strip(".") or len(field) > MAX_FIELD or not _utf8(field):
            raise ValidationError.at(path, f"the field must be a path of 1 to {MAX_FIELD} characters", "filter")
        name, value = checked(operator, value, path)
        return Leaf(field, name, value, sensitive)


def _is_leaf(raw: Mapping[str, Any]) -> bool:
    if "field" in raw:
        return isinstance(raw["field"], str) or not _LEAF_KEYS.isdisjoint(raw)
    return "key" in raw and not _LEAF_KEYS.isdisjoint(raw)


def _value_of(raw: Mapping[str, Any], path: str, operator: Any = "eq") -> Any:
    for name in ("value", "values"):
        if name in raw:
            return raw[name]
    if operator_name(operator) in ("exists", "is_null"):
        return True
    raise ValidationError.at(f"{path}.value", "is required: the value to compare the field with", "missing")


def _sensitivity(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise ValidationError.at(f"{path}.case_sensitive", f"must be true or false, got {str(value)[:100]!r}", "filter")
    return value


def _utf8(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)
