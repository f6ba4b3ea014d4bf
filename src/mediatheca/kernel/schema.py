"""Bucket schemas: the properties an object may have, and the check of an object against them. Pure.

A property is a metadata property (filled from the object's own fields) or a file property (filled from a blob, or from
a field that holds text or an address). The wire knows fifteen types; what else callers declare is kept and shown as the
nearest of them, with the original in `declared_type`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, TypeAlias

from mediatheca.kernel.errors import FieldError, ValidationError

Loc: TypeAlias = tuple[str | int, ...]

WIRE_TYPES = (
    "string", "number", "integer", "float", "boolean", "object", "array", "date", "datetime",
    "text", "image", "audio", "video", "pdf", "excel",
)  # fmt: skip
NEAREST = {
    "json": "object", "binary": "string", "file": "string", "document": "pdf", "spreadsheet": "excel", "gif": "image",
}  # fmt: skip
TYPES = (*WIRE_TYPES, *NEAREST)
MEDIA_TYPES = frozenset({"image", "audio", "video", "pdf", "excel", "binary", "file", "document", "spreadsheet", "gif"})
TEXT_TYPES = frozenset({"string", "text"})
JSON_TYPES = frozenset({"object", "array", "json"})
_ANY_FILE = frozenset({"binary", "file", "document"})
_SPELLINGS = {"str": "string", "int": "integer", "bool": "boolean", "timestamp": "datetime", "list": "array"}
_NAME = re.compile(r"[^\x00-\x1f.$]{1,100}")
MAX_DEPTH = 8

RESERVED = frozenset(
    (
        "object_id", "bucket_id", "namespace_id", "internal_id", "blobs", "status", "created_at", "updated_at",
        "key_prefix", "_internal",
    )
)  # fmt: skip
"""Field names of the system; so is every name beginning with `__`."""


def is_reserved(name: str) -> bool:
    return name in RESERVED or name.startswith("__")


@dataclass(frozen=True, slots=True)
class Property:
    """One property of a schema. `type` is what was declared."""

    type: str
    required: bool = False
    default: Any = None
    enum: tuple[Any, ...] | None = None
    items: Property | None = None
    properties: Mapping[str, Property] = field(default_factory=dict)

    @property
    def wire_type(self) -> str:
        return NEAREST.get(self.type, self.type)

    @property
    def media(self) -> bool:
        """Filled by a file rather than a value."""
        return self.type in MEDIA_TYPES

    def takes_blob(self, blob_type: str) -> bool:
        """Whether a blob of this type may fill the property: text fits strings, gif fits images and videos."""
        if blob_type == self.type or wire_type(blob_type) == self.wire_type or self.type in ("binary", "file"):
            return True
        groups = (TEXT_TYPES, JSON_TYPES | TEXT_TYPES, {"image", "gif", "video"}, {"number", "integer", "float"})
        if self.type in TEXT_TYPES and blob_type in MEDIA_TYPES - {"binary", "file"}:
            return False
        return (blob_type in _ANY_FILE and self.media) or any({self.type, blob_type} <= set(group) for group in groups)


def wire_type(declared: str) -> str:
    return NEAREST.get(declared, declared)


def parse_schema(raw: Any, loc: Loc = ("body", "bucket_schema")) -> dict[str, Property]:
    """Properties by name.

    Raises:
        ValidationError: naming every offending property.
    """
    errors: list[FieldError] = []
    properties = raw.get("properties") if isinstance(raw, Mapping) else None
    if not isinstance(properties, Mapping) or not properties:
        raise ValidationError.at((*loc, "properties"), "must be an object with at least one property", "missing")
    parsed = _properties(properties, (*loc, "properties"), errors, 1)
    for name in properties:
        if is_reserved(str(name)):
            errors.append(FieldError((*loc, "properties", name), "is a name of the system; choose another", "reserved"))
    if errors:
        raise invalid(errors)
    return parsed


def _properties(raw: Mapping[str, Any], loc: Loc, errors: list[FieldError], depth: int) -> dict[str, Property]:
    found = {}
    for name, entry in raw.items():
        if not _NAME.fullmatch(name):
            errors.append(FieldError((*loc, name), "must have 1 to 100 characters, without '.' and '$'", "name"))
        made = _property(entry, (*loc, name), errors, depth)
        if made is not None:
            found[name] = made
    return found


def _property(raw: Any, loc: Loc, errors: list[FieldError], depth: int) -> Property | None:
    if isinstance(raw, str):
        raw = {"type": raw}
    if not isinstance(raw, Mapping):
        errors.append(FieldError(loc, "must be an object with a 'type'", "dict_type"))
        return None
    declared = raw.get("declared_type") or raw.get("type")
    kind = _SPELLINGS.get(str(declared).lower(), str(declared).lower())
    if kind not in TYPES:
        errors.append(FieldError((*loc, "type"), f"must be one of {', '.join(TYPES)}; got {declared!r}", "enum"))
        return None
    if depth > MAX_DEPTH:
        errors.append(FieldError(loc, f"is nested deeper than {MAX_DEPTH} levels", "depth"))
        return None
    items, nested = raw.get("items"), raw.get("properties")
    if nested is not None and not isinstance(nested, Mapping):
        errors.append(FieldError((*loc, "properties"), "must be an object", "dict_type"))
        nested = None
    made = Property(
        kind,
        _flag(raw.get("required", False), (*loc, "required"), errors),
        raw.get("default"),
        _enum(raw.get("enum"), (*loc, "enum"), errors),
        None if items is None else _property(items, (*loc, "items"), errors, depth + 1),
        _properties(nested, (*loc, "properties"), errors, depth + 1) if nested else {},
    )
    if made.default is not None:
        check_value(made, made.default, (*loc, "default"), errors)
    return made


def _flag(value: Any, loc: Loc, errors: list[FieldError]) -> bool:
    if value is not None and not isinstance(value, bool):
        errors.append(FieldError(loc, f"must be true or false, got {value!r}", "bool_type"))
    return value is True


def _enum(value: Any, loc: Loc, errors: list[FieldError]) -> tuple[Any, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        errors.append(FieldError(loc, "must be a list with at least one value", "list_type"))
        return None
    return tuple(value)


def normal_schema(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A valid schema as it is stored: every property an object whose `type` is what was declared."""
    return {**raw, "properties": {name: _normal(entry) for name, entry in raw["properties"].items()}}


