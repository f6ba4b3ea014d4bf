"""Inputs of a retriever that are read from a document: `input_mappings` of an application."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mediatheca.flows.retrieve.plan import Plan
from mediatheca.flows.retrievers import RetrieverPlans
from mediatheca.kernel.errors import MediathecaError, ValidationError
from mediatheca.kernel.mapping import MISSING, read_path
from mediatheca.kernel.present import field_value
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.search import Hit

FROM_DOCUMENT = ("document_field", "source_blob")
_ELSEWHERE = "without it a run may fail, unless the input_mappings of a collection give it"


def split_mappings(
    mappings: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """Inputs that are the same for every document, and the mappings that read the document."""
    constant: dict[str, Any] = {}
    read = []
    for mapping in mappings:
        source = mapping.get("source") or {}
        if source.get("source_type") in FROM_DOCUMENT:
            read.append(mapping)
        else:
            constant[str(mapping.get("input_key"))] = source.get("value")
    return constant, read


def input_notes(plans: RetrieverPlans, scope: Scope, body: Mapping[str, Any]) -> list[str]:
    """Warnings for inputs of an alert that nothing reads, and for those that its retriever reads and does not get.

    They may come from a document all the same, by the `input_mappings` of a collection, so none is refused.
    """
    if body["source"] != "retriever":
        return []
    try:
        plan = plans.get(scope, str(body["retriever_id"])).plan
    except MediathecaError:
        return []  # `works_as` says that its retriever cannot run
    return _differences(plan, body.get("inputs") or {})


def _differences(plan: Plan, given: Mapping[str, Any]) -> list[str]:
    try:
        report = plan.schema.check(given, plan.inputs)
    except ValidationError as error:
        return [f"{entry.loc[0]}.{entry.loc[-1]}: {entry.msg}; {_ELSEWHERE}" for entry in error.errors]
    absent = sorted(name for name in plan.inputs - {"*"} if report.values.get(name) in (None, ""))
    notes = [f"inputs.{name}: the retriever reads it, and it is not given; {_ELSEWHERE}" for name in absent]
    known = ", ".join(sorted(plan.inputs)) or "none"
    return notes + [f"inputs.{name}: nothing in the retriever reads it; it reads: {known}" for name in report.ignored]


def mapped_inputs(mappings: Sequence[Mapping[str, Any]], document: Hit) -> dict[str, Any]:
    """The inputs that a document gives; what it has no value for is left out, as not given."""
    made = {str(mapping.get("input_key")): _value(mapping.get("source") or {}, document) for mapping in mappings}
    return {name: value for name, value in made.items() if value is not None}


def _value(source: Mapping[str, Any], document: Hit) -> Any:
    path = str(source.get("path") or "")
    if source.get("source_type") == "document_field":
        value = read_path(document.payload, path)
        return field_value(document, path) if value is MISSING else value
    return _blob(document, path)


def _blob(document: Hit, name: str) -> Any:
    """The file that a document was made from: of the field of this name, or the first one."""
    blobs = [blob for blob in document.system.get("source_blobs") or () if isinstance(blob, Mapping)]
    named = [blob for blob in blobs if name in ("", blob.get("field"), blob.get("property"))]
    return next((blob.get("url") for blob in named if blob.get("url")), None)
