"""Source code as units: functions and classes where the language is understood, else stretches of lines.

Python is parsed. Languages with braces are scanned for top-level blocks, with strings and comments left alone; a block
begins where the one before it ended, so that a function keeps the comment above it.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

UnitKind: TypeAlias = Literal["function", "class", "module", "file"]
MAX_LINES = 120
"""Of a unit; longer ones are cut: a method at a time where the language is understood."""
MAX_CHARACTERS = 1_000_000
"""Of a file that is parsed: larger ones are data in the clothes of code."""

LANGUAGES = {
    "py": "python", "pyi": "python", "js": "javascript", "mjs": "javascript", "cjs": "javascript", "jsx": "javascript",
    "ts": "typescript", "tsx": "typescript", "java": "java", "kt": "kotlin", "scala": "scala", "c": "c", "h": "c",
    "cc": "cpp", "cpp": "cpp", "cxx": "cpp", "hpp": "cpp", "hh": "cpp", "cs": "csharp", "go": "go", "rs": "rust",
    "php": "php", "swift": "swift", "dart": "dart", "rb": "ruby", "lua": "lua", "r": "r", "jl": "julia", "sql": "sql",
    "sh": "shell", "bash": "shell", "ps1": "powershell", "pl": "perl", "ex": "elixir", "hs": "haskell", "ml": "ocaml",
    "m": "matlab", "css": "css", "scss": "css",
}  # fmt: skip
"""Ending of a file's name → language."""
_BRACES = frozenset(
    "javascript typescript java kotlin scala c cpp csharp go rust php swift dart css".split()  # noqa: SIM905
)
_CLASS = re.compile(r"\b(?:class|interface|struct|enum|trait|impl|namespace|object|protocol|record)\s+([\w:<>.]+)")
_FUNCTION = re.compile(r"\b(?:function|func|fn|fun|def)\s+(?:\([^)]*\)\s*)?([\w$]+)|([\w$~]+)\s*\([^;{}]*\)[^;{}]*$")
_CONST = re.compile(r"\b(?:const|let|var|val)\s+([\w$]+)\s*=")
_CODE_LINE = re.compile(
    r"^\s*(?:def |class |import |from \w+ import|return\b|if\s*\(|for\s*\(|while\s*\(|else\b|elif |try[:{]|#include"
    r"|public |private |static |void |int |const |let |var |func |fn |use |package |print\(|@\w+|\}|\{|//"
    r"|SELECT\b|INSERT\b|\$ |>>> )|[;{}]\s*$|^\s*[\w.\[\]'\"]+\s*(?:[-+*/]?=|<-|:=)\s*\S|\w\([^)]*\)\s*[:{;]?\s*$"
)


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of a source file."""

    kind: UnitKind
    name: str
    start_line: int
    """From 1."""
    end_line: int
    """The last line, included."""
    text: str


def language_of(path: str) -> str:
    """By the ending of a file's name; empty when it is none that is known."""
    return LANGUAGES.get(PurePosixPath(path.lower()).suffix.lstrip("."), "")


def whole_file(text: str) -> list[Unit]:
    """The file as one unit, cut at `MAX_LINES`."""
    lines = text.splitlines()
    return list(_cut(Unit("file", "", 1, len(lines), text), lines)) if text.strip() else []


def units_of(text: str, language: str) -> list[Unit]:
    """Functions and classes in the order of the file, and what stands between them as units of kind `module`."""
    lines = text.splitlines()
    if len(text) <= MAX_CHARACTERS:
        if language == "python" and (found := _python(text)) is not None:
            return _with_rest(found, lines)
        if language in _BRACES:
            return _with_rest(_braced(text, language), lines)
    return whole_file(text)


def looks_like_code(text: str) -> bool:
    """Whether at least two lines, and most of them, are written as no prose is."""
    lines = [line for line in text.splitlines() if line.strip()]
    hits = sum(1 for line in lines if _CODE_LINE.search(line))
    return len(lines) >= 2 and hits >= 2 and hits > 0.6 * len(lines)


