"""Answers of object stores: XML read with care, and refusals in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from xml.etree import ElementTree as ET

from mediatheca.connectors import Reply, SourceError

_CODE = re.compile(r"<Code>\s*([A-Za-z]{1,80})\s*</Code>")
_REGION = re.compile(r"[a-z0-9-]{1,40}")
_SECRETS = ("SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "ExpiredToken", "AuthenticationFailed")
_ARCHIVED = ("InvalidObjectState", "BlobArchived")
_PLACES = ("NoSuchBucket", "ContainerNotFound", "AuthorizationHeaderMalformed", "PermanentRedirect")


def elements(data: bytes) -> ET.Element:
    """The root of an XML answer.

    Raises:
        SourceError: it is no XML, or declares entities, which no object store does.
    """
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise SourceError("bad_answer", "the store's answer declares XML entities; it is no object store", fatal=True)
    try:
        return ET.fromstring(data)  # noqa: S314  entities were refused above
    except ET.ParseError as error:
        raise SourceError("bad_answer", "the store's answer is not XML; check endpoint_url", fatal=True) from error


def children(parent: ET.Element, name: str) -> Iterator[ET.Element]:
    """Direct children of that name, whatever their namespace."""
    return (child for child in parent if child.tag.rpartition("}")[2] == name)


def text(parent: ET.Element, name: str) -> str:
    """The text of the first child of that name, or nothing."""
    found = next(children(parent, name), None)
    return "" if found is None else (found.text or "")


def moment(value: str) -> datetime | None:
    """A time of a listing (ISO 8601) or of a header (RFC 1123); None where there is none."""
    try:
        return datetime.fromisoformat(value) if value[:4].isdigit() else parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None


def whole(value: str | None) -> int:
    """A size. Raises SourceError for what is none."""
    if value is None or not (value.isascii() and value.isdigit() and len(value) < 19):
        raise SourceError("bad_answer", "the store's answer has no size where one belongs", transient=True)
    return int(value)


def code_of(reply: Reply) -> str:
    """The store's word for what is wrong."""
    header = reply.headers.get("x-ms-error-code", "")
    if header.isascii() and header.isalpha() and len(header) <= 80:
        return header
    found = _CODE.search(reply.data[:4096].decode("utf-8", "replace"))
    return found[1] if found else ""


def refusal(reply: Reply, what: str, *, file: bool) -> SourceError:
    """An answer that is none. `what` was asked for; `file`: it is one file, and others may be read all the same."""
    code, status = code_of(reply), reply.status
    said = f"{status} {code}".strip()
    if status in (408, 429) or status >= 500:
        return SourceError("unavailable", f"{what}: the store answered {said}; try again later", transient=True)
    if code in _ARCHIVED:
        return SourceError("source_archived", f"{what} lies in an archive ({said}); restore it in the store first")
    if code in _PLACES or status in (301, 307, 308):
        return SourceError("wrong_place", _misplaced(reply.headers, what, said), fatal=True)
    if status in (401, 403):
        fatal = not file or code in _SECRETS
        message = f"{what}: the store refuses these credentials ({said}); check key, secret and policy"
        return SourceError("access_denied", message, fatal=fatal)
    if status == 404:
        return SourceError("not_found", f"{what} is not there ({said})", fatal=not file)
    if status == 412:
        return SourceError("changed", f"{what} changed while it was read", transient=True)
    return SourceError("refused", f"{what}: the store answered {said}", fatal=not file)


def _misplaced(headers: Mapping[str, str], what: str, said: str) -> str:
    region = headers.get("x-amz-bucket-region", "")
    if _REGION.fullmatch(region):
        return f"{what}: the bucket is in the region '{region}' ({said}); set region to it"
    return f"{what} is not there ({said}); check the names of bucket or container, region and endpoint_url"
