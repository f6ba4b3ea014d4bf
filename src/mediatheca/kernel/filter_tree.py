"""The tree of a filter and what it means.

`Filter.matches` is the one meaning; the compilers of the stores are held to it by property tests. A missing field
matches nothing but satisfies NOT, and a value of another type than the condition's never matches and never fails.

| operator | true when |
|---|---|
| `eq`, `in` | any element equals: strings without case unless `case_sensitive`; numbers across int and float; a number and the string that spells it; two dates of one moment; `null` equals a missing value |
| `ne`, `nin` | not `eq`, not `in`: true for missing fields |
| `gt` `gte` `lt` `lte` | any element: numbers with numbers; with a date only strings that are dates; else strings by code point |
| `contains` | a string has the substring, or an array the element |
| `starts_with` `ends_with` | any string element |
| `regex` | RE2 finds the pattern anywhere in any string element |
| `exists`, `is_null` | the path has a value other than null and the empty array; its opposite |
| `text` | any string element has the substring, always without case |
| `phrase` | the words, one after the other, in any string element |
| `words` | every word, by its English stem, in any one string element |
| `geo_*` | any `{lat, lon}` element lies in the shape |

Identifiers and system fields are always compared with case.
"""  # noqa: E501

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from mediatheca.kernel.filter_checks import checked, compile_regex
from mediatheca.kernel.filter_dates import document_date, filter_date
from mediatheca.kernel.filter_geo import document_point, inside
from mediatheca.kernel.filter_values import Choices, Number, at_path, fold, nodes_at, present, spelled

Test: TypeAlias = Callable[[Mapping[str, Any]], bool]
E = TypeVar("E")

SYSTEM_ALIASES = {
    "root_object_id": "root_object_id",
    "source_object_id": "object_id",
    "created_at": "created_at",
    "updated_at": "updated_at",
}
"""Names at the root that stand for a system field where the payload has no value of its own."""
_WITH_CASE = frozenset({"document_id", "collection_id", "_internal", *SYSTEM_ALIASES})
_WORD = re.compile(r"\w+")
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "gt": lambda found, bound: bool(found > bound),
    "gte": lambda found, bound: bool(found >= bound),
    "lt": lambda found, bound: bool(found < bound),
    "lte": lambda found, bound: bool(found <= bound),
}


MAX_NATIVE_ITEMS = 10_000
"""Longer lists together are not sent to an engine: databases limit the parameters of a statement."""


class Filter:
    """A node of the tree: Leaf, And, Or or Not."""

    def matches(self, view: Mapping[str, Any]) -> bool:
        """Whether a document (see `document_view`) satisfies the filter."""
        raise TypeError("Filter is abstract: use Leaf, And, Or or Not")


@dataclass(frozen=True)
class Leaf(Filter):
    """One condition. The value is checked and made canonical here.

    Raises:
        ValidationError: the operator is unknown or cannot take the value; the message names the field.
    """

    field: str
    operator: str
    value: Any = True
    case_sensitive: bool = False

    def __post_init__(self) -> None:
        operator, value = checked(self.operator, self.value, self.field)
        object.__setattr__(self, "operator", operator)
        object.__setattr__(self, "value", value)
        if self.field.partition(".")[0] in _WITH_CASE:
            object.__setattr__(self, "case_sensitive", True)

    def __reduce__(self) -> tuple[type[Leaf], tuple[Any, ...]]:
        return Leaf, (self.field, self.operator, self.value, self.case_sensitive)

    @functools.cached_property
    def _choices(self) -> Choices:
        values = self.value if self.operator == "in" else (self.value,)
        return Choices.of(values, case_sensitive=self.case_sensitive)

    @functools.cached_property
    def _test(self) -> Test:
        return _test_of(self)

    def matches(self, view: Mapping[str, Any]) -> bool:
        return self._test(view)


@dataclass(frozen=True)
class And(Filter):
    children: tuple[Filter, ...]

    def matches(self, view: Mapping[str, Any]) -> bool:
        return all(child.matches(view) for child in self.children)


@dataclass(frozen=True)
class Or(Filter):
    children: tuple[Filter, ...]

    def matches(self, view: Mapping[str, Any]) -> bool:
        return any(child.matches(view) for child in self.children)


@dataclass(frozen=True)
class Not(Filter):
    child: Filter

    def matches(self, view: Mapping[str, Any]) -> bool:
        return not self.child.matches(view)


