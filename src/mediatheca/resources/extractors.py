"""The catalogue of feature extractors, and of what can be searched by: both generated from the plug-ins.

What is installed here is no secret: the routes below `/collections/features` need no key, and clients send none.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from mediatheca.api.deps import OrgRead, OrgReader, answer
from mediatheca.extractors import Extractor
from mediatheca.flows.services import Services
from mediatheca.kernel.errors import MediathecaError, NotFoundError

router = APIRouter(tags=["feature extractors"])


def extractor_view(extractor: Extractor, services: Services) -> dict[str, Any]:
    """One extractor as the catalogue shows it. Dimensions are those of the model that really answers."""
    defaults = extractor.params().model_dump(mode="json")
    try:
        described = extractor.describe(extractor.params(), services.models)
        vectors = [
            {
                "name": index.name,
                "feature_uri": index.feature_uri,
                "description": f"vectors of {index.model}",
                "type": "multi" if index.multi else "single",
                "index": {
                    "name": index.name,
                    "description": index.model,
                    "dimensions": index.dimensions or None,  # a sparse vector has none
                    "type": "sparse" if index.sparse else "dense",
                    "distance": index.metric,
                    "datatype": "float32",
                    "inference_name": index.model,
                },
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
        "max_inputs": {**dict.fromkeys(extractor.inputs, 1), **extractor.max_inputs},
        "category": extractor.category,
        "position_fields": list(extractor.position_fields),
        "costs": _costs(extractor),
        "default_parameters": defaults,
        "required_vector_indexes": vectors,
        "example_usage": extractor.example,
        "unavailable_reason": note,
    }


_TIERS = ((1, "SIMPLE"), (10, "MODERATE"), (100, "COMPLEX"))


def _costs(extractor: Extractor) -> dict[str, Any]:
    """How much work an item is; nothing is billed."""
    tiers = enumerate(_TIERS, 1)
    number, label = next(((n, label) for n, (most, label) in tiers if extractor.weight <= most), (4, "PREMIUM"))
    return {"tier": number, "tier_label": label, "rates": []}


def _find(services: Services, extractor_id: str) -> Extractor:
    found = services.extractors.get(extractor_id)
    if found is None:
        raise NotFoundError("feature extractor", extractor_id)
    return found


def _all(services: Services) -> list[dict[str, Any]]:
    return [extractor_view(extractor, services) for _, extractor in sorted(services.extractors.items())]


@router.get("/collections/features/extractors", operation_id="list_feature_extractors", response_model=None)
def list_extractors(request: Request) -> Response:
    return answer(_all(request.app.state.services))


@router.get(
    "/collections/features/extractors/{extractor_id}", operation_id="get_feature_extractor", response_model=None
)
def get_extractor(extractor_id: str, request: Request) -> Response:
    services: Services = request.app.state.services
    return answer(extractor_view(_find(services, extractor_id), services))


@router.get("/collections/features", operation_id="discover_features", response_model=None)
def discover_features(request: Request) -> Response:
    """For every type of file, the features it can be searched by here. Nothing is billed: every rate is zero."""
    by_type: dict[str, list[dict[str, Any]]] = {}
    for extractor in _all(request.app.state.services):
        for kind in extractor["supported_input_types"]:
            features = by_type.setdefault(kind, [])
            for index in extractor["required_vector_indexes"]:
                shown = {"feature": index["name"], "feature_uri": index["feature_uri"], "rate": 0.0}
                features.append({**shown, "feature_extractor_id": extractor["feature_extractor_id"]})
    modalities = [{"modality": kind, "billing_unit": None, "features": by_type[kind]} for kind in sorted(by_type)]
    return answer({"modalities": modalities, "custom_features": [], "full_res_multiplier": 1.0})


@router.get("/extractors", operation_id="list_extractors", response_model=None)
def catalogue(caller: OrgReader) -> Response:
    return answer(_catalogue(caller.services, caller.scope.namespace_id or ""))


def _catalogue(services: Services, namespace_id: str) -> dict[str, Any]:
    found = _all(services)
    counts = {"total": len(found), "builtin_count": len(found), "custom_count": 0}
    return {"success": True, "extractors": found, "namespace_id": namespace_id, **counts}


@router.get("/namespaces/{identifier}/extractors", operation_id="list_namespace_extractors", response_model=None)
def in_namespace(identifier: str, tx: OrgRead, caller: OrgReader) -> Response:
    """What collections of a namespace may use: every extractor installed here."""
    return answer(_catalogue(caller.services, tx.get("namespace", identifier).id))


@router.get(
    "/namespaces/{identifier}/extractors/{extractor_id}", operation_id="get_namespace_extractor", response_model=None
)
def one_in_namespace(identifier: str, extractor_id: str, tx: OrgRead, caller: OrgReader) -> Response:
    namespace_id = tx.get("namespace", identifier).id
    return answer(
        {**extractor_view(_find(caller.services, extractor_id), caller.services), "namespace_id": namespace_id}
    )
