"""What a blob of an object request holds: text, JSON, bytes, an upload or a reference, brought into one shape.

Nothing is stored here and nothing is fetched, except by `fetch_into`, which must not run inside a transaction.
"""

from __future__ import annotations

import binascii
import hashlib
import mimetypes
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import orjson

from mediatheca.flows.objects.limits import MAX_FILENAME_LENGTH, check_metadata, check_prefix
from mediatheca.kernel.errors import FieldError, ForbiddenError, MediathecaError, ValidationError
from mediatheca.kernel.schema import JSON_TYPES, MEDIA_TYPES, TEXT_TYPES, Loc, Property, check_value
from mediatheca.stores.db.tx import Row
from mediatheca.stores.fetch import Fetcher

INLINE_BYTES = 16 << 10
"""Texts and JSON up to this size live in the database row."""
FETCH_TIMEOUT_S = 30.0
_REFERENCE = re.compile(r"(?:https?|s3|gs|az|azure|abfss?)://\S{1,2076}", re.IGNORECASE)
_DATA_URI = re.compile(r"data:(?P<mime>[\w.+-]+/[\w.+-]+)?(?P<params>(?:;[\w.=+-]+)*?)(?P<b64>;base64)?,", re.ASCII)
_CHECKSUM = re.compile(r"(?:sha256:)?(?P<hex>[0-9a-f]{64})")
_SOURCES = ("data", "content", "url", "upload_id")
_MAJOR = {"image": ("image",), "gif": ("image",), "video": ("video", "audio", "image/gif"), "audio": ("audio", "video")}
_OFFICE = ("application", "text")
_MAX_BLOBS = 100
_MAX_NAMED = 30
_KINDS: dict[type, str] = {dict: "an object", str: "a string", bool: "true or false"}


@dataclass(slots=True)
class Content:
    """One blob to be. Exactly one of `inline`, `data`, `store_key`, `source_url` says where its content is."""

    property: str
    type: str
    loc: Loc
    inline: Any = None
    data: bytes | None = None
    store_key: str | None = None
    upload_id: str | None = None
    """Of the upload that `store_key` comes from."""
    source_url: str | None = None
    filename: str | None = None
    mime_type: str = "application/octet-stream"
    size: int = 0
    hash: str | None = None
    checksum: str | None = None
    canonicalize: bool = True
    key_prefix: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None
    """Why the object fails: the content was found not to be what was announced."""


def read_blobs(
    raw: Any, schema: Mapping[str, Property], uploads: Mapping[str, Row], canonicalize: bool, errors: list[FieldError]
) -> list[Content]:
    """The blobs of a request; problems go to `errors`, each with its place."""
    where: Loc = ("body", "blobs")
    if raw is None:
        return []
    if not isinstance(raw, list) or len(raw) > _MAX_BLOBS:
        errors.append(FieldError(where, f"must be a list of at most {_MAX_BLOBS} blobs", "list_type"))
        return []
    found = []
    for number, entry in enumerate(raw):
        if not isinstance(entry, Mapping):
            errors.append(FieldError((*where, number), "must be an object", "dict_type"))
            continue
        content = _read_blob(entry, schema, uploads, (*where, number), errors)
        if content is not None:
            own = _optional(entry, "canonicalize_source", bool, (*where, number), errors)
            content.canonicalize = canonicalize if own is None else own
            found.append(content)
    return found


def _read_blob(
    raw: Mapping[str, Any],
    schema: Mapping[str, Property],
    uploads: Mapping[str, Row],
    loc: Loc,
    errors: list[FieldError],
) -> Content | None:
    name = raw.get("property")
    prop = schema.get(name) if isinstance(name, str) else None
    if not isinstance(name, str) or prop is None:
        given = "is required" if name is None else f"{repr(name)[:120]} is not a property of the bucket"
        message = f"{given}; it has: {some_names(schema)}"
        errors.append(FieldError((*loc, "property"), message, "missing" if name is None else "unknown_property"))
        return None
    content = Content(name, _blob_type(raw, prop, loc, errors), loc)
    content.key_prefix = _optional(raw, "key_prefix", str, loc, errors)
    check_prefix(content.key_prefix, (*loc, "key_prefix"), errors)
    content.filename = _filename(raw, loc, errors)
    content.metadata = dict(_optional(raw, "metadata", dict, loc, errors) or {})
    check_metadata(content.metadata, (*loc, "metadata"), errors)
    content.checksum = _checksum(raw, loc, errors)
    sources = [source for source in _SOURCES if raw.get(source) is not None]
    if len(sources) != 1:
        message = f"exactly one of {', '.join(_SOURCES)} must be given, got: {', '.join(sources) or 'none'}"
        errors.append(FieldError(loc, message, "blob_source"))
        return None
    try:
        _fill(content, prop, sources[0], raw[sources[0]], uploads)
        _verify(content)
    except ValidationError as error:
        errors += error.errors
    return content