def leaves(tree: Filter) -> Iterator[Leaf]:
    """Every condition, left to right."""
    if isinstance(tree, Leaf):
        yield tree
    elif isinstance(tree, Not):
        yield from leaves(tree.child)
    elif isinstance(tree, And | Or):
        for child in tree.children:
            yield from leaves(child)


# ---- the meaning of a condition


def _test_of(leaf: Leaf) -> Test:
    positive, negated = affirmative(leaf)
    test = _affirmative_test(positive)
    return (lambda view: not test(view)) if negated else test


def _affirmative_test(leaf: Leaf) -> Test:
    field = leaf.field
    if leaf.operator == "exists":
        return lambda view: any(present(node) for node in nodes_at(view, field))
    if leaf.operator == "in":
        return _membership(field, choices(leaf))
    if leaf.operator == "contains":
        return _containment(leaf)
    accept = _scalar_test(leaf)
    return lambda view: any(accept(value) for value in at_path(view, field))


def _membership(field: str, wanted: Choices) -> Test:
    def test(view: Mapping[str, Any]) -> bool:
        if any(wanted.accept(value) for value in at_path(view, field)):
            return True
        return wanted.null and not any(present(node) for node in nodes_at(view, field))

    return test


def _containment(leaf: Leaf) -> Test:
    field, wanted = leaf.field, choices(leaf)
    part = leaf.value if isinstance(leaf.value, str) else None
    if part is not None and not leaf.case_sensitive:
        part = fold(part)

    def accept(node: Any) -> bool:
        if isinstance(node, list):
            return any(wanted.accept(value) for value in node)
        return part is not None and isinstance(node, str) and part in (node if leaf.case_sensitive else fold(node))

    return lambda view: any(accept(node) for node in nodes_at(view, field))


def _scalar_test(leaf: Leaf) -> Callable[[Any], bool]:
    operator, wanted = leaf.operator, leaf.value
    if operator in _ORDER:
        return _ordered(operator, Bound.of(leaf))
    if operator.startswith("geo_"):
        return lambda value: (point := document_point(value)) is not None and inside(operator, point, wanted)
    accept = _text_test(leaf)
    return lambda value: isinstance(value, str) and accept(value)


@dataclass(frozen=True, slots=True)
class Bound:
    """The end of a range, for each type of value it can be compared with."""

    number: Number | None = None
    date: int | None = None
    text: str | None = None
    """Folded unless the condition is case-sensitive."""
    case_sensitive: bool = False

    @classmethod
    def of(cls, leaf: Leaf) -> Bound:
        value = leaf.value
        if not isinstance(value, str):
            return cls(number=value)
        moment = filter_date(value)
        if moment is not None:
            return cls(date=moment)
        text = value if leaf.case_sensitive else fold(value)
        return cls(number=spelled(value), text=text, case_sensitive=leaf.case_sensitive)


def _ordered(operator: str, bound: Bound) -> Callable[[Any], bool]:
    compare = _ORDER[operator]

    def accept(value: Any) -> bool:
        if isinstance(value, str):
            if bound.date is not None:
                moment = document_date(value)
                return moment is not None and compare(moment, bound.date)
            return bound.text is not None and compare(value if bound.case_sensitive else fold(value), bound.text)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return bound.number is not None and compare(value, bound.number)

    return accept


def _text_test(leaf: Leaf) -> Callable[[str], bool]:
    operator, wanted = leaf.operator, str(leaf.value)
    if operator == "regex":
        pattern = compile_regex(wanted, leaf.field, case_sensitive=leaf.case_sensitive)
        return lambda value: pattern.search(value) is not None
    if operator == "words":
        stems = frozenset(_stems(wanted))
        return lambda value: bool(stems) and stems.issubset(_stems(value))
    sensitive = leaf.case_sensitive and operator != "text"
    form: Callable[[str], str] = (lambda text: text) if sensitive else fold
    needle = form(wanted)
    if operator == "phrase":
        sequence = words_of(needle)
        return lambda value: _has_sequence(words_of(form(value)), sequence)
    tests: dict[str, Callable[[str], bool]] = {
        "text": lambda value: needle in form(value),
        "starts_with": lambda value: form(value).startswith(needle),
        "ends_with": lambda value: form(value).endswith(needle),
    }
    return tests[operator]


def words_of(text: str) -> list[str]:
    """Runs of letters, digits and underscores."""
    return _WORD.findall(text)


def _has_sequence(words: Sequence[str], sequence: Sequence[str]) -> bool:
    size = len(sequence)
    return size > 0 and any(words[at : at + size] == sequence for at in range(len(words) - size + 1))


