"""What a collection will produce, worked out at creation: inputs, vector indexes, output schema, indexed fields."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from pydantic import ValidationError as PydanticError

from mediatheca.extractors import Description, Extractor
from mediatheca.flows.outside.readiness import Readiness
from mediatheca.flows.retrieve.keys import unknown_keys
from mediatheca.flows.services import Services
from mediatheca.kernel.errors import FieldError, NotFoundError, ValidationError
from mediatheca.kernel.extras import require
from mediatheca.kernel.mapping import Passthrough, parse_inputs, parse_passthrough
from mediatheca.kernel.no_effect import CODE, without_effect

MAX_NOTES = 50
_WHERE = ("feature_extractor",)
_PARAMETERS = (*_WHERE, "parameters")
_TASK = "embedding_task"
_DOCUMENT_TASKS = ("document", "retrieval_document")
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


def design(
    services: Services,
    sources: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    *,
    embedding_task: str | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """The stored parts of a collection that follow from its sources and extractor, with `warnings`.

    Args:
        sources: the properties that each bucket or collection it reads from declares.
        embedding_task: the collection's, which is that parameter of its extractor.
        strict: refuse what would be a warning.

    Raises:
        ValidationError: naming each offending mapping, parameter or passthrough field.
        NotFoundError: no such extractor.
        UnavailableError: the extractor's model, or what reads a mapped field, is not there; said now, not in the middle
            of a batch.
    """
    name = config.get("feature_extractor_name")
    if not isinstance(name, str) or not name:
        raise ValidationError.at((*_WHERE, "feature_extractor_name"), "is required", "missing")
    extractor = find_extractor(services, name, str(config.get("version") or "v1"))
    schema = {name: rule for properties in sources for name, rule in properties.items()}
    inputs = _inputs(extractor, config.get("input_mappings"), schema)
    _check_extras(extractor, inputs, schema)
    passed = parse_passthrough(config.get("field_passthrough"))
    given = _with_task(extractor, config.get("parameters") or config.get("params") or {}, embedding_task)
    parameters = check_parameters(extractor, given)
    notes = parameter_notes(extractor, given, embedding_task, strict=strict)
    notes += _undeclared(passed, schema)
    described = extractor.describe(extractor.params.model_validate(parameters), services.models)
    _check_needs(services, described)
    output = _output(schema, passed, described, bool(config.get("include_all_source_fields")))
    return {
        "feature_extractor": _declared(extractor, config, parameters, inputs, passed),
        "input_schema": {"properties": schema},
        "output_schema": {"properties": output},
        "vector_indexes": [asdict(index) for index in described.vectors],
        "indexed_fields": {
            path: _INDEXED[field["type"]] for path, field in output.items() if field["type"] in _INDEXED
        },
        "warnings": notes,
    }


def _declared(
    extractor: Extractor,
    config: Mapping[str, Any],
    parameters: Mapping[str, Any],
    inputs: Mapping[str, Sequence[str]],
    passed: Sequence[Passthrough],
) -> dict[str, Any]:
    """The extractor of a collection as it is stored."""
    return {
        "feature_extractor_name": extractor.name,
        "version": extractor.version,
        "feature_extractor_id": extractor.extractor_id,
        "parameters": parameters,
        "input_mappings": config.get("input_mappings") or {},
        "inputs": inputs,
        "weight": extractor.weight,
        "field_passthrough": [entry.as_dict() for entry in passed],
        "include_all_source_fields": bool(config.get("include_all_source_fields")),
    }


def _check_needs(services: Services, described: Description) -> None:
    """Raises ValidationError: this installation lacks what the extractor cannot do without, with these parameters."""
    ready = Readiness(services.settings)
    for need in sorted(described.needs):
        if reason := ready.lacking(need):
            raise ValidationError.at(_PARAMETERS, reason, "unavailable")


def _check_extras(extractor: Extractor, inputs: Mapping[str, Sequence[str]], schema: Mapping[str, Any]) -> None:
    """Raises UnavailableError: what reads a mapped field is not installed."""
    for name, path in ((name, path) for name, paths in inputs.items() for path in paths):
        for kind in {name, schema.get(path, {}).get("type")} & extractor.extras.keys():
            require(f"'{extractor.name}' with a {kind} in '{path}'", *extractor.extras[kind])


def _with_task(extractor: Extractor, given: Mapping[str, Any], task: str | None) -> Mapping[str, Any]:
    """The parameters with the collection's `embedding_task` among them, where the extractor has it.

    Raises:
        ValidationError: they name another one.
    """
    if task is None or _TASK not in extractor.params.model_fields:
        return given
    held = given.get(_TASK)
    if held is not None and held != task:
        message = (
            f"'{task[:50]}' contradicts feature_extractor.parameters.{_TASK} ('{str(held)[:50]}'); give one of them"
        )
        raise ValidationError.at(_TASK, message, "conflict")
    return {**given, _TASK: task}


def parameter_notes(
    extractor: Extractor, given: Mapping[str, Any], embedding_task: str | None = None, *, strict: bool
) -> list[str]:
    """Warnings for keys that the extractor does not read, and for values that have no effect. Of good parameters.

    Raises:
        ValidationError: `strict`, and there are some.
    """
    what = "refused" if strict else "ignored"
    found = [*islice(_unread(extractor, given, what), MAX_NOTES)]
    held = extractor.params.model_validate(dict(given))
    found += [FieldError((*_PARAMETERS, *place), told, CODE) for place, told in without_effect(held)]
    if embedding_task not in (None, *_DOCUMENT_TASKS) and _TASK not in type(held).model_fields:
        message = f"'{str(embedding_task)[:50]}' has no effect: {extractor.name} has no parameter {_TASK}; leave it out"
        found.append(FieldError((_TASK,), message, CODE))
    if strict and found:
        raise ValidationError.of(found)
    return [f"{'.'.join(map(str, note.loc))}: {note.msg}" for note in found]


def _unread(extractor: Extractor, given: Mapping[str, Any], what: str) -> Iterator[FieldError]:
    """Keys that no field of the parameters, and of objects in them, is named. null is what clients send for nothing."""
    if extractor.params.model_config.get("extra") == "allow":  # it checks them itself
        return
    said = {key: value for key, value in given.items() if value is not None}
    for found in unknown_keys(extractor.params, said, _PARAMETERS):
        yield FieldError((*found.place, found.key[:100]), f"unknown key is {what}{found.hint}", "extra_forbidden")


def check_parameters(extractor: Extractor, given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with their defaults.

    Raises:
        ValidationError: every offending parameter with its path.
    """
    try:
        model = extractor.params.model_validate(dict(given))
    except PydanticError as error:
        found = [
            FieldError((*_PARAMETERS, *entry["loc"]), f"{entry['msg']}, got {entry.get('input')!r}", entry["type"])
            for entry in error.errors()
        ]
        raise ValidationError.of(found) from error
    return model.model_dump(mode="json")


