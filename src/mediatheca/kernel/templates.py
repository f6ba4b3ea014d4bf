"""`{{INPUT.x}}` templates in parameter trees: compiled once, rendered in microseconds.

A tree is any JSON value. `compile_tree` finds the strings that are templates; a tree without any renders to itself at
no cost. A string that is exactly one expression keeps the native type of its value; text around it makes a string.
An absent value is `MISSING`: its key is left out, as if it had not been given. Under a key that holds a filter
(`FILTER_KEYS`) the condition is dropped and reported instead, unless it says otherwise (`on_missing`).
Output is never parsed again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from time import monotonic
from typing import Any, Protocol, TypeAlias

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError

from mediatheca.kernel.errors import FieldError, ValidationError
from mediatheca.kernel.relaxation import MISSING, Absent, Path, Relaxation, prune
from mediatheca.kernel.sandbox import (
    ALLOWANCE,
    BUDGET,
    MAX_SECONDS,
    MAX_TEMPLATE,
    NAMESPACES,
    Allowance,
    Budget,
    Missing,
    guard,
    make_environment,
    plain,
)
from mediatheca.kernel.template_functions import MAX_OUTPUT, check_size

Scope: TypeAlias = Mapping[str, Any]
"""`INPUT`, `CONTEXT`, `STAGE`, `SECRET` (and per document `DOC`) → what they hold."""

BLANK: Scope = {}
"""The scope in which every template is absent: for checking the rest of a tree."""
EXECUTION_NAMES = frozenset({"INPUT", "CONTEXT", "STAGE", "SECRET"})
DOCUMENT_NAMES = frozenset(
    {"DOC", "INDEX", "CITATION", "DOCUMENTS", "DOC_COUNT", "GROUP_VALUE", "QUERY", "NUM_EXPANSIONS"}
)
"""Names a stage fills in itself, per document: a string that uses one is left for it."""
FILTER_KEYS = frozenset({"filters", "pre_filters", "post_filters", "conditions", "when"})
_TEMPLATE = re.compile(r"\{[{%#]")
_LOOKUP = re.compile(r"\s*\{\{-?\s*([A-Za-z]+)((?:\.[A-Za-z_]\w*)+)\s*-?\}\}\s*")
_TERNARY = re.compile(r"\{\{([^?{}]++)\?([^:{}]++):([^:{}]++)\}\}")
_environment = make_environment()


class _Node(Protocol):
    def render(self, scope: Scope, relaxations: list[Relaxation]) -> Any: ...


@dataclass(frozen=True, slots=True)
class CompiledString:
    """One template string. `names` are the free names it reads, `inputs` the `INPUT` fields (`*`: all of them)."""

    source: str
    names: frozenset[str]
    inputs: frozenset[str]
    lookup: tuple[str, ...] = ()
    """For a plain `{{INPUT.a.b}}`: the path, and nothing else is needed."""
    template: Any = None
    native: bool = False
    secrets: frozenset[str] = frozenset()
    """The `SECRET`s read; every one by its name."""

    def render(self, scope: Scope) -> Any:
        """The value, or an `Absent`.

        Raises:
            ValidationError: the template fails on these values, or exceeds its limits.
        """
        if self.lookup:
            return self._look_up(scope)
        began, allowance = monotonic(), scope.get(ALLOWANCE)
        budget = Budget() if allowance is None else Budget(allowance.left)
        try:
            context = self.template.new_context({**scope, BUDGET: budget})
            return self._native(context) if self.native else self._text(context, budget)
        except Exception as error:
            # Jinja lets through whatever the expression raises; with a secret in it the text is not repeated.
            reason = type(error).__name__ if "SECRET" in self.names else str(error) or type(error).__name__
            raise ValidationError(f"the template {shorten(self.source)} failed: {reason}") from error
        finally:
            if allowance is not None:
                allowance.spend(began)

    def _look_up(self, scope: Scope) -> Any:
        value: Any = scope
        for part in self.lookup:
            if not isinstance(value, Mapping) or part not in value:
                return Absent(self.source)
            value = value[part]
        return value

    def _native(self, context: Any) -> Any:
        for _ in self.template.root_render_func(context):
            pass
        value = context.vars["result"]
        if isinstance(value, Missing):
            return Absent(self.source)
        value = plain(value)
        check_size(value)
        return value

    def _text(self, context: Any, budget: Budget) -> Any:
        pieces, size = [], 0
        for piece in self.template.root_render_func(context):
            size += len(piece)
            if size > MAX_OUTPUT:
                raise SecurityError(f"the template makes more than {MAX_OUTPUT:,} characters")
            pieces.append(piece)
        text = "".join(pieces)
        return _Partial(text, self.source) if budget.missing else text


class _Partial(str):
    """Text in which an absent value left a hole: good enough for a prompt, not for a condition."""

    __slots__ = ("template",)
    template: str

    def __new__(cls, text: str, template: str) -> _Partial:
        made = super().__new__(cls, text)
        made.template = template
        return made


class DocumentTemplate(str):
    """A string that is rendered per document, as the author of the tree wrote it. A caller's text never is one."""

    __slots__ = ()


