"""What a retriever takes: its input schema, and the check of the inputs of one execution."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from mediatheca.kernel.errors import FieldError, ValidationError
from mediatheca.kernel.ordering import parse_time

TEXT_TYPES = frozenset({"string", "text"})
CONTENT_TYPES = frozenset({"image", "audio", "video", "pdf", "excel"})
_ALIASES = {"str": "string", "int": "integer", "bool": "boolean", "url": "string", "list": "array", "dict": "object"}
_WRAPPER_KEYS = frozenset({"type", "properties", "required", "title", "description", "$schema", "additionalProperties"})


@dataclass(frozen=True, slots=True)
class InputField:
    """One declared input."""

    type: str
    required: bool = False
    default: Any = None
    has_default: bool = False
    enum: tuple[Any, ...] = ()
    items: InputField | None = None
    properties: Mapping[str, InputField] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InputReport:
    """The validated inputs, and what was understood of the ones given."""

    values: dict[str, Any]
    provided: list[str]
    inferred: dict[str, Any]
    ignored: list[str]
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class InputSchema:
    """The inputs of a retriever; with no fields, anything is taken as it is."""

    fields: Mapping[str, InputField] = field(default_factory=dict)

    def check(self, given: Mapping[str, Any], consumed: Collection[str] = ("*",)) -> InputReport:
        """Validate the inputs of an execution. `consumed`: the inputs something reads (`*`: all).

        A null is the same as not given. One unnamed text is taken for the one text input that is missing.

        Raises:
            ValidationError: every input that is missing or has the wrong type.
        """
        present = {name: value for name, value in given.items() if value is not None}
        inferred: dict[str, Any] = {}
        warnings: list[str] = []
        meant, sent = self._guess(present, consumed)
        if meant:
            present[meant] = inferred[meant] = present.pop(sent)
            warnings.append(f"the input '{meant}' was not given; '{sent}' was used for it. Send it as '{meant}'.")
        values = self._values(present, inferred)
        used = {*consumed, sent}
        ignored = [] if "*" in used else [name for name in given if name not in used]
        return InputReport(values, list(given), inferred, ignored, warnings)

    def _values(self, present: Mapping[str, Any], inferred: dict[str, Any]) -> dict[str, Any]:
        """Coerced values and defaults; undeclared inputs as they came."""
        values = {name: value for name, value in present.items() if name not in self.fields}
        errors: list[FieldError] = []
        for name, spec in self.fields.items():
            if name in present:
                _put(values, errors, name, spec, present[name])
            elif spec.has_default:
                values[name] = inferred[name] = spec.default
            elif spec.required:
                message = f"is required ({spec.type}); given: {', '.join(sorted(present)) or 'no inputs'}"
                errors.append(FieldError(("inputs", name), message, "missing"))
        if errors:
            raise ValidationError("; ".join(f"inputs.{e.loc[1]}: {e.msg}" for e in errors), errors)
        return values

    def _guess(self, present: Mapping[str, Any], consumed: Collection[str]) -> tuple[str, str]:
        """Some clients send `query_text` to a retriever that declares `query`: (declared name, name sent)."""
        extra = [n for n, value in present.items() if n not in self.fields and n not in consumed]
        texts = [n for n in extra if isinstance(present[n], str)]
        wanted = self._missing_text(present, consumed)
        return (wanted, texts[0]) if len(texts) == 1 and wanted is not None else ("", "")

    def _missing_text(self, present: Mapping[str, Any], consumed: Collection[str]) -> str | None:
        if not self.fields:
            names = [name for name in consumed if name != "*"]
            return names[0] if len(names) == 1 and names[0] not in present else None
        texts = {n: f for n, f in self.fields.items() if f.type in TEXT_TYPES and not f.enum and not f.has_default}
        missing = [name for name, spec in texts.items() if name not in present and spec.required]
        if not missing and len(texts) == 1:
            missing = [name for name in texts if name not in present and name in consumed]
        return missing[0] if len(missing) == 1 else None


def _put(values: dict[str, Any], errors: list[FieldError], name: str, spec: InputField, value: Any) -> None:
    try:
        values[name] = coerce(value, spec)
    except ValueError as error:
        errors.append(FieldError(("inputs", name), str(error), f"{spec.type}_type"))


def parse_input_schema(raw: Any, path: str = "input_schema") -> InputSchema:
    """An input schema in either form of the wire: `{name: field}`, or wrapped in `{"properties": {...}}`.

    Raises:
        ValidationError: every field with a type we do not know, or a default that does not fit its type.
    """
    if raw is None:
        return InputSchema()
    if not isinstance(raw, Mapping):
        raise ValidationError.at(
            path, f"must be an object of name → {{type, …}}, got {type(raw).__name__}", "dict_type"
        )
    required: set[str] = set()
    if (
        isinstance(raw.get("properties"), Mapping)
        and set(raw) <= _WRAPPER_KEYS
        and raw.get("type", "object") == "object"
    ):
        required = set(raw.get("required") or ()) if isinstance(raw.get("required"), list) else set()
        raw, path = raw["properties"], f"{path}.properties"
    errors: list[FieldError] = []
    fields = {name: _parse_field(spec, f"{path}.{name}", name in required, errors) for name, spec in raw.items()}
    if errors:
        raise ValidationError.of(errors)
    return InputSchema(fields)


def _parse_field(raw: Any, path: str, required: bool, errors: list[FieldError]) -> InputField:
    raw = {"type": raw} if isinstance(raw, str) else raw
    loc = tuple(path.split("."))
    if not isinstance(raw, Mapping) or not isinstance(raw.get("type"), str):
        errors.append(FieldError((*loc, "type"), f"must be one of {', '.join(sorted(_CHECKS))}, got {raw!r}", "enum"))
        return InputField("string")
    kind = _ALIASES.get(raw["type"].lower(), raw["type"].lower())
    if kind not in _CHECKS:
        close = difflib.get_close_matches(kind, _CHECKS, 1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        message = f"'{raw['type']}' is not a type; {hint}accepted: {', '.join(sorted(_CHECKS))}"
        errors.append(FieldError((*loc, "type"), message, "enum"))
        return InputField("string")
    nested = raw.get("properties") if isinstance(raw.get("properties"), Mapping) else {}
    spec = InputField(
        type=kind,
        required=raw.get("required") is True or required,
        enum=tuple(raw.get("enum") or ()),
        items=_parse_field(raw["items"], f"{path}.items", False, errors) if raw.get("items") else None,
        properties={n: _parse_field(f, f"{path}.properties.{n}", False, errors) for n, f in (nested or {}).items()},
    )
    return _with_default(spec, raw, loc, errors)


def _with_default(
    spec: InputField, raw: Mapping[str, Any], loc: tuple[str, ...], errors: list[FieldError]
) -> InputField:
    if raw.get("default") is None:
        return spec
    try:
        value = coerce(raw["default"], spec)
    except ValueError as error:
        errors.append(FieldError((*loc, "default"), str(error), "default"))
        return spec
    return InputField(spec.type, spec.required, value, True, spec.enum, spec.items, spec.properties)


def coerce(value: Any, spec: InputField) -> Any:
    """The value as the declared type, where nothing is lost by it.

    Raises:
        ValueError: it does not fit; the message names what was given and what is accepted.
    """
    value = _CHECKS[spec.type](value, spec)
    if spec.enum and value not in spec.enum:
        raise ValueError(f"must be one of {', '.join(map(repr, spec.enum))}, got {value!r}")
    return value


def _refuse(value: Any, wanted: str) -> ValueError:
    shown = repr(value)
    return ValueError(f"must be {wanted}, got {type(value).__name__} {shown if len(shown) <= 60 else shown[:59] + '…'}")


def _string(value: Any, spec: InputField) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise _refuse(value, "a text")


def _integer(value: Any, spec: InputField) -> int:
    found: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        found = value
    elif isinstance(value, float) and value.is_integer():
        found = int(value)
    elif isinstance(value, str) and len(value) <= 30:
        with suppress(ValueError):
            found = int(value)
    if found is None or not -(2**63) <= found < 2**63:
        raise _refuse(value, "an integer of at most 64 bits")
    return found


def _number(value: Any, spec: InputField) -> int | float:
    if isinstance(value, str) and len(value) <= 60:
        try:
            value = float(value)
        except ValueError:
            raise _refuse(value, "a number") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _refuse(value, "a finite number")
    return value


def _boolean(value: Any, spec: InputField) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "false": False, "1": True, "0": False}
    if isinstance(value, (str, int)) and str(value).lower() in known:
        return known[str(value).lower()]
    raise _refuse(value, "true or false")


def _object(value: Any, spec: InputField) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _refuse(value, "an object")
    return {k: coerce(v, spec.properties[k]) if k in spec.properties else v for k, v in value.items()}


def _array(value: Any, spec: InputField) -> list[Any]:
    if isinstance(value, dict):
        raise _refuse(value, "a list")
    values = value if isinstance(value, list) else [value]
    return [coerce(item, spec.items) for item in values] if spec.items else values


def _date(value: Any, spec: InputField) -> str:
    if isinstance(value, str):
        try:
            date.fromisoformat(value[:10])
            return value
        except ValueError:
            pass
    raise _refuse(value, "a date like 2026-01-31")


def _datetime(value: Any, spec: InputField) -> str:
    if isinstance(value, str) and parse_time(value) is not None:
        return value
    raise _refuse(value, "an ISO-8601 time like 2026-01-31T12:00:00Z")


def _content(value: Any, spec: InputField) -> str:
    if isinstance(value, dict):
        given = [value[key] for key in ("url", "base64", "data") if value.get(key)]
        value = given[0] if len(given) == 1 else value
    if isinstance(value, str) and value:
        return value
    raise _refuse(value, f"a URL, a data URI or base64 of the {spec.type}")


def _reference(value: Any, spec: InputField) -> dict[str, Any]:
    if isinstance(value, dict) and all(isinstance(value.get(k), str) for k in ("collection_id", "document_id")):
        return value
    raise _refuse(value, "{collection_id, document_id}")


_CHECKS: dict[str, Callable[[Any, InputField], Any]] = {
    "string": _string,
    "text": _string,
    "number": _number,
    "float": _number,
    "integer": _integer,
    "boolean": _boolean,
    "object": _object,
    "array": _array,
    "date": _date,
    "datetime": _datetime,
    **dict.fromkeys(CONTENT_TYPES, _content),
    "document_reference": _reference,
}


def input_schema_changes(old: InputSchema, new: InputSchema) -> None:
    """A stored retriever's inputs may change only in ways that keep its callers working.

    Raises:
        ValidationError: every input that was removed, changed its type, or became required.
    """
    errors = []
    for name, before in old.fields.items():
        after = new.fields.get(name)
        if after is None:
            errors.append(FieldError(("input_schema", name), "cannot be removed: callers send it", "incompatible"))
        elif after.type != before.type:
            message = f"cannot change its type from {before.type} to {after.type}"
            errors.append(FieldError(("input_schema", name, "type"), message, "incompatible"))
    for name, after in new.fields.items():
        known = old.fields.get(name)
        if after.required and not (known is not None and known.required):
            message = "cannot become required: callers do not send it"
            errors.append(FieldError(("input_schema", name, "required"), message, "incompatible"))
    if errors:
        raise ValidationError.of(errors)
