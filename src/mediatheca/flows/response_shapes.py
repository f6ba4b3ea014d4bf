"""`response_shape` in plain words, turned into a JSON Schema when a collection is made.

The schema is stored with the collection's parameters (`response_schema`): its documents have the same fields for ever,
whatever the model would say next time. The model names fields, from which the schema is built here. It runs before the
transaction of the request: a model may take a minute.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mediatheca.extractors import Extractor
from mediatheca.extractors._llm import ModelParams
from mediatheca.flows.collections import check_parameters, find_extractor
from mediatheca.flows.outside.language import LanguageProviders
from mediatheca.flows.outside.readiness import Readiness
from mediatheca.flows.services import Services
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.outside import Generate
from mediatheca.kernel.schema import is_reserved
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.secret_reference import secret_name

PLACE = ("feature_extractor", "parameters", "response_shape")
MAX_FIELDS = 40
_TIMEOUT_S = 60.0
_NAME = "^[a-z][a-z0-9_]{0,59}$"
_SIMPLE: dict[str, Any] = {
    "name": {"type": "string", "pattern": _NAME},
    "description": {"type": "string", "maxLength": 500},
    "values": {"type": "array", "items": {"type": "string"}, "maxItems": 100},
}


def _fields_schema(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": entry, "maxItems": MAX_FIELDS}


_INNER = {
    "type": "object",
    "properties": {**_SIMPLE, "type": {"enum": ["string", "number", "integer", "boolean", "list_of_strings"]}},
    "required": ["name", "type"],
}
_OUTER = {
    "type": "object",
    "properties": {
        **_SIMPLE,
        "type": {
            "enum": [
                "string",
                "number",
                "integer",
                "boolean",
                "list_of_strings",
                "list_of_numbers",
                "object",
                "list_of_objects",
            ]
        },
        "fields": _fields_schema(_INNER),
    },
    "required": ["name", "type"],
}
_ANSWER = {
    "type": "object",
    "properties": {"fields": {**_fields_schema(_OUTER), "minItems": 1}},
    "required": ["fields"],
}
_SYSTEM = (
    "You design the fields of a database. Somebody says in words what is to be found in each of his documents. Answer "
    "with the fields that hold it: snake_case names, the plainest type that fits, one line of description each. "
    "`values` lists the only values a text may have, where the words say so. `fields` are those inside of an object or "
    "of each object in a list. Add nothing that was not asked for."
)


async def with_schema(services: Services, scope: Scope, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The parameters of an extractor with the schema for the words in them; None when there is nothing to derive.

    Raises:
        ValidationError: no language model is configured, or it finds no fields; or a parameter is wrong.
        UnavailableError: the model does not answer now.
    """
    given = dict(config.get("parameters") or {})
    if not isinstance(given.get("response_shape"), str) or given.get("response_schema"):
        return None
    extractor = find_extractor(services, str(config.get("feature_extractor_name")), str(config.get("version") or "v1"))
    parameters = check_parameters(extractor, given)
    if "response_schema" not in parameters:
        return None  # an extractor without structured answers: `design` says so
    taken = _own_fields(services, extractor, parameters)
    return {**given, "response_schema": await _derived(services, scope, parameters, taken)}


def _own_fields(services: Services, extractor: Extractor, parameters: Mapping[str, Any]) -> Collection[str]:
    bare = extractor.params.model_validate({**parameters, "response_shape": None})
    return extractor.describe(bare, services.models).fields.keys()


async def _derived(
    services: Services, scope: Scope, parameters: Mapping[str, Any], taken: Collection[str]
) -> dict[str, Any]:
    reference, key = secret_name(parameters.get("llm_api_key") or ""), ""
    if reference is not None:
        key = (await services.vault.secrets_for(scope, [reference]))[reference]
    elif reason := Readiness(services.settings).lacking("language"):
        raise ValidationError.at(PLACE, reason, "unavailable")
    request = Generate(
        f"{parameters['response_shape']}\n\nNames that are taken: {', '.join(sorted(taken)) or 'none'}.",
        system=_SYSTEM,
        schema=_ANSWER,
        model=_model(parameters),
        api_key=key,
        temperature=0.0,
        timeout_s=_TIMEOUT_S,
    )
    providers = LanguageProviders(services.settings)
    try:
        said = await providers.bound(namespace_id=scope.namespace_id).generate(request)
    finally:
        await providers.aclose()
    if said.problem:
        message = (
            f"no schema could be derived from these words ({said.problem}); say it otherwise, or give a JSON Schema"
        )
        raise ValidationError.at(PLACE, message, "response_schema")
    return _object(said.value["fields"], taken)


def _model(parameters: Mapping[str, Any]) -> str:
    """As `Generate.model` has it."""
    named = {name: parameters.get(name) for name in ModelParams.model_fields if name != "llm_api_key"}
    return ModelParams.model_validate(named).model


def _object(fields: Sequence[Mapping[str, Any]], taken: Collection[str] = ()) -> dict[str, Any]:
    """The JSON Schema of an object with these fields; what a document does not tell is left out or null."""
    properties = {}
    for entry in fields:
        name = f"found_{entry['name']}" if entry["name"] in taken or is_reserved(entry["name"]) else entry["name"]
        rule = _rule(entry)
        if entry.get("description"):
            rule["description"] = entry["description"]
        properties[name] = rule
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _rule(entry: Mapping[str, Any]) -> dict[str, Any]:
    kind, values = entry["type"], entry.get("values")
    if kind == "object":
        return {**_object(entry.get("fields") or ()), "type": ["object", "null"]}
    if kind == "list_of_objects":
        return {"type": ["array", "null"], "items": _object(entry.get("fields") or ())}
    if kind.startswith("list_of_"):
        return {"type": ["array", "null"], "items": {"type": kind.removeprefix("list_of_").removesuffix("s")}}
    if kind == "string" and values:
        return {"type": ["string", "null"], "enum": [*dict.fromkeys(values), None]}
    return {"type": [kind, "null"]}