def _with_rest(found: Sequence[Unit], lines: list[str]) -> list[Unit]:
    """The units, those too long cut, and what is between them."""
    made: list[Unit] = []
    line = 1
    for unit in [*found, Unit("module", "", len(lines) + 1, len(lines) + 1, "")]:
        between = _of("module", "", line, unit.start_line - 1, lines)
        if between.text.strip():
            made += _cut(between, lines)
        if unit.start_line <= len(lines):
            made += _cut(unit, lines)
        line = max(line, unit.end_line + 1)
    return made


def _cut(unit: Unit, lines: list[str]) -> Iterator[Unit]:
    for start in range(unit.start_line, unit.end_line + 1, MAX_LINES):
        piece = _of(unit.kind, unit.name, start, min(start + MAX_LINES - 1, unit.end_line), lines)
        if piece.text.strip():
            yield piece


def _of(kind: UnitKind, name: str, start: int, end: int, lines: list[str]) -> Unit:
    return Unit(kind, name, start, end, "\n".join(lines[start - 1 : end]))


def _python(text: str) -> list[Unit] | None:
    """Functions and classes of the module; of long classes the methods. None when it does not parse."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    lines = text.splitlines()
    return [unit for node in tree.body for unit in _definition(node, "", lines)]


def _definition(node: ast.stmt, within: str, lines: list[str]) -> Iterator[Unit]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    end, name = node.end_lineno or node.lineno, within + node.name
    if isinstance(node, ast.ClassDef):
        if end - start < MAX_LINES:
            yield _of("class", name, start, end, lines)
            return
        for each in node.body:
            yield from _definition(each, f"{name}.", lines)
        return
    yield _of("function", name, start, end, lines)


def _scanner(single_quoted: str) -> re.Pattern[str]:
    """Comments and strings as wholes, and the characters that matter between them."""
    strings = r"\"(?:\\.|[^\"\\\n])*\"|`(?:\\.|[^`\\])*`"
    return re.compile(rf"//[^\n]*|/\*.*?\*/|{strings}|{single_quoted}|[{{}}\n;]", re.DOTALL)


_STRINGS = _scanner(r"'(?:\\.|[^'\\\n])*'")
_CHARACTERS = _scanner(r"'(?:\\[^'\n]{1,8}|[^'\\\n])'")
_QUOTES_STRINGS = frozenset({"javascript", "typescript", "php", "dart", "css"})
"""Languages with strings in single quotes; elsewhere those hold one character, or mark a lifetime."""


def _braced(text: str, language: str) -> list[Unit]:
    """Blocks of the top level whose head names a function or a class."""
    scanner = _STRINGS if language in _QUOTES_STRINGS else _CHARACTERS
    lines = text.splitlines()
    found: list[Unit] = []
    depth, line, head_line, head, opened = 0, 1, 1, 0, ""
    for match in scanner.finditer(text):
        mark = match.group()
        if mark == "{":
            if depth == 0:
                opened = text[head : match.start()]
            depth += 1
        elif mark == "}" and depth:
            depth -= 1
            if depth == 0:
                found += _block(scanner.sub(" ", opened), head_line, line, lines)
                head, head_line = match.end(), line + 1
        elif mark == ";" and depth == 0:
            head, head_line = match.end(), line + 1
        line += mark.count("\n")
    return found


def _block(head: str, start: int, end: int, lines: list[str]) -> Iterator[Unit]:
    """The unit of a block; without a name of its own it is none."""
    while start < end and not lines[start - 1].strip():
        start += 1
    plain = head.strip()
    owner = _CLASS.search(plain)
    named = owner or _FUNCTION.search(plain) or _CONST.search(plain)
    if named is not None and start <= end:
        name = next(group for group in named.groups() if group)
        yield _of("class" if owner else "function", name, start, end, lines)
