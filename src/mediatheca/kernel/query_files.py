"""The file of a query as the wire has it: inline, by its address, or an upload; and what kind of file it is. Pure."""

from __future__ import annotations

import base64
import binascii
import mimetypes
import re
from typing import Literal
from urllib.parse import unquote_to_bytes, urlsplit

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.sniff import Kind, kind_of

LONG: frozenset[str] = frozenset({"video", "audio", "pdf"})
"""Kinds of files that are looked for piece by piece without being asked to."""
_PLACE = "searches.query.value"
_TOLD = 16_384
"""Characters of an inline file that are looked at to tell its kind: whole groups of base64, more bytes than needed."""
_BY_MIME: dict[str, Kind] = {"image": "image", "video": "video", "audio": "audio", "text": "text"}


def is_address(content: str) -> bool:
    """An http(s) or s3 URL: anything else is inline, or an upload."""
    return content.startswith(("http://", "https://", "s3://"))


def is_upload(content: str) -> bool:
    """The id of an upload, in the place of a file."""
    return re.fullmatch(r"upl_[0-9A-Za-z_-]{6,60}", content) is not None


def decode_inline(content: str) -> tuple[str, bytes]:
    """Media type and bytes of a data URI or of base64.

    Raises:
        ValidationError: it is neither.
    """
    try:
        if not content.startswith("data:"):
            return "", base64.b64decode(content, validate=True)
        head, comma, body = content[5:].partition(",")
        if not comma:
            raise ValidationError.at(_PLACE, "a data URI has the form data:image/png;base64,…", "data_uri")
        mime = head.partition(";")[0] or "text/plain"
        if head.endswith(";base64"):
            return mime, base64.b64decode(unquote_to_bytes(body), validate=True)
        return mime, unquote_to_bytes(body)
    except (binascii.Error, ValueError) as error:
        shown = content if len(content) <= 40 else content[:39] + "…"
        message = f"must be an http(s) or s3 URL, a data URI or base64, got '{shown}'"
        raise ValidationError.at(_PLACE, message, "content") from error


def kind_of_file(data: bytes, mime: str) -> Kind:
    """The kind of a file: what is said to be text is; else its signature tells, and where it has none, what it is said
    to be."""
    said = _of_mime(mime)
    if said == "text":
        return "text"
    found = kind_of(data)[0]
    return said if said and found in ("binary", "text") else found


def told_kind(value: object) -> Kind | Literal[""]:
    """The kind of a file as far as the query itself tells: of an inline one by its first bytes, of one behind an
    address by the name it ends with. Empty where only the file tells, and for what is no file."""
    if not isinstance(value, str) or not value or is_upload(value):
        return ""
    start = value.find(",") + 1 if value.startswith("data:") else 0
    try:
        if is_address(value):
            return _of_mime(mimetypes.guess_type(urlsplit(value).path)[0] or "")
        mime, data = decode_inline(value[: start + _TOLD])
    except (ValidationError, ValueError):  # urlsplit refuses some addresses
        return ""
    return kind_of_file(data, mime)


def may_be_long(value: object) -> bool:
    """Whether a file may be one that is looked for piece by piece."""
    return told_kind(value) in ("", *LONG)


def _of_mime(mime: str) -> Kind | Literal[""]:
    return "pdf" if mime == "application/pdf" else _BY_MIME.get(mime.partition("/")[0], "")
