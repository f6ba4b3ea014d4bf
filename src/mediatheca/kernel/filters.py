"""The filter language: one tree, one meaning, every spelling of the wire.

A missing field matches nothing but satisfies NOT; an unexpected type never fails a query. `Filter.matches` is the
meaning; the compilers in the stores select a superset and say whether it is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mediatheca.kernel import filter_values as values
from mediatheca.kernel.errors import ValidationError

MAX_DEPTH = 10
MAX_LEAVES = 200
MAX_ITEMS = 1000

OPERATORS = (
    "eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "contains", "starts_with", "ends_with", "regex", "exists",
    "is_null", "text", "phrase", "words", "geo_radius", "geo_bounding_box", "geo_polygon",
)  # fmt: skip
_ALIASES = {
    "=": "eq", "==": "eq", "equals": "eq", "match": "eq", "!=": "ne", "<>": "ne", "not_equals": "ne", "neq": "ne",
    ">": "gt", ">=": "gte", "<": "lt", "<=": "lte", "not_in": "nin", "startswith": "starts_with",
    "endswith": "ends_with", "isnull": "is_null", "like": "contains",
}  # fmt: skip
_LOGIC = {
    "and": "and", "or": "or", "not": "not", "must": "and", "should": "or", "must_not": "not",
    "$and": "and", "$or": "or", "$nor": "not", "$not": "not",
}  # fmt: skip


class Filter:
    """A node of the tree."""

    def matches(self, view: Mapping[str, Any]) -> bool:
        """Whether a document (see `document_view`) satisfies the filter."""
        raise TypeError("Filter is abstract: use Leaf, And, Or or Not")


@dataclass(frozen=True, slots=True)
class Leaf(Filter):
    field: str
    operator: str
    value: Any
    case_sensitive: bool = False

    def matches(self, view: Mapping[str, Any]) -> bool:
        found = list(values.at_path(view, self.field))
        return values.test(self.operator, found, self.value, case_sensitive=self.case_sensitive)


@dataclass(frozen=True, slots=True)
class And(Filter):
    children: tuple[Filter, ...]

    def matches(self, view: Mapping[str, Any]) -> bool:
        return all(child.matches(view) for child in self.children)


@dataclass(frozen=True, slots=True)
class Or(Filter):
    children: tuple[Filter, ...]

    def matches(self, view: Mapping[str, Any]) -> bool:
        return any(child.matches(view) for child in self.children)


@dataclass(frozen=True, slots=True)
class Not(Filter):
    child: Filter

    def matches(self, view: Mapping[str, Any]) -> bool:
        return not self.child.matches(view)


def document_view(
    payload: Mapping[str, Any], document_id: str, collection_id: str, system: Mapping[str, Any]
) -> Mapping[str, Any]:
    """What a filter sees of a document: the payload at the root, system fields under `_internal`, and their aliases."""
    return {
        "root_object_id": system.get("root_object_id"),
        "source_object_id": system.get("object_id", system.get("source_object_id")),
        "created_at": system.get("created_at"),
        "updated_at": system.get("updated_at"),
        **payload,
        "document_id": document_id,
        "collection_id": collection_id,
        "_internal": system,
    }


def all_of(*filters: Filter | None) -> Filter | None:
    """The conjunction; None when there is nothing to conjoin."""
    kept = tuple(entry for entry in filters if entry is not None)
    return None if not kept else kept[0] if len(kept) == 1 else And(kept)


def leaves(tree: Filter) -> Iterator[Leaf]:
    """Every leaf, left to right."""
    if isinstance(tree, Leaf):
        yield tree
    elif isinstance(tree, Not):
        yield from leaves(tree.child)
    elif isinstance(tree, And | Or):
        for child in tree.children:
            yield from leaves(child)


def fields_of(tree: Filter) -> set[str]:
    """The dotted paths a filter looks at."""
    return {leaf.field for leaf in leaves(tree)}


def to_wire(tree: Filter) -> dict[str, Any]:
    """The canonical spelling."""
    if isinstance(tree, Leaf):
        leaf = {"field": tree.field, "operator": tree.operator, "value": tree.value}
        return {**leaf, "case_sensitive": True} if tree.case_sensitive else leaf
    if isinstance(tree, Not):
        return {"NOT": [to_wire(tree.child)]}
    assert isinstance(tree, And | Or)
    return {"AND" if isinstance(tree, And) else "OR": [to_wire(child) for child in tree.children]}


def parse_filter(raw: Any, *, case_sensitive: bool = False, path: str = "filters") -> Filter | None:
    """Parse a filter in any spelling; None when it restricts nothing.

    Raises:
        ValidationError: naming the path of what is wrong; deeper than 10, more than 200 leaves or 1,000 items.
    """
    if raw is None or raw == {} or raw == []:
        return None
    parser = _Parser()
    return parser.tree(raw, case_sensitive, path, 1)


class _Parser:
    def __init__(self) -> None:
        self._leaves = 0

    def tree(self, raw: Any, sensitive: bool, path: str, depth: int) -> Filter | None:
        if depth > MAX_DEPTH:
            raise ValidationError.at(path, f"filters may be nested {MAX_DEPTH} deep at most", "filter_depth")
        if isinstance(raw, list):
            return all_of(*(self.tree(entry, sensitive, f"{path}.{n}", depth) for n, entry in enumerate(raw)))
        if not isinstance(raw, Mapping):
            raise ValidationError.at(path, f"must be an object, got {type(raw).__name__}", "filter")
        sensitive = bool(raw.get("case_sensitive", sensitive))
        if "field" in raw or "key" in raw:
            return self._leaf(raw, sensitive, path)
        if "conditions" in raw:
            logic = _LOGIC.get(str(raw.get("operator", "and")).lower())
            if logic is None:
                raise ValidationError.at(f"{path}.operator", f"must be and, or, not; got {raw['operator']!r}", "filter")
            return self._logic(logic, raw["conditions"], sensitive, f"{path}.conditions", depth)
        parts = [
            self._entry(key, value, sensitive, path, depth) for key, value in raw.items() if key != "case_sensitive"
        ]
        return all_of(*parts)

    def _entry(self, key: Any, value: Any, sensitive: bool, path: str, depth: int) -> Filter | None:
        where = f"{path}.{key}"
        logic = _LOGIC.get(str(key).lower())
        if logic is not None:
            return self._logic(logic, value, sensitive, where, depth)
        if isinstance(value, Mapping) and value and all(self._is_operator(name) for name in value):
            return all_of(*(self._make(str(key), name, v, sensitive, f"{where}.{name}") for name, v in value.items()))
        if isinstance(value, Mapping):
            raise ValidationError.at(where, f"'{next(iter(value), '')}' is not an operator; use {', '.join(OPERATORS)}")
        return self._make(str(key), "in" if isinstance(value, list) else "eq", value, sensitive, where)

    @staticmethod
    def _is_operator(name: Any) -> bool:
        plain = str(name).removeprefix("$").lower()
        return plain in OPERATORS or plain in _ALIASES

    def _logic(self, logic: str, raw: Any, sensitive: bool, path: str, depth: int) -> Filter | None:
        entries = raw if isinstance(raw, list) else [raw]
        parsed = [self.tree(entry, sensitive, f"{path}.{n}", depth + 1) for n, entry in enumerate(entries)]
        children = tuple(child for child in parsed if child is not None)
        if not children:
            return None
        if logic == "not":
            return Not(children[0] if len(children) == 1 else Or(children))
        if len(children) == 1:
            return children[0]
        return And(children) if logic == "and" else Or(children)

    def _leaf(self, raw: Mapping[str, Any], sensitive: bool, path: str) -> Filter | None:
        field = raw.get("field", raw.get("key"))
        if not isinstance(field, str) or not field:
            raise ValidationError.at(f"{path}.field", f"must be a field path, got {field!r}", "filter")
        match = raw.get("match")
        if isinstance(match, Mapping):
            return self._make(field, match.get("operator", "eq"), match.get("value"), sensitive, path)
        if isinstance(raw.get("range"), Mapping):
            return all_of(*(self._make(field, name, v, sensitive, path) for name, v in raw["range"].items()))
        return self._make(field, raw.get("operator", "eq"), raw.get("value"), sensitive, path)

    def _make(self, field: str, operator: Any, value: Any, sensitive: bool, path: str) -> Filter:
        self._leaves += 1
        if self._leaves > MAX_LEAVES:
            raise ValidationError.at(path, f"a filter may have {MAX_LEAVES} conditions at most", "filter_size")
        name = str(operator).removeprefix("$").lower()
        name = _ALIASES.get(name, name)
        if name not in OPERATORS:
            raise ValidationError.at(f"{path}.operator", f"'{operator}' is none of: {', '.join(OPERATORS)}", "filter")
        if len(field) > 512:
            raise ValidationError.at(f"{path}.field", "is longer than 512 characters", "filter")
        return Leaf(field, name, _checked(name, value, path), sensitive)


def _checked(operator: str, value: Any, path: str) -> Any:
    """The value in its canonical form, or the reason it cannot be one."""
    where = f"{path}.value"
    if operator in ("in", "nin"):
        items = value if isinstance(value, list) else [value]
        if len(items) > MAX_ITEMS:
            raise ValidationError.at(where, f"may hold {MAX_ITEMS:,} items at most, got {len(items):,}", "filter_size")
        return tuple(items)
    if operator in ("exists", "is_null"):
        return True if value is None else values.as_bool(value, where)
    if operator in ("gt", "gte", "lt", "lte"):
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValidationError.at(where, f"must be a number, a date or a string, got {value!r}", "filter")
        return value
    if operator.startswith("geo_"):
        return values.check_geo(operator, value, where)
    if operator in ("starts_with", "ends_with", "regex", "text", "phrase", "words"):
        if not isinstance(value, str):
            raise ValidationError.at(where, f"must be a string, got {value!r}", "filter")
        if operator == "regex":
            values.compile_regex(value, where)
        return value
    if isinstance(value, list | Mapping) and operator in ("eq", "ne"):
        return value
    return value


def combined(filters: Iterable[Filter | None]) -> Filter | None:
    """`all_of` over an iterable."""
    return all_of(*filters)
