"""The catalogue of feature extractors, generated from the plug-ins."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from mediatheca.api.deps import Caller, OrgReader, answer
from mediatheca.extractors import Extractor
from mediatheca.kernel.errors import MediathecaError, NotFoundError

router = APIRouter(tags=["feature extractors"])


def extractor_view(extractor: Extractor, caller: Caller) -> dict[str, Any]:
    """One extractor as the catalogue shows it. Dimensions are those of the model that really answers."""
    defaults = extractor.params().model_dump(mode="json")
    try:
        described = extractor.describe(extractor.params(), caller.services.models)
        vectors = [
            {
                "name": index.name,
                "feature_uri": index.feature_uri,
                "description": f"vectors of {index.model}",
                "type": "multi" if index.multi else "single",
                "index": {"name": index.name, "description": index.model, "dimensions": index.dimensions}
                | {"type": "dense", "distance": index.metric, "datatype": "float32", "inference_name": index.model},
            }
            for index in described.vectors
        ]
        fields, note = described.fields, None
    except MediathecaError as error:  # the model is not there: the catalogue still lists the extractor, and says why
        vectors, fields, note = [], {}, error.message
    types = sorted({kind for kinds in extractor.inputs.values() for kind in kinds})
    return {
        "feature_extractor_name": extractor.name,
        "version": extractor.version,
        "feature_extractor_id": extractor.extractor_id,
        "description": extractor.description,
        "icon": extractor.icon,
        "source": "builtin",
        "input_schema": {"properties": {name: {"type": kinds[0]} for name, kinds in extractor.inputs.items()}},
        "output_schema": {"properties": fields},
        "parameter_schema": extractor.params.model_json_schema(),
        "supported_input_types": types,
        "max_inputs": dict.fromkeys(extractor.inputs, 1),
        "default_parameters": defaults,
        "required_vector_indexes": vectors,
        "example_usage": extractor.example,
        "unavailable_reason": note,
    }


def _all(caller: Caller) -> list[dict[str, Any]]:
    return [extractor_view(extractor, caller) for _, extractor in sorted(caller.services.extractors.items())]


@router.get("/collections/features/extractors", operation_id="list_feature_extractors", response_model=None)
def list_extractors(caller: OrgReader) -> Response:
    return answer(_all(caller))


@router.get(
    "/collections/features/extractors/{extractor_id}", operation_id="get_feature_extractor", response_model=None
)
def get_extractor(extractor_id: str, caller: OrgReader) -> Response:
    found = caller.services.extractors.get(extractor_id)
    if found is None:
        raise NotFoundError("feature extractor", extractor_id)
    return answer(extractor_view(found, caller))


@router.get("/extractors", operation_id="list_extractors", response_model=None)
def catalogue(caller: OrgReader) -> Response:
    found = _all(caller)
    counts = {"total": len(found), "builtin_count": len(found), "custom_count": 0}
    return answer({"extractors": found, "namespace_id": caller.scope.namespace_id, **counts})