@functools.lru_cache(4096)
def _stem(word: str) -> str:
    return str(_stemmer().stemWord(word))


@functools.lru_cache(1)
def _stemmer() -> Any:
    import snowballstemmer

    return snowballstemmer.stemmer("english")


def _stems(text: str) -> Iterator[str]:
    return map(_stem, words_of(fold(text)))


# ---- for compilers


def affirmative(leaf: Leaf) -> tuple[Leaf, bool]:
    """The condition as `exists` (true), `in`, or an operator without a negative form; and whether it is negated."""
    if leaf.operator in ("exists", "is_null"):
        return Leaf(leaf.field, "exists", True, leaf.case_sensitive), leaf.value != (leaf.operator == "exists")
    if leaf.operator in ("eq", "ne"):
        return Leaf(leaf.field, "in", (leaf.value,), leaf.case_sensitive), leaf.operator == "ne"
    if leaf.operator == "nin":
        return Leaf(leaf.field, "in", leaf.value, leaf.case_sensitive), True
    return leaf, False


def choices(leaf: Leaf) -> Choices:
    """The accepted values of an `in` or `contains` condition."""
    return leaf._choices


@dataclass(frozen=True, slots=True)
class Bounds(Generic[E]):
    """What a query language can say of a filter, from above and from below."""

    upper: E | None
    """Selects every match and perhaps more; None: everything."""
    lower: E | None
    """Selects matches only, perhaps not all; None: nothing. The same object as `upper` when that is exact."""

    @property
    def exact(self) -> bool:
        """Whether `upper` selects the matches and nothing else."""
        return self.upper is not None and self.upper is self.lower

    @classmethod
    def of(cls, upper: E | None, exact: bool) -> Bounds[E]:
        return cls(upper, upper if exact else None)


class Algebra(Protocol[E]):
    """How a query language spells logic. `conjunction([])` selects everything, `disjunction([])` nothing."""

    def condition(self, leaf: Leaf) -> Bounds[E]:
        """The bounds of an `affirmative` condition."""

    def conjunction(self, parts: Sequence[E]) -> E: ...

    def disjunction(self, parts: Sequence[E]) -> E: ...

    def negation(self, part: E) -> E: ...


def compile_tree(tree: Filter, algebra: Algebra[E]) -> Bounds[E]:
    """The bounds of a whole filter. Under a NOT the bounds change places, so that it stays narrow."""
    if sum(len(leaf.value) for leaf in leaves(tree) if isinstance(leaf.value, tuple)) > MAX_NATIVE_ITEMS:
        return Bounds(None, None)
    return _Compiler(algebra).compile(tree, negated=False)


@dataclass(frozen=True)
class _Compiler(Generic[E]):
    algebra: Algebra[E]

    def compile(self, tree: Filter, *, negated: bool) -> Bounds[E]:
        if isinstance(tree, Not):
            return self.compile(tree.child, negated=not negated)
        if isinstance(tree, Leaf):
            positive, flipped = affirmative(tree)
            found = self.algebra.condition(positive)
            return found if negated == flipped else self._negated(found)
        if not isinstance(tree, And | Or):
            raise TypeError(f"cannot compile {type(tree).__name__}")
        parts = [self.compile(child, negated=negated) for child in tree.children]
        return self._all(parts) if isinstance(tree, And) != negated else self._any(parts)

    def _negated(self, part: Bounds[E]) -> Bounds[E]:
        upper = None if part.lower is None else self.algebra.negation(part.lower)
        if part.exact:
            return Bounds(upper, upper)
        return Bounds(upper, None if part.upper is None else self.algebra.negation(part.upper))

    def _all(self, parts: Sequence[Bounds[E]]) -> Bounds[E]:
        uppers = [part.upper for part in parts if part.upper is not None]
        upper = self.algebra.conjunction(uppers) if uppers or not parts else None
        if all(part.exact for part in parts):
            return Bounds(upper, upper)
        lowers = [part.lower for part in parts if part.lower is not None]
        return Bounds(upper, self.algebra.conjunction(lowers) if len(lowers) == len(parts) else None)

    def _any(self, parts: Sequence[Bounds[E]]) -> Bounds[E]:
        uppers = [part.upper for part in parts if part.upper is not None]
        upper = self.algebra.disjunction(uppers) if len(uppers) == len(parts) else None
        if all(part.exact for part in parts):
            return Bounds(upper, upper)
        lowers = [part.lower for part in parts if part.lower is not None]
        return Bounds(upper, self.algebra.disjunction(lowers) if lowers else None)
