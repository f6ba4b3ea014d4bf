"""Whatever the code emits is in the catalogue, and the catalogue holds together."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from mediatheca.kernel.event_catalogue import EVENTS, EXPANDED, subscribed_names

SOURCE = Path(__file__).parents[2] / "src" / "mediatheca"


def texts(node: ast.expr, named: dict[str, list[str]]) -> Iterator[str]:
    """The texts an expression can be, as far as the file itself says."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body, named)
        yield from texts(node.orelse, named)
    elif isinstance(node, ast.Name):
        yield from named.get(node.id, [])


def emitted(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    named: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            named.setdefault(node.targets[0].id, []).extend(texts(node.value, {}))
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="emit" | "emit_many"), args=[first, *_]):
                yield from (text for text in texts(first, named) if "." in text)


def test_every_event_of_the_code_is_in_the_catalogue() -> None:
    found = {text: path for path in SOURCE.rglob("*.py") for text in emitted(path)}
    assert len(found) > 40
    missing = {text: str(path.relative_to(SOURCE)) for text, path in found.items() if text not in EVENTS}
    assert missing == {}


def test_every_resource_that_is_made_by_declaration_is_in_the_catalogue() -> None:
    from mediatheca.kernel.discovery import discover
    from mediatheca.resources.base import Resource

    for resource in discover("mediatheca.resources", Resource):
        assert {f"{resource.name}.{verb}" for verb in ("created", "updated", "deleted")} <= EVENTS.keys()


def test_names_and_aliases_hold_together() -> None:
    for event in EVENTS.values():
        assert event.name.startswith(event.resource)
        assert len(event.name) <= 64
        assert event.summary
        assert all(alias in EVENTS or alias.startswith("resource.") for alias in event.also_as)
    assert all(batch in EVENTS and EVENTS[batch].also_as == (single,) for batch, single in EXPANDED.items())


def test_private_events_are_told_to_nobody() -> None:
    assert subscribed_names("secret.accessed") == subscribed_names("api_key.created") == ()
    assert subscribed_names("event.consumer_failed") == ()
    assert subscribed_names("batch.failed") == ("batch.failed", "resource.execution_failed")
    assert subscribed_names("note.created") == ("note.created",)  # a resource of a third party