def _blob_type(raw: Mapping[str, Any], prop: Property, loc: Loc, errors: list[FieldError]) -> str:
    given = raw.get("type")
    if given is None or given == "auto":
        return prop.type
    if not isinstance(given, str) or not prop.takes_blob(given.lower()):
        message = f"{repr(given)[:80]} does not fit the property's type '{prop.type}'"
        errors.append(FieldError((*loc, "type"), message, "blob_type"))
        return prop.type
    return given.lower()


def some_names(schema: Mapping[str, Property]) -> str:
    """The properties of a bucket for an error message, not all of hundreds."""
    names = list(schema)
    more = f", … ({len(names)} in all)" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more


def _optional(raw: Mapping[str, Any], name: str, kind: type, loc: Loc, errors: list[FieldError]) -> Any:
    value = raw.get(name)
    if value is not None and not isinstance(value, kind):
        message = f"must be {_KINDS[kind]}, got {type(value).__name__}"
        errors.append(FieldError((*loc, name), message, "type"))
        return None
    return value


def _filename(raw: Mapping[str, Any], loc: Loc, errors: list[FieldError]) -> str | None:
    name: str | None = _optional(raw, "filename", str, loc, errors)
    if name is not None and len(name) > MAX_FILENAME_LENGTH:
        message = f"must have at most {MAX_FILENAME_LENGTH:,} characters, got {len(name):,}"
        errors.append(FieldError((*loc, "filename"), message, "string_too_long"))
    return name


def _checksum(raw: Mapping[str, Any], loc: Loc, errors: list[FieldError]) -> str | None:
    given = raw.get("checksum")
    if given is None:
        return None
    match = _CHECKSUM.fullmatch(given.lower()) if isinstance(given, str) else None
    if match is None:
        errors.append(
            FieldError((*loc, "checksum"), f"must be sha256:<64 hex digits>, got {repr(given)[:100]}", "checksum")
        )
        return None
    return match["hex"]


def _fill(content: Content, prop: Property, source: str, value: Any, uploads: Mapping[str, Row]) -> None:
    loc = (*content.loc, source)
    if source == "upload_id":
        _from_upload(content, value, uploads, loc)
    elif source == "url":
        if not isinstance(value, str) or not _REFERENCE.fullmatch(value):
            raise ValidationError.at(loc, "must be a URL (http, https) of at most 2083 characters", "url")
        refer(content, value, loc)
    elif isinstance(value, str) and source == "data" and _REFERENCE.fullmatch(value):
        refer(content, value, loc)
    elif isinstance(value, str):
        _from_string(content, prop, value, loc)
    else:
        _from_value(content, prop, value, loc)


def refer(content: Content, url: str, loc: Loc) -> None:
    """Point at an address; what is there is fetched later."""
    if not url.lower().startswith(("http://", "https://")):
        scheme = url.partition(":")[0]
        raise ValidationError.at(
            loc,
            f"{scheme}:// needs a storage connection, which is not set up; use http(s), data or upload_id",
            "scheme",
        )
    content.source_url = url
    content.filename = content.filename or unquote_to_bytes(urlsplit(url).path.rpartition("/")[2]).decode(
        "utf-8", "replace"
    )
    content.mime_type = guess_mime(content.filename, content.type)


def _from_upload(content: Content, ident: Any, uploads: Mapping[str, Row], loc: Loc) -> None:
    row = uploads.get(ident) if isinstance(ident, str) else None
    if row is None:
        raise ValidationError.at(loc, f"{repr(ident)[:100]} is not an upload of this bucket", "upload")
    if row["status"] != "COMPLETED":
        raise ValidationError.at(loc, f"upload {ident} is {row['status']}; confirm it first", "upload")
    use_upload(content, row)


def use_upload(content: Content, row: Row) -> None:
    """Take the stored bytes of a confirmed upload as the content."""
    content.store_key, content.hash, content.upload_id = row["store_key"], row["file_hash"], row["upload_id"]
    content.size, content.mime_type = row["body"]["file_size_bytes"], row["body"]["detected_type"]
    content.filename = row["body"]["filename"]
    content.failure = contradiction(content.type, content.mime_type)


def _from_string(content: Content, prop: Property, value: str, loc: Loc) -> None:
    match = _DATA_URI.match(value)
    data, mime = None, None
    if match is not None:
        rest, mime = value[match.end() :], match["mime"]
        data = _base64(rest, loc) if match["b64"] else unquote_to_bytes(rest)
    if content.type in MEDIA_TYPES:
        set_bytes(content, data if data is not None else _base64(value, loc), mime)
        if content.size == 0:
            raise ValidationError.at(loc, "is empty", "empty")
        return
    text = value if data is None else _text(data, loc)
    if content.type in TEXT_TYPES:
        check_inline(prop, text, loc)
        _set_text(content, text)
    else:
        _from_value(content, prop, _json(text, content.type, loc), loc)


