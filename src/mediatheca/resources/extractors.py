"""The catalogue of feature extractors, and of what can be searched by: both generated from the plug-ins.

What is installed here is no secret: the routes below `/collections/features` need no key, and clients send none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from mediatheca import extractors
from mediatheca.api.deps import OrgRead, OrgReader, answer
from mediatheca.extractors import Description, Extractor
from mediatheca.extractors._uploaded import read_manifest
from mediatheca.flows.plugins.deploy import enabled_in_namespaces
from mediatheca.flows.plugins.host import KIND, extractor_of
from mediatheca.flows.services import Services
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import MediathecaError, NotFoundError
from mediatheca.stores.db.tx import ReadTx, Record

router = APIRouter(tags=["feature extractors"])
BUILTIN, CUSTOM = "builtin", "custom"
"""Shipped with Mediatheca; of third parties: uploaded, or installed beside it."""
Source = Query(pattern="^(builtin|custom|community|all)$")


def extractor_view(extractor: Extractor, services: Services) -> dict[str, Any]:
    """An installed extractor as the catalogue shows it. Dimensions are those of the model that really answers."""
    needed = {name for name, field in extractor.params.model_fields.items() if field.is_required()}
    defaults = extractor.params.model_construct() if needed else extractor.params()
    described = Description()
    note: str | None = f"described only with {', '.join(sorted(needed))}"
    try:
        if not needed:
            described, note = extractor.describe(defaults, services.models), None
    except MediathecaError as error:  # the model is not there: the catalogue still lists the extractor, and says why
        note = error.message
    return {
        **_shown(extractor, described),
        "source": BUILTIN if extractor.open.__module__.startswith(f"{extractors.__name__}.") else CUSTOM,
        "parameter_schema": extractor.params.model_json_schema(),
        "default_parameters": defaults.model_dump(mode="json", exclude=needed),
        "example_usage": extractor.example,
        "unavailable_reason": note,
    }


def _shown(extractor: Extractor, described: Description) -> dict[str, Any]:
    """What an extractor and its outputs say of themselves."""
    return {
        "feature_extractor_name": extractor.name,
        "version": extractor.version,
        "feature_extractor_id": extractor.extractor_id,
        "description": extractor.description,
        "icon": extractor.icon,
        "input_schema": {"properties": {name: {"type": kinds[0]} for name, kinds in extractor.inputs.items()}},
        "output_schema": {"properties": described.fields},
        "supported_input_types": sorted({kind for kinds in extractor.inputs.values() for kind in kinds}),
        "max_inputs": {**dict.fromkeys(extractor.inputs, 1), **extractor.max_inputs},
        "category": extractor.category,
        "position_fields": list(extractor.position_fields),
        "costs": _costs(extractor),
        "required_vector_indexes": [_index(index) for index in described.vectors],
        "feature_uri": next((index.feature_uri for index in described.vectors), None),
    }


def _index(index: VectorIndex) -> dict[str, Any]:
    made_by = f"vectors of {index.model}" if index.model else f"vectors of the output {index.name}"
    return {
        "name": index.name,
        "feature_uri": index.feature_uri,
        "description": made_by,
        "type": "multi" if index.multi else "single",
        "index": {
            "name": index.name,
            "description": made_by,
            "dimensions": index.dimensions or None,  # a sparse vector has none
            "type": "sparse" if index.sparse else "dense",
            "distance": index.metric,
            "datatype": "float32",
            "inference_name": index.model,
        },
    }


def _uploaded(tx: ReadTx, plugin: Record) -> dict[str, Any]:
    """An uploaded extractor, which says in its manifest what it takes and gives. That of an organization is deployed
    where namespaces have enabled it."""
    body, manifest = plugin.body, read_manifest(plugin.body["manifest_source"])
    rules = _schemas(manifest.parameters)
    needed = [name for name, rule in manifest.parameters.items() if rule.get("required")]
    deployed = bool(body["active"]) if tx.scope.namespace_id else enabled_in_namespaces(tx, plugin) > 0
    return {
        **_shown(extractor_of(plugin), Description(manifest.features, _schemas(manifest.fields))),
        "source": CUSTOM,
        "description": body["description"],
        "parameter_schema": {"type": "object", "properties": rules, "required": needed},
        "default_parameters": {name: rule["default"] for name, rule in rules.items() if "default" in rule},
        "example_usage": None,
        "unavailable_reason": None if deployed else "it is not deployed",
        "capabilities": ["batch", *(["realtime"] if body["realtime"] and not body.get("batch_only") else [])],
        "plugin_id": plugin.id,
        "deployed": deployed,
        "validation_status": "passed",
        "created_at": plugin.created_at,
        "updated_at": plugin.updated_at,
    }


def _schemas(rules: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rules of a manifest as properties of a JSON Schema."""
    return {name: {key: value for key, value in rule.items() if key != "required"} for name, rule in rules.items()}


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
def catalogue(
    tx: OrgRead, caller: OrgReader, source: Annotated[str | None, Source] = None, include_disabled: bool = False
) -> Response:
    """What is installed here, and the organization's uploaded extractors that namespaces have enabled."""
    return answer(_catalogue(tx, caller.services, source, include_disabled))


@router.get("/namespaces/{identifier}/extractors", operation_id="list_namespace_extractors", response_model=None)
def in_namespace(
    identifier: str, tx: OrgRead, caller: OrgReader,
    source: Annotated[str | None, Source] = None, include_disabled: bool = False,
) -> Response:  # fmt: skip
    """What collections of a namespace may use: what is installed here, and what was uploaded and deployed."""
    return answer(_catalogue(_inside(tx, identifier), caller.services, source, include_disabled))


def _catalogue(tx: ReadTx, services: Services, source: str | None, include_disabled: bool) -> dict[str, Any]:
    uploaded = [_uploaded(tx, plugin) for plugin in tx.resources(KIND)]
    found = _all(services) + [each for each in uploaded if each["deployed"] or include_disabled]
    found = [each for each in found if source in (None, "all", each["source"])]
    custom = sum(each["source"] == CUSTOM for each in found)
    counts = {"total": len(found), "builtin_count": len(found) - custom, "custom_count": custom}
    return {"success": True, "extractors": found, "namespace_id": tx.scope.namespace_id or "", **counts}


def _inside(tx: ReadTx, namespace: str) -> ReadTx:
    return tx.within(tx.get("namespace", namespace).id)


@router.get(
    "/namespaces/{identifier}/extractors/{extractor_id}", operation_id="get_namespace_extractor", response_model=None
)
def one_in_namespace(identifier: str, extractor_id: str, tx: OrgRead, caller: OrgReader) -> Response:
    """By `name_version`; an uploaded one, deployed or not, also by the id of its plug-in."""
    inside = _inside(tx, identifier)
    plugin = None if extractor_id in caller.services.extractors else inside.find(KIND, extractor_id)
    services = caller.services
    found = _uploaded(inside, plugin) if plugin else extractor_view(_find(services, extractor_id), services)
    return answer({**found, "namespace_id": inside.scope.namespace_id})