def is_template(value: Any) -> bool:
    return isinstance(value, str) and _TEMPLATE.search(value) is not None


def templates_in(tree: Any) -> Iterator[str]:
    """Every string of a tree that is a template."""
    rest = [tree]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            rest.extend(item.values())
        elif isinstance(item, list):
            rest.extend(item)
        elif is_template(item):
            yield item


def shorten(text: str, width: int = 80) -> str:
    return repr(text if len(text) <= width else text[: width - 1] + "…")


def translate_ternary(text: str) -> str:
    """`{{a ? b : c}}`, which some documents use, in the words of the language: `{{b if a else c}}`."""
    return _TERNARY.sub(lambda found: "{{{{ {1} if {0} else {2} }}}}".format(*map(str.strip, found.groups())), text)


@lru_cache(maxsize=4096)
def compile_string(source: str) -> CompiledString:
    """Compile one template.

    Raises:
        ValidationError: it is too long, does not parse, or uses what templates do not have.
    """
    plain_path = _LOOKUP.fullmatch(source)
    if plain_path and "__" not in source:
        name = NAMESPACES.get(plain_path[1].lower(), plain_path[1])
        _check_names({name}, source)
        parts = tuple(plain_path[2].split(".")[1:])
        return CompiledString(
            source,
            frozenset({name}),
            frozenset({parts[0]} if name == "INPUT" else ()),
            lookup=(name, *parts),
            secrets=frozenset({parts[0]} if name == "SECRET" else ()),
        )
    if len(source) > MAX_TEMPLATE:
        raise ValidationError(f"the template has {len(source):,} characters; at most {MAX_TEMPLATE:,} are accepted")
    try:
        return _compile(source)
    except (TemplateError, SyntaxError, RecursionError, OverflowError, MemoryError) as error:
        raise ValidationError(f"the template {shorten(source)} is not accepted: {error}") from error


def _compile(source: str) -> CompiledString:
    tree = _environment.parse(source.strip() if source.strip().startswith("{{") else source)
    names = guard(tree) - _bound_names(tree) - set(_environment.globals)
    _check_names(names, source)
    inputs, secrets = frozenset(_fields_of(tree, "INPUT")), frozenset(_fields_of(tree, "SECRET"))
    if "*" in secrets:
        raise ValidationError(f"the template {shorten(source)} must name the secret it reads: SECRET.name")
    single = _single_expression(tree)
    if single is None:
        tree = _environment.parse(source)
        guard(tree)
    else:
        result = nodes.Assign(nodes.Name("result", "store"), single, lineno=1)
        tree = nodes.Template([result], lineno=1)
        tree.set_environment(_environment)
    template = _environment.from_string(tree)
    return CompiledString(
        source, frozenset(names), inputs, template=template, native=single is not None, secrets=secrets
    )


def _check_names(names: set[str], source: str) -> None:
    unknown = names - EXECUTION_NAMES - DOCUMENT_NAMES
    if unknown:
        known = "INPUT, DOC, CONTEXT, STAGE and SECRET"
        raise ValidationError(f"the template {shorten(source)} uses '{min(unknown)}', which is not one of {known}")


def _bound_names(tree: nodes.Template) -> set[str]:
    stored = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "store"}
    return stored | ({"loop"} if any(True for _ in tree.find_all(nodes.For)) else set())


def _single_expression(tree: nodes.Template) -> nodes.Expr | None:
    if len(tree.body) != 1 or not isinstance(tree.body[0], nodes.Output) or len(tree.body[0].nodes) != 1:
        return None
    only = tree.body[0].nodes[0]
    return None if isinstance(only, nodes.TemplateData) else only


def _fields_of(tree: nodes.Template, namespace: str) -> Iterator[str]:
    """The fields of `INPUT` or `SECRET` that are read; `*` when the whole of it is, or one by a computed name."""
    named = 0
    found: list[Any] = list(tree.find_all((nodes.Getattr, nodes.Getitem)))
    for node in found:
        if not isinstance(node.node, nodes.Name) or node.node.name != namespace:
            continue
        if isinstance(node, nodes.Getattr):
            named += 1
            yield node.attr
        elif isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            named += 1
            yield node.arg.value
    if sum(1 for node in tree.find_all(nodes.Name) if node.name == namespace) > named:
        yield "*"


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
        if isinstance(value, _Partial):
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
            return self.string(raw, place, keep) if _TEMPLATE.search(raw) else None
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
