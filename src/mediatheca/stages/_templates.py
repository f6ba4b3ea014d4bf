"""Per-document templates, and nothing else, are rendered per document.

When a stage runs, its parameters have been rendered: where the author wrote `{{INPUT.x}}`, they hold what the caller
sent. Rendering such a text again would run the caller's template, with secrets in reach. So the templates that mention
`DOC` are written down when the retriever is made, and only these are rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from pydantic.json_schema import SkipJsonSchema

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.relaxation import Path
from mediatheca.kernel.templates import DOCUMENT_NAMES, DocumentTemplate, compile_string, is_template

Templates: TypeAlias = SkipJsonSchema[frozenset[str]]
"""Type of the parameter `document_templates`, which `prepare` fills with `per_document`; callers do not see it."""


def per_document(tree: Any, place: Path) -> list[str]:
    """The strings of a parameter tree that are rendered for each document.

    Raises:
        ValidationError: a template is not accepted, at its place under `place`.
    """
    return list(dict.fromkeys(_found(tree, place)))


def _found(tree: Any, place: Path) -> Iterator[str]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _found(value, (*place, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _found(value, (*place, number))
    elif is_template(tree) and _names(tree, place) & DOCUMENT_NAMES:
        yield tree


def _names(template: str, place: Path) -> frozenset[str]:
    try:
        return compile_string(template).names
    except ValidationError as error:
        raise ValidationError.at(place, error.message, "template") from error


def render_tree(tree: Any, templates: frozenset[str], render: Callable[[str], Any]) -> Any:
    """The tree with its per-document templates rendered; every other string stays as it is.

    Inside a tree only what the engine marked is rendered, so its parameter must be typed `Any` or `dict[str, Any]`:
    validation as `str` drops the mark. `templates` is for a tree that is one string.
    """
    if isinstance(tree, str):
        return render(tree) if tree in templates else tree
    return _render(tree, render)


def _render(tree: Any, render: Callable[[str], Any]) -> Any:
    if isinstance(tree, Mapping):
        return {key: _render(value, render) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_render(value, render) for value in tree]
    return render(tree) if isinstance(tree, DocumentTemplate) else tree
