"""Templates in parameter trees: a tree is compiled once and rendered for every execution.

A tree is any JSON value. `compile_tree` finds the strings that are templates; a tree without any renders to itself at
no cost. An absent value leaves its key out, as if it had not been given. Under a key that holds a filter
(`FILTER_KEYS`) the condition is dropped and reported instead, unless it says otherwise (`on_missing`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from mediatheca.kernel.errors import FieldError, ValidationError
from mediatheca.kernel.relaxation import MISSING, Absent, Path, Relaxation, prune
from mediatheca.kernel.sandbox import ALLOWANCE, MAX_SECONDS, Allowance
from mediatheca.kernel.templates import (
    DOCUMENT_NAMES,
    CompiledString,
    DocumentTemplate,
    Partial,
    Scope,
    compile_string,
    is_template,
)

BLANK: Scope = {}
"""The scope in which every template is absent: for checking the rest of a tree."""
FILTER_KEYS = frozenset({"filters", "pre_filters", "post_filters", "conditions", "when"})


class _Node(Protocol):
    def render(self, scope: Scope, relaxations: list[Relaxation]) -> Any: ...


@dataclass(frozen=True, slots=True)
class _String:
    compiled: CompiledString
    place: Path
    strict: bool

    def render(self, scope: Scope, relaxations: list[Relaxation]) -> Any:
        if scope is BLANK:
            return Absent(self.compiled.source)
        try:
            value = self.compiled.render(scope)
        except ValidationError as error:
            raise ValidationError.at(self.place, error.message, "template") from error
        if isinstance(value, Partial):
            return Absent(self.compiled.source) if self.strict else str(value)
        return value


@dataclass(frozen=True, slots=True)
class _Object:
    raw: dict[str, Any]
    parts: tuple[tuple[str, _Node], ...]
    keep: bool

    def render(self, scope: Scope, relaxations: list[Relaxation]) -> Any:
        made = self.raw.copy()
        for key, node in self.parts:
            value = node.render(scope, relaxations)
            if isinstance(value, Absent) and not self.keep:
                del made[key]
            else:
                made[key] = value
        return made


@dataclass(frozen=True, slots=True)
class _Array:
    raw: list[Any]
    parts: tuple[tuple[int, _Node], ...]
    keep: bool

    def render(self, scope: Scope, relaxations: list[Relaxation]) -> Any:
        made = self.raw.copy()
        for index, node in self.parts:
            made[index] = node.render(scope, relaxations)
        return made if self.keep else [value for value in made if not isinstance(value, Absent)]


@dataclass(frozen=True, slots=True)
class _Filter:
    inner: _Node
    place: Path

    def render(self, scope: Scope, relaxations: list[Relaxation]) -> Any:
        try:
            value = prune(self.inner.render(scope, relaxations), self.place, "", relaxations)
        except ValidationError:
            if scope is BLANK:
                return MISSING
            raise
        return MISSING if isinstance(value, Absent) else value


@dataclass(frozen=True)
class CompiledTree:
    """A parameter tree, ready to be rendered."""

    raw: Any
    templated: bool = False
    inputs: frozenset[str] = frozenset()
    """The `INPUT` fields read anywhere in the tree; `*` when one template reads all of them."""
    names: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    """The names of the secrets read anywhere in the tree."""
    places: tuple[Path, ...] = ()
    """Where the templates are."""
    root: _Node | None = field(default=None, repr=False)

    def render(self, scope: Scope, relaxations: list[Relaxation] | None = None) -> Any:
        """The tree with its templates filled in; the tree itself where there are none. Dropped conditions are
        appended to `relaxations`. A root that is absent renders to None.

        Raises:
            ValidationError: at the place of the template that fails.
        """
        if self.root is None:
            return self.raw
        if scope is not BLANK:  # many small templates are as slow as a large one
            scope = {**scope, ALLOWANCE: Allowance(MAX_SECONDS)}
        value = self.root.render(scope, [] if relaxations is None else relaxations)
        return None if isinstance(value, Absent) else value


@dataclass(slots=True)
class _Compiler:
    names: set[str] = field(default_factory=set)
    inputs: set[str] = field(default_factory=set)
    secrets: set[str] = field(default_factory=set)
    places: list[Path] = field(default_factory=list)
    errors: list[FieldError] = field(default_factory=list)

    def node(self, raw: Any, place: Path, keep: bool) -> _Node | None:
        if isinstance(raw, str):
            return self.string(raw, place, keep) if is_template(raw) else None
        if isinstance(raw, dict):
            if keep and raw.get("type") == "dynamic" and isinstance(raw.get("field"), str):
                return self.string("{{" + raw["field"] + "}}", place, keep)
            return self.object(raw, place, keep)
        if isinstance(raw, list):
            found = [(index, self.node(item, (*place, index), keep)) for index, item in enumerate(raw)]
            parts = tuple((index, node) for index, node in found if node is not None)
            return _Array(raw, parts, keep) if parts else None
        return None

    def object(self, raw: dict[str, Any], place: Path, keep: bool) -> _Node | None:
        parts: list[tuple[str, _Node]] = []
        for key, item in raw.items():
            begins = not keep and key in FILTER_KEYS
            node = self.node(item, (*place, key), keep or begins)
            if node is not None:
                parts.append((key, _Filter(node, (*place, key)) if begins else node))
        return _Object(raw, tuple(parts), keep) if parts else None

    def string(self, source: str, place: Path, keep: bool) -> _Node | None:
        try:
            compiled = compile_string(source)
        except ValidationError as error:
            self.errors.append(FieldError(place, error.message, "template"))
            return None
        self.inputs |= compiled.inputs
        self.names |= compiled.names
        self.secrets |= compiled.secrets
        self.places.append(place)
        return None if compiled.names & DOCUMENT_NAMES else _String(compiled, place, keep)


def _marked(raw: Any) -> Any:
    """The tree with its per-document templates as `DocumentTemplate`; the tree itself where there are none."""
    if isinstance(raw, dict):
        fields = {key: _marked(value) for key, value in raw.items()}
        return fields if any(fields[key] is not raw[key] for key in raw) else raw
    if isinstance(raw, list):
        items = [_marked(value) for value in raw]
        return items if any(new is not old for new, old in zip(items, raw, strict=True)) else raw
    if not is_template(raw):
        return raw
    try:
        return DocumentTemplate(raw) if compile_string(raw).names & DOCUMENT_NAMES else raw
    except ValidationError:
        return raw  # reported with its place by the compiler


def compile_tree(raw: Any, place: Path = (), *, is_filter: bool = False) -> CompiledTree:
    """Compile every template of a tree. `is_filter`: the tree itself is a filter.

    Raises:
        ValidationError: every template that is not accepted, with its place.
    """
    compiler = _Compiler()
    raw = _marked(raw)
    root = compiler.node(raw, place, is_filter)
    if compiler.errors:
        raise ValidationError("; ".join(e.msg for e in compiler.errors), compiler.errors)
    if root is not None and is_filter:
        root = _Filter(root, place)
    return CompiledTree(
        raw=raw,
        templated=root is not None,
        inputs=frozenset(compiler.inputs),
        names=frozenset(compiler.names),
        secrets=frozenset(compiler.secrets),
        places=tuple(compiler.places),
        root=root,
    )
