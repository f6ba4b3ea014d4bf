"""How much one object may hold. Generous: they stop mistakes and abuse, not use (docs/configuration.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from mediatheca.kernel.errors import FieldError, ValidationError
from mediatheca.kernel.schema import Loc, invalid

MAX_KEYS = 1000
MAX_KEY_LENGTH = 255
MAX_METADATA_BYTES = 1 << 20
MAX_FIELDS_BYTES = 16 << 20
MAX_PREFIX_LENGTH = 1024
MAX_FILENAME_LENGTH = 1024


def check_prefix(value: str | None, loc: Loc, errors: list[FieldError]) -> None:
    """A `key_prefix`: how long it may be."""
    if value is not None and len(value) > MAX_PREFIX_LENGTH:
        message = f"must have at most {MAX_PREFIX_LENGTH:,} characters, got {len(value):,}"
        errors.append(FieldError(loc, message, "string_too_long"))


def check_fields_size(values: Mapping[str, Any], loc: Loc, errors: list[FieldError]) -> None:
    """The own fields of an object, those of `metadata` included."""
    check_mapping(values, loc, MAX_FIELDS_BYTES, errors)


def check_metadata(values: Mapping[str, Any] | None, loc: Loc, errors: list[FieldError]) -> None:
    """Free metadata of an object, a blob, an upload, a bucket."""
    check_mapping(values or {}, loc, MAX_METADATA_BYTES, errors)


def need_metadata(values: Mapping[str, Any] | None, *loc: str | int) -> None:
    """Raises ValidationError when it is too much."""
    errors: list[FieldError] = []
    check_metadata(values, loc, errors)
    if errors:
        raise invalid(errors)


def check_mapping(values: Mapping[str, Any], loc: Loc, largest: int, errors: list[FieldError]) -> None:
    """Number and length of the keys, and bytes as JSON."""
    if len(values) > MAX_KEYS:
        message = f"must have at most {MAX_KEYS:,} keys, got {len(values):,}"
        errors.append(FieldError(loc, message, "too_many_keys"))
    long = next((name for name in values if len(name) > MAX_KEY_LENGTH), None)
    if long is not None:
        message = f"a key may have at most {MAX_KEY_LENGTH} characters, got {len(long):,}: {long[:40]!r}…"
        errors.append(FieldError(loc, message, "key_too_long"))
    size = json_size(values, loc)
    if size > largest:
        message = f"takes {size:,} bytes of JSON; at most {largest:,} are accepted"
        errors.append(FieldError(loc, message, "too_large"))


def json_size(value: Any, loc: Loc) -> int:
    """Bytes of a value as JSON.

    Raises:
        ValidationError: no JSON can carry it.
    """
    try:
        return len(orjson.dumps(value))
    except orjson.JSONEncodeError as error:
        raise ValidationError.at(loc, f"holds a value that cannot be stored: {error}", "unstorable") from error
