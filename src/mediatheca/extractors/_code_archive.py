"""Source files in a ZIP archive, or a single one: read with limits on everything the archive decides."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from mediatheca.extractors import Dropped, ItemError, Source
from mediatheca.extractors._budget import Budget
from mediatheca.extractors._chunked_text import clean_text
from mediatheca.extractors._code import language_of

MAX_ARCHIVE = 100 << 20
MAX_FILES = 20_000
MAX_FILE = 1 << 20
MAX_UNPACKED = 256 << 20
_MAX_LISTED = 10
_LEFT_ASIDE = frozenset(
    {".git", ".hg", ".svn", "node_modules", "__pycache__", "__macosx", ".venv", "venv", ".idea", "site-packages"}
)


@dataclass(frozen=True, slots=True)
class CodeFile:
    """A source file, by its place in the archive."""

    path: str
    language: str
    text: str


def code_files(source: Source, languages: frozenset[str] = frozenset()) -> Iterator[CodeFile | Dropped]:
    """The source files of an archive in the order of their paths, or the one file that it is.

    Args:
        languages: only these; empty: all that are known.

    Raises:
        ItemError: neither an archive nor text, damaged, or beyond the limits.
    """
    name = source.key or "code"
    data = source.read()
    if not data:
        raise ItemError(f"'{name}' is empty (0 bytes)")
    if len(data) > MAX_ARCHIVE:
        raise ItemError(f"'{name}' has {len(data):,} bytes: more than the limit of {MAX_ARCHIVE:,}")
    if not data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        yield _single(data, name)
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield from _entries(archive, name, source.key, languages)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ItemError(f"'{name}' is a damaged ZIP archive: {error}") from error


def _single(data: bytes, name: str) -> CodeFile:
    if b"\0" in data[:8192]:
        raise ItemError(f"'{name}' is neither a ZIP archive nor source code: it is binary")
    return CodeFile(name, language_of(name), clean_text(data[:MAX_FILE].decode("utf-8-sig", "replace")))


def _entries(archive: zipfile.ZipFile, name: str, key: str, languages: frozenset[str]) -> Iterator[CodeFile | Dropped]:
    entries = sorted(archive.infolist(), key=lambda entry: entry.filename)
    if len(entries) > MAX_FILES:
        raise ItemError(f"'{name}' has {len(entries):,} files: more than the limit of {MAX_FILES:,}")
    budget = Budget(name, max_bytes=MAX_UNPACKED)
    other: Counter[str] = Counter()
    for entry in entries:
        if entry.is_dir() or _LEFT_ASIDE & {part.lower() for part in PurePosixPath(entry.filename).parts}:
            continue
        language = language_of(entry.filename)
        if not language or (languages and language not in languages):
            other[PurePosixPath(entry.filename.lower()).suffix or "no ending"] += 1
            continue
        yield _read(archive, entry, language, key, budget)
    if other:
        kinds = ", ".join(f"{suffix} ({count})" for suffix, count in other.most_common(_MAX_LISTED))
        yield Dropped(f"{other.total()} files", f"not source code of a language asked for: {kinds}", key, None, "file")


def _read(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, language: str, key: str, budget: Budget
) -> CodeFile | Dropped:
    path = clean_text(entry.filename)[:1000]
    if entry.flag_bits & 1:
        return Dropped(path, "it is encrypted", key, None, "file")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others are unpacked without a bound
        return Dropped(path, f"it is packed by method {entry.compress_type}; deflate is read", key, None, "file")
    with archive.open(entry) as file:
        data = file.read(MAX_FILE + 1)
    budget.spend(bytes=len(data))
    if len(data) > MAX_FILE:
        return Dropped(path, f"it is larger than {MAX_FILE:,} bytes", key, None, "file")
    if b"\0" in data:
        return Dropped(path, "it is binary", key, None, "file")
    return CodeFile(path, language, clean_text(data.decode("utf-8-sig", "replace")))
