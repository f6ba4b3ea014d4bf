"""Templates of notices: Jinja cut down to the sandbox's allow-list, over the keys of a notice's body. Pure.

Unlike those of retrievers they read plain names (`{{ event_type }}`, `{{ data.document_id }}`); an absent value is
empty. In a tree keys stay, and a text that is exactly one expression keeps the type of its value.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.notices import Escape
from mediatheca.kernel.sandbox import BUDGET, MAX_TEMPLATE, Budget, Missing, make_environment, plain
from mediatheca.kernel.template_functions import check_size
from mediatheca.kernel.template_guard import guard
from mediatheca.kernel.templates import is_template, shorten, templates_in

MAX_TEXT = 64 * 1024
"""Characters that one template may make."""
_environment = make_environment()


@dataclass(frozen=True, slots=True)
class _Template:
    template: Any
    native: bool


def check(tree: Any, where: tuple[str | int, ...]) -> None:
    """Compile every template of a JSON value.

    Raises:
        ValidationError: one is not accepted; the message says why.
    """
    for text in templates_in(tree):
        try:
            _compiled(text)
        except ValidationError as error:
            raise ValidationError.at(where, error.message, "template") from error


def render(tree: Any, values: Mapping[str, Any], escape: Escape = "none") -> Any:
    """Fill in every template of a JSON value.

    Raises:
        ValidationError: a template fails on these values, or makes too much.
    """
    escaped = _escaped(dict(values), _ESCAPES[escape]) if escape != "none" else dict(values)
    return _rendered(tree, escaped, Budget())


def _rendered(tree: Any, values: dict[str, Any], budget: Budget) -> Any:
    if isinstance(tree, dict):
        return {key: _rendered(item, values, budget) for key, item in tree.items()}
    if isinstance(tree, list):
        return [_rendered(item, values, budget) for item in tree]
    if not is_template(tree):
        return tree
    compiled = _compiled(tree)
    try:
        context = compiled.template.new_context({**values, BUDGET: budget})
        return _value(compiled.template, context) if compiled.native else _text(compiled.template, context)
    except Exception as error:  # Jinja lets through whatever an expression raises
        raise ValidationError(f"the template {shorten(tree)} failed: {error or type(error).__name__}") from error


def _value(template: Any, context: Any) -> Any:
    for _ in template.root_render_func(context):
        pass
    value = context.vars["result"]
    if isinstance(value, Missing):
        return None
    value = plain(value)
    check_size(value)
    return value


def _text(template: Any, context: Any) -> str:
    pieces, size = [], 0
    for piece in template.root_render_func(context):
        size += len(piece)
        if size > MAX_TEXT:
            raise SecurityError(f"it makes more than {MAX_TEXT:,} characters")
        pieces.append(piece)
    return "".join(pieces)


@lru_cache(maxsize=2048)
def _compiled(source: str) -> _Template:
    if len(source) > MAX_TEMPLATE:
        raise ValidationError(f"the template has {len(source):,} characters; at most {MAX_TEMPLATE:,} are accepted")
    try:
        tree = _environment.parse(source)
        guard(tree)
        single = _single(tree)
        if single is not None:
            tree = nodes.Template([nodes.Assign(nodes.Name("result", "store"), single, lineno=1)], lineno=1)
            tree.set_environment(_environment)
        return _Template(_environment.from_string(tree), single is not None)
    except (TemplateError, SyntaxError, RecursionError, OverflowError, MemoryError) as error:
        raise ValidationError(f"the template {shorten(source)} is not accepted: {error}") from error


def _single(tree: nodes.Template) -> nodes.Expr | None:
    if len(tree.body) != 1 or not isinstance(tree.body[0], nodes.Output) or len(tree.body[0].nodes) != 1:
        return None
    only = tree.body[0].nodes[0]
    return None if isinstance(only, nodes.TemplateData) else only


def _slack(text: str) -> str:
    """https://api.slack.com/reference/surfaces/formatting: without these three nothing is a link or a mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_ESCAPES: Mapping[str, Callable[[str], str]] = {"html": html.escape, "slack": _slack}


def escaped_text(text: str, escape: Escape) -> str:
    """One text, so that it cannot be taken for markup."""
    return _ESCAPES[escape](text) if escape != "none" else text


def _escaped(value: Any, escape: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, dict):
        return {key: _escaped(item, escape) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item, escape) for item in value]
    return value
