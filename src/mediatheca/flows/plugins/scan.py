"""A look at the code of an archive before anybody runs it. It is advice, no wall: the wall is the confined process.

What the hosted service refuses is refused here too, with file and line, so that an archive works in both or in neither.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MAX_SOURCE = 512 << 10
"""Bytes of a file: its syntax tree takes some hundred times as much memory."""
MAX_SOURCES = 8 << 20
"""Bytes of all of them."""
MAX_FINDINGS = 50
_MODULES = frozenset({"subprocess", "socket", "ctypes", "multiprocessing", "pty", "_posixsubprocess", "cffi"})
_CALLS = frozenset({"eval", "exec", "compile", "__import__", "setattr", "delattr"})
_SYSTEM = frozenset({"system", "popen", "fork", "forkpty", "kill", "killpg"})
_SYSTEM_PREFIXES = ("exec", "spawn", "posix_spawn")
_ESCAPES = frozenset({"__subclasses__", "__globals__", "__builtins__", "__mro__", "__code__"})
_NATIVE = (".so", ".dll", ".dylib", ".pyd", ".pyc", ".exe")


@dataclass(slots=True)
class Scan:
    """What was found: `errors` refuse the archive, `warnings` do not."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def scan_archive(folder: Path) -> Scan:
    """Look at every file of an unpacked archive."""
    found = Scan()
    if sum(path.stat().st_size for path in folder.rglob("*.py") if path.is_file()) > MAX_SOURCES:
        found.errors.append(f"has more than {MAX_SOURCES >> 20} MB of source; send data as data")
        return found
    for path in sorted(folder.rglob("*")):
        if path.is_file() and len(found.errors) < MAX_FINDINGS:
            name = str(path.relative_to(folder))
            if path.suffix.lower() in _NATIVE:
                found.errors.append(f"{name}: compiled code cannot be looked at; send sources")
            elif path.suffix == ".py":
                _scan_source(path, name, found)
    return found


def _scan_source(path: Path, name: str, found: Scan) -> None:
    if path.stat().st_size > MAX_SOURCE:
        found.errors.append(f"{name}: has more than {MAX_SOURCE >> 10} KB of source; send data as data")
        return
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        found.errors.append(f"{name}: is not Python of this version: {error}")
        return
    for node in ast.walk(tree):
        for refused, what in _findings(node):
            place = f"{name}:{getattr(node, 'lineno', 0)}: {what}"
            (found.errors if refused else found.warnings).append(place)


def _findings(node: ast.AST) -> Iterator[tuple[bool, str]]:
    """(refused, what) for one node of a syntax tree."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from _imports(node)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in _CALLS:
            yield True, f"calls {node.func.id}()"
        elif node.func.id == "open":
            yield False, "opens files: only its own archive can be read, and only its scratch folder written"
    elif isinstance(node, ast.Attribute):
        yield from _attributes(node)


def _imports(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[bool, str]]:
    names = [alias.name for alias in node.names]
    modules = names if isinstance(node, ast.Import) else [node.module or ""]
    for module in modules:
        if module.split(".")[0] in _MODULES and not getattr(node, "level", 0):
            yield True, f"imports {module}"
    if isinstance(node, ast.ImportFrom) and node.module == "os":
        for name in names:
            if _is_system(name):
                yield True, f"imports os.{name}"


def _attributes(node: ast.Attribute) -> Iterator[tuple[bool, str]]:
    if node.attr in _ESCAPES:
        yield True, f"reaches for {node.attr}"
    if isinstance(node.value, ast.Name) and node.value.id == "os" and _is_system(node.attr):
        yield True, f"uses os.{node.attr}"


def _is_system(name: str) -> bool:
    return name in _SYSTEM or name.startswith(_SYSTEM_PREFIXES)