def _normal(raw: Any) -> dict[str, Any]:
    given: Mapping[str, Any] = {"type": raw} if isinstance(raw, str) else raw
    entry = {name: value for name, value in given.items() if value is not None and name != "declared_type"}
    kind = str(given.get("declared_type") or given["type"]).lower()
    entry["type"] = _SPELLINGS.get(kind, kind)
    return entry | _nested(entry, _normal)


def present_schema(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored schema as callers read it: the wire's types, what was declared beside them."""
    return {**stored, "properties": {name: _present(entry) for name, entry in stored["properties"].items()}}


def _present(stored: Mapping[str, Any]) -> dict[str, Any]:
    declared = stored["type"]
    entry = {"required": False, **stored, "type": wire_type(declared)}
    if entry["type"] != declared:
        entry["declared_type"] = declared
    return entry | _nested(entry, _present)


def _nested(entry: Mapping[str, Any], act: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if entry.get("items") is not None:
        found["items"] = act(entry["items"])
    if entry.get("properties"):
        found["properties"] = {name: act(nested) for name, nested in entry["properties"].items()}
    return found


def invalid(errors: Iterable[FieldError]) -> ValidationError:
    """One error naming every offending field."""
    errors = list(errors)
    return ValidationError("; ".join(f"{'.'.join(map(str, e.loc[1:] or e.loc))}: {e.msg}" for e in errors[:50]), errors)


def check_fields(
    schema: Mapping[str, Property],
    fields: Mapping[str, Any],
    filled: Iterable[str],
    where: Callable[[str], Loc],
    errors: list[FieldError],
) -> dict[str, Any]:
    """Check an object's fields; `filled` are properties its blobs fill, `where` gives a field's location.

    Appends every problem to `errors`. Gives the fields with defaults applied.
    """
    result = dict(fields)
    filled = set(filled)
    for name, prop in schema.items():
        value = result.get(name)
        if value is None:
            if prop.default is not None and name not in filled:
                result[name] = prop.default
            elif prop.required and name not in filled:
                errors.append(FieldError(where(name), f"is required ({prop.type})", "missing"))
        else:
            check_value(prop, value, where(name), errors)
    return result


def check_value(prop: Property, value: Any, loc: Loc, errors: list[FieldError]) -> None:
    """Append every way in which `value` does not fit the property."""
    problem = _CHECKS[prop.type](value)
    if problem:
        errors.append(FieldError(loc, f"must be {problem}, got {_shown(value)}", f"{prop.type}_type"))
        return
    if prop.enum is not None and not any(type(value) is type(e) and value == e for e in prop.enum):
        errors.append(FieldError(loc, f"must be one of {list(prop.enum)}, got {_shown(value)}", "enum"))
    if prop.items is not None and isinstance(value, list):
        for number, item in enumerate(value):
            check_value(prop.items, item, (*loc, number), errors)
    if prop.properties and isinstance(value, Mapping):
        for name, nested in prop.properties.items():
            inner = value.get(name)
            if inner is not None:
                check_value(nested, inner, (*loc, name), errors)
            elif nested.required:
                errors.append(FieldError((*loc, name), f"is required ({nested.type})", "missing"))


def _shown(value: Any) -> str:
    return f"{repr(value)[:80]} ({type(value).__name__})"


def _of(*types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _is_iso(parse: Callable[[str], Any]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        try:
            return isinstance(value, str) and parse(value) is not None
        except ValueError:
            return False

    return check


def _is_integer(value: Any) -> bool:
    return _of(int)(value) or (isinstance(value, float) and value.is_integer())


def _check(test: Callable[[Any], bool], expected: str) -> Callable[[Any], str]:
    return lambda value: "" if test(value) else expected


_FILE = _check(_of(str), "a string (text, a URL, a data: URI or base64)")
_CHECKS: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys((*MEDIA_TYPES,), _FILE),
    "string": _check(_of(str), "a string"),
    "text": _check(_of(str), "a string"),
    "number": _check(_of(int, float), "a number"),
    "float": _check(_of(int, float), "a number"),
    "integer": _check(_is_integer, "an integer"),
    "boolean": _check(_of(bool), "true or false"),
    "object": _check(_of(dict), "an object"),
    "array": _check(_of(list), "a list"),
    "json": _check(_of(dict, list, str, int, float, bool), "a JSON value"),
    "date": _check(_is_iso(date.fromisoformat), "a date such as 2026-01-31"),
    "datetime": _check(_is_iso(datetime.fromisoformat), "a date and time such as 2026-01-31T12:00:00Z"),
}
