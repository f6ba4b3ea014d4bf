"""What a file is, by its first bytes; its name is only the last hint. Pure.

The signatures of binary formats are those of `filetype`; what it does not tell apart (pages, captions, drawings, office
files, text in several encodings, PDFs with something before them) is looked at here.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal[
    "image", "video", "audio", "pdf", "html", "text", "captions", "office", "svg", "archive", "empty", "binary"
]
HEAD = 8192
"""Bytes of the beginning that are looked at; more do no harm."""

_OFFICE = {
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
}
_OFFICE_FOLDERS = {b"word/": "docx", b"xl/": "xlsx", b"ppt/": "pptx"}
_ARCHIVES = frozenset(
    {
        "application/zip", "application/gzip", "application/x-bzip2", "application/x-xz", "application/x-tar",
        "application/x-7z-compressed", "application/x-rar-compressed", "application/vnd.rar", "application/zstd",
        "application/x-lzip", "application/x-lz4", "application/x-compress", "application/x-ar", "application/x-rpm",
        "application/x-deb", "application/vnd.debian.binary-package",
    }
)  # fmt: skip
_MAJOR: dict[str, Kind] = {"image": "image", "video": "video", "audio": "audio"}
_TEXT_NAMES = {
    "md": "text/markdown", "markdown": "text/markdown", "csv": "text/csv", "tsv": "text/tab-separated-values",
    "json": "application/json", "jsonl": "application/x-ndjson", "xml": "application/xml", "py": "text/x-python",
    "js": "text/javascript", "css": "text/css", "yaml": "application/yaml", "yml": "application/yaml",
}  # fmt: skip
_BEFORE = rb"\s|<!--(?:(?!-->).){0,2000}-->|<\?xml[^>]{0,200}\?>"
# What stands before is matched in one way only (`(?>`): comments behind comments would be tried in every combination.
_PAGE = re.compile(rb"(?>(?:" + _BEFORE + rb")*)<(?:!doctype\s+html|html|head|body)[\s>/]", re.I | re.S)
_DOCTYPE = rb"<!doctype\s+svg[^>\[]{0,500}(?:\[(?:(?!\]\s{0,20}>).){0,2000}\])?\s*>"
_DRAWING = re.compile(rb"(?>(?:" + _BEFORE + rb"|" + _DOCTYPE + rb")*)<(?:\w{1,100}:)?svg[\s>]", re.I | re.S)
_CAPTIONS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"WEBVTT(?:[ \t\r\n]|$)"), "text/vtt"),
    (re.compile(r"\s*\d{1,6}[ \t]*\r?\n\s*\d{1,3}:\d{2}:\d{2}[,.]\d{1,3}\s*-->"), "application/x-subrip"),
    (re.compile(r"\s*(?:;[^\n]*\n\s*)*\[Script Info\]", re.I), "text/x-ssa"),
)
_CONTROLS = frozenset(range(32)) - {9, 10, 12, 13, 27} | {127}


def kind_of(head: bytes, name: str = "") -> tuple[Kind, str]:
    """The kind of a file and its media type.

    Args:
        head: its first bytes, `HEAD` of them where there are as many.
        name: its name, for what bytes do not tell: which text, which office file.
    """
    head = head[:HEAD]
    if not head:
        return "empty", "application/octet-stream"
    suffix = PurePosixPath(name.lower()).suffix.lstrip(".")
    return _binary(head, suffix) or _text(head, suffix) or ("binary", _mime(head) or "application/octet-stream")


def decoded_head(head: bytes) -> str | None:
    """The text that a file begins with, in the encoding its first bytes show; None when it is not text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _printable(head[: len(head) // 2 * 2].decode("utf-16", "replace"))
    if _CONTROLS & set(head):
        return None
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start >= len(head) - 3 and error.reason == "unexpected end of data":
            return head[: error.start].decode("utf-8-sig")
    return _printable(head.decode("cp1252", "replace"))


def _printable(text: str) -> str | None:
    """A text of another encoding than UTF-8, unless it is bytes by chance."""
    strange = sum(1 for char in text if char == "\ufffd" or not (char.isprintable() or char in "\t\n\r\f\ufeff"))
    letters = sum(1 for char in text if char.isalnum() or char in " \n")
    return text if strange * 50 <= len(text) and letters * 2 >= len(text) else None


def _binary(head: bytes, suffix: str) -> tuple[Kind, str] | None:
    """Formats with a signature."""
    if head.startswith(b"PK\x03\x04"):
        return _zipped(head, suffix)
    if b"%PDF-" in head[:1024]:
        return "pdf", "application/pdf"
    if head.startswith(b"OggS"):
        return ("video", "video/ogg") if b"\x80theora" in head else ("audio", "audio/ogg")
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return "video", "video/mp2t"
    mime = _mime(head)
    if mime in _ARCHIVES:
        return "archive", mime
    kind = _MAJOR.get(mime.partition("/")[0])
    return (kind, mime) if kind is not None and mime != "image/svg+xml" else None


def _zipped(head: bytes, suffix: str) -> tuple[Kind, str]:
    """An office file or an archive: by the names of its first entries."""
    if head[30:38] == b"mimetype":
        mime = re.match(rb"[\w.+/-]{1,100}", head[38:])
        if mime is not None and b"opendocument" in mime[0]:
            return "office", mime[0].decode("ascii").removesuffix("PK")
        return "archive", "application/epub+zip"
    for folder, kind in _OFFICE_FOLDERS.items():
        if b"[Content_Types].xml" in head and folder in head:
            return "office", _OFFICE[kind]
    if b"[Content_Types].xml" in head and suffix in _OFFICE:
        return "office", _OFFICE[suffix]
    return "archive", "application/zip"


def _text(head: bytes, suffix: str) -> tuple[Kind, str] | None:
    text = decoded_head(head)
    if text is None:
        return None
    plain = text.lstrip("\ufeff").encode("utf-8", "replace")
    if _DRAWING.match(plain):
        return "svg", "image/svg+xml"
    if _PAGE.match(plain) or (suffix in ("html", "htm", "xhtml") and plain.lstrip().startswith(b"<")):
        return "html", "text/html"
    for pattern, mime in _CAPTIONS:
        if pattern.match(text.lstrip("\ufeff")):
            return "captions", mime
    return "text", _TEXT_NAMES.get(suffix, "text/plain")


def _mime(head: bytes) -> str:
    """By signature; empty when there is none."""
    import filetype

    found = filetype.guess_mime(head)
    return str(found) if found else ""
