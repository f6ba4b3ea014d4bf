"""Source code cut into functions and classes; archives of it, hostile ones too."""

from __future__ import annotations

import io
import zipfile

import pytest

from mediatheca.extractors import Dropped, ItemError, Source
from mediatheca.extractors._code import MAX_LINES, language_of, looks_like_code, units_of, whole_file
from mediatheca.extractors._code_archive import CodeFile, code_files

PYTHON = '''"""A module."""
import math

LIMIT = 3


@cached
def area(radius):
    """Of a circle."""
    return math.pi * radius**2


class Shape:
    def name(self):
        return "shape"
'''
JAVASCRIPT = """// Helpers of the page.
import { x } from "./x.js";

/** Adds two numbers { not a block }. */
export function add(a, b) {
  const text = "}";
  return `${a}}` && a + b;
}

export const twice = (n) => {
  return 2 * n;
};

class Counter {
  up() { this.n += 1; }
}
"""
RUST = """use std::fmt;

/// Longest of two.
pub fn longest<'a>(x: &'a str, y: &'a str) -> &'a str {
    if x.len() > y.len() { x } else { y }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result { write!(f, "{}", '}') }
}
"""


def named(text: str, language: str) -> list[tuple[str, str, int, int]]:
    return [(unit.kind, unit.name, unit.start_line, unit.end_line) for unit in units_of(text, language)]


def test_python_is_parsed() -> None:
    assert named(PYTHON, "python") == [
        ("module", "", 1, 6),
        ("function", "area", 7, 10),
        ("class", "Shape", 13, 15),
    ]


def test_units_hold_exactly_their_lines() -> None:
    lines = PYTHON.splitlines()
    for unit in units_of(PYTHON, "python"):
        assert unit.text == "\n".join(lines[unit.start_line - 1 : unit.end_line])


def test_methods_of_a_long_class_are_units_of_their_own() -> None:
    methods = "\n".join(f"    def m{number}(self):\n        return {number}\n" for number in range(60))
    found = named(f"class Big:\n{methods}", "python")
    assert ("function", "Big.m7", 23, 24) in found
    assert not [unit for unit in found if unit[0] == "class"]


def test_languages_with_braces_are_cut_at_their_blocks() -> None:
    found = {name: kind for kind, name, _, _ in named(JAVASCRIPT, "javascript") if name}
    assert found == {"add": "function", "twice": "function", "Counter": "class"}
    (add,) = [unit for unit in units_of(JAVASCRIPT, "javascript") if unit.name == "add"]
    assert add.text.startswith("/** Adds two numbers")
    assert add.text.endswith("}")


def test_marks_of_lifetimes_are_no_strings() -> None:
    found = {name: kind for kind, name, _, _ in named(RUST, "rust") if name}
    assert found["longest"] == "function"
    assert "class" in found.values()


@pytest.mark.parametrize(("text", "language"), [(PYTHON, "python"), (JAVASCRIPT, "javascript"), (RUST, "rust")])
def test_no_line_is_lost_and_none_is_told_twice(text: str, language: str) -> None:
    covered = [line for unit in units_of(text, language) for line in range(unit.start_line, unit.end_line + 1)]
    assert len(covered) == len(set(covered))
    lost = set(range(1, len(text.splitlines()) + 1)) - set(covered)
    assert all(not text.splitlines()[line - 1].strip() for line in lost)


@pytest.mark.parametrize("text", ["def broken(:\n  x", "}}}}{{{{", "'" * 500, "/*" * 500, "\\" * 100])
@pytest.mark.parametrize("language", ["python", "javascript", "rust", "sql"])
def test_code_that_is_no_code_is_units_all_the_same(text: str, language: str) -> None:
    assert "".join(unit.text for unit in units_of(text, language))


def test_long_files_are_cut() -> None:
    found = whole_file("\n".join(f"select {number};" for number in range(3 * MAX_LINES)))
    assert [unit.start_line for unit in found] == [1, MAX_LINES + 1, 2 * MAX_LINES + 1]


def test_deeply_nested_code_does_not_end_the_process() -> None:
    assert units_of("(" * 100_000, "python")
    assert units_of("{" * 100_000, "javascript")


def test_languages_are_known_by_the_ending() -> None:
    assert (language_of("a/b.PY"), language_of("x.tsx"), language_of("README"), language_of("a.exe")) == (
        "python",
        "typescript",
        "",
        "",
    )


def test_code_on_a_page_is_told_from_prose() -> None:
    assert looks_like_code("def area(r):\n    return 3.14 * r")
    assert looks_like_code("for (int i = 0; i < n; i++) {\n  sum += a[i];\n}")
    assert not looks_like_code("The survey was carried out in the spring.\nEach site was visited three times.")
    assert not looks_like_code("x = 1")


def archive(files: dict[str, bytes | str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            made.writestr(name, data)
    return out.getvalue()


def read(data: bytes, languages: frozenset[str] = frozenset()) -> tuple[list[CodeFile], list[Dropped]]:
    found = list(code_files(Source(data=data, key="exercise.zip"), languages))
    return [f for f in found if isinstance(f, CodeFile)], [f for f in found if isinstance(f, Dropped)]


def test_an_archive_gives_its_source_files_in_order_and_counts_the_rest() -> None:
    data = archive(
        {"b/main.py": "x = 1", "a.js": "y", "notes.md": "n", "logo.png": b"\x89PNG", "node_modules/z.js": "z"}
    )
    files, (dropped,) = read(data)
    assert [(file.path, file.language) for file in files] == [("a.js", "javascript"), ("b/main.py", "python")]
    assert dropped.what == "2 files"
    assert ".md (1)" in dropped.reason
    files, _ = read(data, frozenset({"python"}))
    assert [file.path for file in files] == ["b/main.py"]


def test_a_single_file_is_read_as_it_is() -> None:
    (file,) = code_files(Source(data=b"def f():\n  pass\n", key="main.py"))
    assert isinstance(file, CodeFile)
    assert (file.path, file.language) == ("main.py", "python")


def test_large_and_binary_files_of_an_archive_are_dropped_with_a_reason() -> None:
    files, dropped = read(archive({"big.py": b"#" * (2 << 20), "odd.py": b"\0\1\2", "ok.py": "x"}))
    assert [file.path for file in files] == ["ok.py"]
    assert {(each.what, each.kind) for each in dropped} == {("big.py", "file"), ("odd.py", "file")}


def test_a_bomb_is_never_unpacked_whole() -> None:
    files, dropped = read(archive({f"{number}.py": b"0" * (20 << 20) for number in range(3)}))
    assert files == []
    assert len(dropped) == 3


def test_what_is_packed_without_a_bound_is_not_unpacked() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as made:
        made.writestr("a.py", b"0" * (32 << 20))
        made.writestr("b.py", b"x = 1", zipfile.ZIP_DEFLATED)
    files, (dropped,) = read(out.getvalue())
    assert [file.path for file in files] == ["b.py"]
    assert "packed by method" in dropped.reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 broken", "damaged"),
        (archive({"a.py": "x"})[:-30], "damaged"),
        (b"\x7fELF\0\0\0\0", "binary"),
    ],
)
def test_what_is_no_archive_and_no_code_says_so(data: bytes, reason: str) -> None:
    with pytest.raises(ItemError, match=reason):
        list(code_files(Source(data=data, key="exercise.zip")))


def test_paths_that_point_elsewhere_are_only_names() -> None:
    files, _ = read(archive({"../../etc/passwd.py": "x = 1"}))
    assert [file.path for file in files] == ["../../etc/passwd.py"]
