"""One `{{INPUT.x}}` template: compiled once, rendered in microseconds. Whole parameter trees: `template_trees`.

A string that is exactly one expression keeps the native type of its value; text around it makes a string. An absent
value renders to an `Absent`. Output is never parsed again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from time import thread_time
from typing import Any, TypeAlias

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.relaxation import Absent
from mediatheca.kernel.sandbox import (
    ALLOWANCE,
    BUDGET,
    MAX_TEMPLATE,
    Budget,
    Missing,
    make_environment,
    plain,
)
from mediatheca.kernel.template_functions import MAX_OUTPUT, check_size
from mediatheca.kernel.template_guard import NAMESPACES, guard

Scope: TypeAlias = Mapping[str, Any]
"""`INPUT`, `CONTEXT`, `STAGE`, `SECRET` (and per document `DOC`) → what they hold."""

EXECUTION_NAMES = frozenset({"INPUT", "CONTEXT", "STAGE", "SECRET"})
DOCUMENT_NAMES = frozenset(
    {"DOC", "INDEX", "CITATION", "DOCUMENTS", "DOC_COUNT", "GROUP_VALUE", "QUERY", "NUM_EXPANSIONS"}
)
"""Names a stage fills in itself, per document: a string that uses one is left for it."""
_TEMPLATE = re.compile(r"\{[{%#]")
_LOOKUP = re.compile(r"\s*\{\{-?\s*([A-Za-z]+)((?:\.[A-Za-z_]\w*)+)\s*-?\}\}\s*")
_TERNARY = re.compile(r"\{\{([^?{}]++)\?([^:{}]++):([^:{}]++)\}\}")
_environment = make_environment()


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
        began, allowance = thread_time(), scope.get(ALLOWANCE)
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
        return Partial(text, self.source) if budget.missing else text


class Partial(str):
    """Text in which an absent value left a hole: good enough for a prompt, not for a condition."""

    __slots__ = ("template",)
    template: str

    def __new__(cls, text: str, template: str) -> Partial:
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
