"""What a template may be written with: its syntax tree checked against a list, loops and joins put under the budget."""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes
from jinja2.exceptions import SecurityError

NAMESPACES = {
    **dict.fromkeys(("input", "inputs"), "INPUT"),
    **dict.fromkeys(("doc", "document"), "DOC"),
    "context": "CONTEXT",
    "stage": "STAGE",
    **dict.fromkeys(("secret", "secrets"), "SECRET"),
}
"""Lower-case spelling → the one name a template sees. Namespaces are case-insensitive."""

_STATEMENTS = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If)
_EXPRESSIONS = (
    *(nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Getattr, nodes.Getitem),
    *(nodes.Slice, nodes.Call, nodes.Keyword, nodes.Filter, nodes.Test, nodes.CondExpr, nodes.Compare, nodes.Operand),
    *(nodes.BinExpr, nodes.UnaryExpr, nodes.Concat),
)


def guard(tree: nodes.Template) -> set[str]:
    """Check a syntax tree against the allow-list and rewrite loops, `~` and namespace names in place.

    Returns:
        The names it reads, namespaces in their one spelling.

    Raises:
        SecurityError: the template uses something templates do not have.
    """
    for loop in tree.find_all(nodes.For):
        _check_loop(loop)
    names: set[str] = set()
    for node in list(_walk(tree)):
        _check_node(node)
        if isinstance(node, nodes.Name):
            node.name = NAMESPACES.get(node.name.lower(), node.name)
            names.add(node.name)
    _rewrite(tree)
    return names


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _walk(child)


def _check_node(node: nodes.Node) -> None:
    if not isinstance(node, (*_STATEMENTS, *_EXPRESSIONS)):
        raise SecurityError(f"templates have no '{type(node).__name__.lower()}' (loops, if, and expressions only)")
    names = [getattr(node, "attr", None), getattr(node, "name", None)]
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        names.append(node.arg.value)
    for name in names:
        if isinstance(name, str) and name.startswith("__"):
            raise SecurityError(f"'{name}' is not available: names beginning with '__' belong to the system")


def _check_loop(loop: nodes.For) -> None:
    """A loop over a literal that holds variables doubles data at every nesting level, so it is refused."""
    if loop.recursive:
        raise SecurityError("recursive loops are not available")
    for literal in loop.iter.find_all((nodes.List, nodes.Tuple, nodes.Dict)):
        if any(True for _ in literal.find_all(nodes.Name)):
            raise SecurityError("a loop cannot run over a list written with variables in it")
    if isinstance(loop.iter, (nodes.List, nodes.Tuple, nodes.Dict)) and any(
        True for _ in loop.iter.find_all(nodes.Name)
    ):
        raise SecurityError("a loop cannot run over a list written with variables in it")


def _rewrite(node: nodes.Node) -> None:
    for name, value in node.iter_fields():
        if isinstance(value, list):
            value[:] = [_rewritten(item) if isinstance(item, nodes.Node) else item for item in value]
        elif isinstance(value, nodes.Node):
            setattr(node, name, _rewritten(value))
    if isinstance(node, nodes.For):
        node.iter = _filter(node.iter, "_steps", node)


def _rewritten(node: nodes.Node) -> nodes.Node:
    _rewrite(node)
    if isinstance(node, nodes.Concat):
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "_concat", node)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _filter(node, "_charged", node)
    return node


def _filter(value: nodes.Node, name: str, node: nodes.Node) -> nodes.Filter:
    made = nodes.Filter(value, name, [], [], None, None, lineno=node.lineno)
    assert node.environment is not None
    made.set_environment(node.environment)
    return made
