"""The text of office files: Word, Excel, PowerPoint (ECMA-376) and OpenDocument, by the XML inside them.

A file is a hostile archive: what is unpacked is bounded, document types are refused, so nothing can be expanded.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from xml.parsers import expat

from mediatheca.extractors import ItemError

MAX_UNPACKED = 64 << 20
"""Bytes of all parts that are read together."""
MAX_PARTS = 2_000
MAX_CHARACTERS = 4_000_000
"""Of a file: a sheet may name one long text a million times."""
_SLIDE = re.compile(r"ppt/slides/slide(\d{1,6})\.xml")
_SHEET = re.compile(r"xl/worksheets/sheet(\d{1,6})\.xml")
_NOTES = re.compile(r"word/(?:footnotes|endnotes)\.xml")
_BREAKS = frozenset({"p", "h", "br", "tr", "line-break", "row", "list-item"})
_SPACES = frozenset({"tab", "s", "tc", "table-cell"})
_TEXTS = frozenset({"t", "delText"})


@dataclass(frozen=True, slots=True)
class Section:
    """A part of an office file: the text, a slide, or a sheet. `number`: from 1."""

    number: int
    text: str


def office_sections(data: bytes, name: str) -> list[Section]:
    """What an office file says, in its order; sections without text are left out.

    Raises:
        ItemError: damaged, encrypted, larger than the limits, or no office file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return list(_bounded(_sections(_Parts(archive, name), name)))
    except (zipfile.BadZipFile, zlib.error, expat.ExpatError, EOFError, OSError, NotImplementedError) as error:
        raise ItemError(f"'{name}' is a damaged office file: {error}") from error
    except RuntimeError as error:  # what zipfile raises for a password
        raise ItemError(f"'{name}' cannot be unpacked: {error}") from error


def _bounded(sections: Iterator[Section]) -> Iterator[Section]:
    """Those with a text, up to `MAX_CHARACTERS` of all together."""
    left = MAX_CHARACTERS
    for section in sections:
        if section.text:
            yield Section(section.number, section.text[:left])
            left -= len(section.text)
        if left <= 0:
            return


class _Parts:
    """The parts of an archive, read within the limits."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self.names = archive.namelist()
        self._archive, self._name, self._left = archive, name, MAX_UNPACKED
        if len(self.names) > MAX_PARTS:
            raise ItemError(f"'{name}' holds {len(self.names):,} files; an office file has at most {MAX_PARTS:,}")

    def read(self, part: str) -> bytes:
        method = self._archive.getinfo(part).compress_type
        if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others are unpacked without a bound
            raise ItemError(f"'{self._name}' is packed by method {method}, which no office program writes")
        with self._archive.open(part) as file:
            data = file.read(self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise ItemError(f"'{self._name}' unpacks to more than {MAX_UNPACKED >> 20} MB")
        return data

    def numbered(self, pattern: re.Pattern[str]) -> list[tuple[int, str]]:
        found = [(int(match[1]), part) for part in self.names if (match := pattern.fullmatch(part))]
        return sorted(found)


def _sections(parts: _Parts, name: str) -> Iterator[Section]:
    if "word/document.xml" in parts.names:
        notes = [part for part in parts.names if _NOTES.fullmatch(part)]
        yield Section(
            1, "\n\n".join(_words(parts.read(part)) for part in ("word/document.xml", *sorted(notes))).strip()
        )
    elif slides := parts.numbered(_SLIDE):
        yield from (Section(number, _words(parts.read(part))) for number, part in slides)
    elif sheets := parts.numbered(_SHEET):
        shared = _shared(parts.read("xl/sharedStrings.xml")) if "xl/sharedStrings.xml" in parts.names else []
        yield from (Section(number, _cells(parts.read(part), shared)) for number, part in sheets)
    elif "content.xml" in parts.names:
        yield Section(1, _words(parts.read("content.xml"), everything=True))
    else:
        raise ItemError(f"'{name}' is an archive without the parts of an office file")


def _words(data: bytes, *, everything: bool = False) -> str:
    """The running text; `everything`: all character data, as OpenDocument has it."""
    running = _RunningText(everything)
    _parse(data, running.start, running.end, running.characters)
    lines = (" ".join(line.split()) for line in "".join(running.found).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()[:MAX_CHARACTERS]


class _RunningText:
    """Collects what stands in text elements."""

    def __init__(self, everything: bool) -> None:
        self.found: list[str] = []
        self._everything, self._inside = everything, 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._inside += tag in _TEXTS
        if tag in _SPACES:
            self.found.append("\t" if tag != "s" else " ")

    def end(self, tag: str) -> None:
        self._inside -= tag in _TEXTS
        if tag in _BREAKS:
            self.found.append("\n")

    def characters(self, text: str) -> None:
        if self._everything or self._inside:
            self.found.append(text)


def _shared(data: bytes) -> list[str]:
    """The texts that cells refer to by number."""
    found: list[list[str]] = []
    state = {"text": False}

    def start(tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "si":
            found.append([])
        state["text"] = tag == "t"

    def end(tag: str) -> None:
        state["text"] = False

    def characters(text: str) -> None:
        if state["text"] and found:
            found[-1].append(text)

    _parse(data, start, end, characters)
    return ["".join(pieces) for pieces in found]


def _cells(data: bytes, shared: list[str]) -> str:
    """A sheet: a line for every row, values with a tab between them."""
    sheet = _Sheet(shared)
    _parse(data, sheet.start, sheet.end, sheet.characters)
    return "\n".join("\t".join(row) for row in sheet.rows if row)[:MAX_CHARACTERS]


class _Sheet:
    """Collects the values of cells."""

    def __init__(self, shared: list[str]) -> None:
        self.rows: list[list[str]] = []
        self._shared, self._kind, self._open = shared, "", False
        self._value: list[str] = []
        self._left = MAX_CHARACTERS

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "row":
            self.rows.append([])
        elif tag == "c":
            self._kind, self._value = attributes.get("t", ""), []
        elif tag in ("v", "t"):
            self._open = True

    def end(self, tag: str) -> None:
        if tag in ("v", "t"):
            self._open = False
        elif tag == "c" and self._value and self.rows and self._left > 0:
            text = _value("".join(self._value), self._kind, self._shared)[: self._left]
            self._left -= len(text) + 1
            self.rows[-1].append(text)

    def characters(self, text: str) -> None:
        if self._open:
            self._value.append(text)


def _value(text: str, kind: str, shared: list[str]) -> str:
    if kind == "s":
        number = int(text) if text.strip().isascii() and text.strip().isdigit() and len(text) < 10 else -1
        return shared[number] if 0 <= number < len(shared) else ""
    return {"1": "true", "0": "false"}.get(text, text) if kind == "b" else text


def _parse(
    data: bytes,
    start: Callable[[str, Mapping[str, str]], None],
    end: Callable[[str], None],
    characters: Callable[[str], None],
) -> None:
    """Names come without their prefixes.

    Raises:
        expat.ExpatError: it is no XML.
        ItemError: it declares a document type, which no office program writes.
    """

    def refuse(*_: object) -> None:
        raise ItemError("an office file that declares a document type is not read")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = lambda tag, attributes: start(tag.rpartition(":")[2], attributes)
    parser.EndElementHandler = lambda tag: end(tag.rpartition(":")[2])
    parser.CharacterDataHandler = characters
    parser.Parse(data, True)