def _from_value(content: Content, prop: Property, value: Any, loc: Loc) -> None:
    if content.type in MEDIA_TYPES | TEXT_TYPES:
        raise ValidationError.at(loc, f"must be a string for a {content.type} blob, got {type(value).__name__}", "type")
    check_inline(prop, value, loc)
    encoded = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    content.mime_type, content.size, content.hash = "application/json", len(encoded), digest(encoded)
    if len(encoded) <= INLINE_BYTES:
        content.inline = value
    else:
        content.data = encoded


def check_inline(prop: Property, value: Any, loc: Loc) -> None:
    """Raises ValidationError when a value does not fit the property it fills."""
    errors: list[FieldError] = []
    check_value(prop, value, loc, errors)
    if errors:
        raise ValidationError(errors[0].msg, errors)


def _set_text(content: Content, text: str) -> None:
    encoded = text.encode()
    content.mime_type, content.size, content.hash = "text/plain", len(encoded), digest(encoded)
    if len(encoded) <= INLINE_BYTES:
        content.inline = text
    else:
        content.data = encoded


def set_bytes(content: Content, data: bytes, announced: str | None = None) -> None:
    """Take `data` as the content: hash, size, and a media type by its first bytes, else as announced."""
    content.data, content.size, content.hash = data, len(data), digest(data)
    content.mime_type = sniff(data) or announced or guess_mime(content.filename, content.type)
    content.failure = contradiction(content.type, content.mime_type)


def _base64(value: str, loc: Loc) -> bytes:
    compact = "".join(value.split()) if any(space in value for space in " \r\n\t") else value
    try:
        return binascii.a2b_base64(compact + "=" * (-len(compact) % 4), strict_mode=True)
    except (binascii.Error, ValueError) as error:
        message = f"is neither a URL, nor a data: URI, nor base64 ({error}): {value[:40]!r}"
        raise ValidationError.at(loc, message, "base64") from error


def _text(data: bytes, loc: Loc) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValidationError.at(loc, f"is not UTF-8 text: {error}", "encoding") from error


def _json(text: str, kind: str, loc: Loc) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if kind in JSON_TYPES:
            raise ValidationError.at(loc, f"is not JSON: {error}", "json_invalid") from error
        return text


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sniff(data: bytes) -> str | None:
    """The media type that the first bytes say, None when they say nothing."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    import filetype

    kind = filetype.guess(data[:8192])
    return None if kind is None else str(kind.mime)


def guess_mime(filename: str | None, blob_type: str) -> str:
    """By the file's name, where it fits the type."""
    guessed = mimetypes.guess_type(filename or "")[0]
    if guessed is not None and contradiction(blob_type, guessed) is None:
        return guessed
    return {"text": "text/plain", "pdf": "application/pdf"}.get(blob_type, "application/octet-stream")


def contradiction(blob_type: str, mime: str) -> str | None:
    """Why content of this media type cannot be what the blob was declared as, None when it can."""
    if mime == "application/octet-stream":
        return None
    allowed = _MAJOR.get(blob_type)
    if blob_type == "pdf":
        allowed = ("application/pdf",)
    elif blob_type in ("excel", "spreadsheet"):
        allowed = _OFFICE
    if allowed is None or any(mime == entry or mime.startswith(f"{entry}/") for entry in allowed):
        return None
    return f"declared as {blob_type}, but its content is {mime}"


def _verify(content: Content) -> None:
    if content.checksum is not None and content.hash is not None and content.hash != content.checksum:
        message = f"does not match the content, whose SHA-256 is {content.hash}"
        raise ValidationError.at((*content.loc, "checksum"), message, "checksum")


def fetch_into(content: Content, fetcher: Fetcher, max_bytes: int) -> None:
    """Replace a reference by what is there. An unreachable source makes the blob fail, with the reason.

    Raises:
        ValidationError: the address is one that this server will never fetch from.
    """
    url = content.source_url or ""
    try:
        got = fetcher.fetch(url, max_bytes=max_bytes, timeout_s=FETCH_TIMEOUT_S, accept=())
    except (ForbiddenError, ValidationError) as error:
        raise ValidationError.at((*content.loc, "url"), error.message, "url_refused") from error
    except MediathecaError as error:
        content.failure = f"{url} could not be fetched: {error.message}"
        return
    content.filename = got.filename or content.filename
    set_bytes(content, got.data, got.content_type or None)
    if content.size == 0:
        content.failure, content.data = f"{url} answered with an empty file", None
    elif content.checksum is not None and content.checksum != content.hash:
        content.failure = f"{url} has the SHA-256 {content.hash}, not {content.checksum}"
