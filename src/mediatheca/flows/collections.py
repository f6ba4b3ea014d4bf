"""What a collection will produce, worked out at creation: inputs, vector indexes, output schema, indexed fields."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError as PydanticError

from mediatheca.extractors import Description, Extractor
from mediatheca.flows.outside.readiness import Readiness
from mediatheca.flows.services import Services
from mediatheca.kernel.errors import FieldError, NotFoundError, ValidationError
from mediatheca.kernel.mapping import Passthrough, parse_inputs, parse_passthrough

_WHERE = ("feature_extractor",)
# An index of integers would hide fractions that documents may hold all the same.
_INDEXED = {
    "string": "keyword", "text": "text", "integer": "float", "number": "float", "float": "float",
    "boolean": "bool", "date": "datetime", "datetime": "datetime",
}  # fmt: skip
_MEDIA = {"image", "video", "audio", "pdf", "excel", "binary", "file", "document"}


def find_extractor(services: Services, name: str, version: str) -> Extractor:
    """By its name or one of its other names. Raises NotFoundError with the likely name."""
    known = services.extractors
    found = known.get(f"{name}_{version}")
    found = found or next((each for each in known.values() if name in each.aliases and each.version == version), None)
    if found is None:
        error = NotFoundError("feature extractor", f"{name}@{version}")
        error.details["available"] = sorted(services.extractors)
        close = difflib.get_close_matches(f"{name}_{version}", services.extractors, 1)
        error.details["did_you_mean"] = close[0] if close else None
        raise error
    return found


def design(services: Services, sources: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> dict[str, Any]:
    """The stored parts of a collection that follow from its sources and extractor. `sources`: the properties that each
    bucket or collection it reads from declares.

    Raises:
        ValidationError: naming each offending mapping, parameter or passthrough field.
        NotFoundError: no such extractor.
        UnavailableError: the extractor's model is not there; said now, not in the middle of a batch.
    """
    name = config.get("feature_extractor_name")
    if not isinstance(name, str) or not name:
        raise ValidationError.at((*_WHERE, "feature_extractor_name"), "is required", "missing")
    extractor = find_extractor(services, name, str(config.get("version") or "v1"))
    schema = {name: rule for properties in sources for name, rule in properties.items()}
    inputs = _inputs(extractor, config.get("input_mappings"), schema)
    passed = parse_passthrough(config.get("field_passthrough"))
    parameters = check_parameters(extractor, config.get("parameters") or config.get("params") or {})
    described = extractor.describe(extractor.params.model_validate(parameters), services.models)
    _check_needs(services, described)
    output = _output(schema, passed, described, bool(config.get("include_all_source_fields")))
    return {
        "feature_extractor": {
            "feature_extractor_name": extractor.name,
            "version": extractor.version,
            "feature_extractor_id": extractor.extractor_id,
            "parameters": parameters,
            "input_mappings": config.get("input_mappings") or {},
            "inputs": inputs,
            "weight": extractor.weight,
            "field_passthrough": [entry.as_dict() for entry in passed],
            "include_all_source_fields": bool(config.get("include_all_source_fields")),
        },
        "input_schema": {"properties": schema},
        "output_schema": {"properties": output},
        "vector_indexes": [asdict(index) for index in described.vectors],
        "indexed_fields": {
            path: _INDEXED[field["type"]] for path, field in output.items() if field["type"] in _INDEXED
        },
    }


def _check_needs(services: Services, described: Description) -> None:
    """Raises ValidationError: this installation lacks what the extractor cannot do without, with these parameters."""
    ready = Readiness(services.settings)
    for need in sorted(described.needs):
        if reason := ready.lacking(need):
            raise ValidationError.at((*_WHERE, "parameters"), reason, "unavailable")


def check_parameters(extractor: Extractor, given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with their defaults.

    Raises:
        ValidationError: every offending parameter with its path.
    """
    try:
        model = extractor.params.model_validate(dict(given))
    except PydanticError as error:
        found = [
            FieldError(
                (*_WHERE, "parameters", *entry["loc"]), f"{entry['msg']}, got {entry.get('input')!r}", entry["type"]
            )
            for entry in error.errors()
        ]
        raise ValidationError("; ".join(f"{'.'.join(map(str, e.loc))}: {e.msg}" for e in found), found) from error
    return model.model_dump(mode="json")


def _inputs(extractor: Extractor, raw: Any, schema: Mapping[str, Any]) -> dict[str, list[str]]:
    """Extractor input → source paths; without a mapping: same names, else the only field of a fitting type."""
    mapped = parse_inputs(raw)
    errors = [error for name, paths in mapped.items() for error in _misfits(extractor, name, paths, schema)]
    if errors:
        raise ValidationError("; ".join(f"{'.'.join(map(str, e.loc))}: {e.msg}" for e in errors), errors)
    if not mapped:
        mapped = _guess(extractor, schema)
    missing = sorted(extractor.required - set(mapped))
    if missing:
        raise ValidationError.at(
            (*_WHERE, "input_mappings"), f"'{extractor.name}' needs a source field for: {', '.join(missing)}", "missing"
        )
    return mapped


def _misfits(extractor: Extractor, name: str, paths: Sequence[str], schema: Mapping[str, Any]) -> Iterator[FieldError]:
    """What is wrong with the mapping of one input."""
    where = (*_WHERE, "input_mappings", name)
    if name not in extractor.inputs:
        known = ", ".join(extractor.inputs)
        yield FieldError(where, f"'{extractor.name}' has no input '{name}'; it has: {known}")
    for path in paths:
        if path.split(".")[0] not in (*schema, "metadata"):
            close = difflib.get_close_matches(path, list(schema), 1)
            hint = f"; did you mean '{close[0]}'?" if close else f"; it has: {', '.join(schema)}"
            yield FieldError(where, f"'{path}' is not a field of the source{hint}")


def _guess(extractor: Extractor, schema: Mapping[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, types in extractor.inputs.items():
        if name in schema:
            found[name] = [name]
            continue
        fitting = [field for field, rule in schema.items() if rule.get("type") in types]
        if len(fitting) == 1:
            found[name] = fitting
    return found


def _output(
    schema: Mapping[str, Any], passed: Sequence[Passthrough], described: Description, everything: bool
) -> dict[str, dict[str, Any]]:
    """The fields of the documents to be."""
    output: dict[str, dict[str, Any]] = {}
    if everything:
        output |= {name: dict(rule) for name, rule in schema.items() if rule.get("type") not in _MEDIA}
    errors = []
    for number, entry in enumerate(passed):
        where = (*_WHERE, "field_passthrough", number)
        rule = schema.get(entry.source_path, {"type": "string"})
        if entry.target_path in described.fields and entry.source_path not in schema:
            errors.append(FieldError(where, f"'{entry.target_path}' is already an output of the extractor"))
        output[entry.target_path] = {**rule, "type": "string"} if rule.get("type") in _MEDIA else dict(rule)
    if errors:
        raise ValidationError("; ".join(e.msg for e in errors), errors)
    return {**output, **described.fields}