def _inputs(extractor: Extractor, raw: Any, schema: Mapping[str, Any]) -> dict[str, list[str]]:
    """Extractor input → source paths; without a mapping: same names, else the only field of a fitting type."""
    mapped = parse_inputs(raw)
    errors = [error for name, paths in mapped.items() for error in _misfits(extractor, name, paths, schema)]
    if errors:
        raise ValidationError.of(errors)
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
            yield FieldError(where, _no_field(path, schema))


def _no_field(path: str, schema: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(path, list(schema), 1)
    hint = f"; did you mean '{close[0]}'?" if close else f"; it has: {', '.join(schema)}"
    return f"'{path}' is not a field of the source{hint}"


def _undeclared(passed: Sequence[Passthrough], schema: Mapping[str, Any]) -> list[str]:
    """Warnings for what is passed through and not declared: objects may have it all the same."""
    where = ".".join((*_WHERE, "field_passthrough"))
    return [
        f"{where}.{number}: only what has it passes it on, since {_no_field(entry.source_path, schema)}"
        for number, entry in enumerate(passed)
        if entry.source_path.split(".")[0] not in (*schema, "metadata", "key_prefix")
    ][:MAX_NOTES]


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
        if entry.target_path.split(".")[0] in described.fields and entry.source_path != entry.target_path:
            message = f"'{entry.target_path}' is an output of the extractor, which would replace '{entry.source_path}'"
            errors.append(FieldError(where, f"{message}; give it another target_path"))
        output[entry.target_path] = {**rule, "type": "string"} if rule.get("type") in _MEDIA else dict(rule)
    if errors:
        raise ValidationError("; ".join(e.msg for e in errors), errors)
    return {**output, **described.fields}
