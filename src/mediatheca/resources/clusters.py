"""Clusters: which documents are grouped, by what, and how the groups get their names. Runs: `cluster_runs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import AliasChoices, Field, model_validator

from mediatheca.api.deps import Raw, Read, Write, Writer, answer, json_body
from mediatheca.clusterers._work import checked_params
from mediatheca.flows.bodies import key_notes
from mediatheca.flows.grouping import artifacts, config
from mediatheca.flows.grouping.runs import cancel, latest_run, open_run, other_settings, start_execution
from mediatheca.flows.grouping.space import find_space
from mediatheca.flows.grouping.unread import PARTS, cluster_notes, unread_params
from mediatheca.flows.grouping.views import cluster_views, counts_stale, groups_view
from mediatheca.flows.retrieve.keys import unknown_keys
from mediatheca.flows.services import Services
from mediatheca.kernel.errors import ConflictError, NotEnabledError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.ids import new_id
from mediatheca.resources.base import Context, Resource, Spec, is_true
from mediatheca.resources.collections import remove as remove_collection
from mediatheca.resources.tasks import task_view
from mediatheca.stores.db.tx import ReadTx, Record, Tx

MAX_COLLECTIONS = 50
MAX_COOLDOWN_S = 30 * 86_400
DEFAULT_COOLDOWN_S = 3_600
MAX_TEXT = 2_000
Seconds = Annotated[int, Field(ge=0, le=MAX_COOLDOWN_S)]
_COMPOSITE = "clusters of clusters are not built in; cluster the collections together: collection_ids takes several"


class _Common(Spec):
    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        """Generated clients send null for what they were not given."""
        return config.without_nulls(data)


class ClusterSpec(_Common):
    """The body of create."""

    cluster_name: str | None = Field(None, validation_alias=AliasChoices("cluster_name", "name"))
    description: str | None = Field(None, max_length=MAX_TEXT)
    metadata: dict[str, Any] = Field(default_factory=dict)
    collection_ids: list[str] = Field(
        default_factory=list, max_length=MAX_COLLECTIONS,
        validation_alias=AliasChoices("collection_ids", "input_collections"),
    )  # fmt: skip
    source_cluster_ids: list[str] | None = None
    cluster_type: Literal["vector", "attribute"] = "vector"
    vector_config: dict[str, Any] | None = None
    attribute_config: dict[str, Any] | None = None
    filters: dict[str, Any] | None = None
    llm_labeling: dict[str, Any] | None = None
    enrich_source_collection: bool = Field(
        False, validation_alias=AliasChoices("enrich_source_collection", "enrich_source")
    )
    source_enrichment_config: dict[str, Any] | None = None
    auto_execute_on_batch: bool = False
    auto_execute_min_documents: int | None = Field(None, ge=0)
    auto_execute_cooldown_seconds: Seconds = DEFAULT_COOLDOWN_S


class ClusterPatch(_Common):
    """What may change; it counts from the next execution on."""

    cluster_name: str | None = None
    description: str | None = Field(None, max_length=MAX_TEXT)
    metadata: dict[str, Any] | None = None
    llm_labeling: dict[str, Any] | None = None
    filters: dict[str, Any] | None = None
    sample_size: int | None = Field(None, ge=2)
    algorithm_params: dict[str, Any] | None = None
    layout_stability: Literal["align", "transform", "none"] | None = None
    face_cluster_merge: dict[str, Any] | None = None
    source_cluster_ids: list[str] | None = None
    source_enrichment_config: dict[str, Any] | None = None
    auto_execute_on_batch: bool | None = None
    auto_execute_min_documents: int | None = Field(None, ge=0)
    auto_execute_cooldown_seconds: Seconds | None = None


def create(tx: Tx, spec: ClusterSpec, context: Context) -> tuple[str, dict[str, Any]]:
    if spec.source_cluster_ids:
        raise NotEnabledError(f"source_cluster_ids: {_COMPOSITE}")
    if not spec.collection_ids:
        raise ValidationError.at(("body", "collection_ids"), "names the collections to cluster; give one", "missing")
    collections = [tx.get("collection", ident) for ident in dict.fromkeys(spec.collection_ids)]
    parse_filter(spec.filters, path="filters")
    body: dict[str, Any] = {
        "description": spec.description,
        "metadata": spec.metadata,
        "collection_ids": [collection.id for collection in collections],
        "cluster_type": spec.cluster_type,
        "filters": spec.filters,
        "llm_labeling": config.labeling(spec.llm_labeling),
        "enrich_source": spec.enrich_source_collection,
        "source_enrichment_config": config.enrichment(spec.source_enrichment_config),
        "auto_execute_on_batch": spec.auto_execute_on_batch,
        "auto_execute_min_documents": spec.auto_execute_min_documents,
        "auto_execute_cooldown_seconds": spec.auto_execute_cooldown_seconds,
        "warnings": _notes(spec.model_dump(include={"vector_config", *PARTS}), context, spec.cluster_type),
        "state": {},
    }
    if spec.cluster_type == "vector":
        body |= _vector(spec.vector_config or {}, collections, context.services)
        body["enrich_source"] = body["enrich_source"] or bool((spec.vector_config or {}).get("enrich_source"))
    else:
        if spec.attribute_config is None:
            message = 'is required where cluster_type is \'attribute\': {"attributes": ["field"]}'
            raise ValidationError.at(("body", "attribute_config"), message, "missing")
        body["attribute_config"] = config.attribute_config(spec.attribute_config)
    return spec.cluster_name or f"cluster {new_id('x')[-8:]}", body


def _notes(sent: dict[str, Any], context: Context, cluster_type: str) -> list[str]:
    """What is stored as the warnings of a cluster: they hold as long as its configuration does."""
    notes = cluster_notes(sent, context.services.clusterers, strict=context.services.settings.strict)
    other = "attribute_config" if cluster_type == "vector" else "vector_config"
    if sent.get(other):
        notes.append(f"{other}: has no effect where cluster_type is '{cluster_type}'")
    return notes


def _vector(raw: dict[str, Any], collections: list[Record], services: Services) -> dict[str, Any]:
    made = config.vector_config(raw, services.clusterers)
    space = find_space(collections, made)
    return {"vector_config": {**made, "feature_uris": list(space.uris)}}


def change(tx: Tx, record: Record, patch: ClusterPatch, context: Context) -> tuple[str, dict[str, Any]]:
    if patch.source_cluster_ids:
        raise NotEnabledError(f"source_cluster_ids: {_COMPOSITE}")
    if patch.face_cluster_merge and patch.face_cluster_merge.get("enabled") is not False:
        raise NotEnabledError(f"face_cluster_merge: {config.NOT_HERE['face_cluster_merge']}")
    sent = patch.model_dump(mode="json", exclude_unset=True, include=set(ClusterPatch.model_fields))
    body = dict(record.body)
    direct = (
        "description", "metadata", "auto_execute_on_batch", "auto_execute_min_documents",
        "auto_execute_cooldown_seconds",
    )  # fmt: skip
    body |= {name: sent[name] for name in direct if name in sent}
    if "filters" in sent:
        parse_filter(sent["filters"], path="filters")
        body["filters"] = sent["filters"] or None
    if "llm_labeling" in sent:
        body["llm_labeling"] = config.labeling(sent["llm_labeling"])
    if "source_enrichment_config" in sent:
        body["source_enrichment_config"] = config.enrichment(sent["source_enrichment_config"])
    body["vector_config"] = _changed_vector(body.get("vector_config"), sent, context.services)
    body["warnings"] = _changed_notes(body, sent, context)
    return sent.get("cluster_name") or record.name, body


def _changed_vector(
    vector: dict[str, Any] | None, sent: Mapping[str, Any], services: Services
) -> dict[str, Any] | None:
    names = [name for name in ("sample_size", "algorithm_params", "layout_stability") if name in sent]
    if not names or vector is None:
        if names:
            raise ValidationError.at(("body", names[0]), "is of vector clusters; this one groups by attributes")
        return vector
    changed = {**vector, **{name: sent[name] for name in names if name != "algorithm_params"}}
    if "algorithm_params" in sent:
        clusterer = services.clusterers[vector["clustering_method"]]
        merged = {**vector["params"], **config.without_nulls(sent["algorithm_params"])}
        changed["params"] = checked_params(clusterer, merged, ("body", "algorithm_params"))
    return config.vector_config(changed, services.clusterers)


def _changed_notes(body: dict[str, Any], sent: Mapping[str, Any], context: Context) -> list[str]:
    """The warnings of what was sent in the place of those it had."""
    kept = [note for note in body.get("warnings") or () if not note.startswith(tuple(f"{name}." for name in sent))]
    made = cluster_notes(sent, context.services.clusterers, strict=context.services.settings.strict)
    if sent.get("algorithm_params"):
        clusterer = context.services.clusterers[body["vector_config"]["clustering_method"]]
        unread = unread_params(clusterer, sent["algorithm_params"], "algorithm_params")
        made += key_notes(unread, strict=context.services.settings.strict)
    return kept + made


def remove(tx: Tx, record: Record, context: Context, query: Mapping[str, str]) -> dict[str, Any]:
    """Runs, their files and the output collection go with it; what was written into source documents stays."""
    users = [
        collection.id
        for collection in tx.resources("collection")
        if any(entry.get("cluster_id") == record.id for entry in collection.body.get("cluster_applications") or ())
    ]
    if users and not is_true(query.get("force")):
        message = f"cluster '{record.id}' is applied to {', '.join(users[:5])}; take it off there, or add force=true"
        raise ConflictError(message, details={"collection_ids": users})
    going = open_run(tx, record.id)
    if going is not None:
        cancel(tx, going)
    runs = tx.column("cluster_runs", "run_id", {"cluster_id": record.id})
    tx.delete("cluster_runs", {"cluster_id": record.id})
    scope, blobs = tx.scope, context.services.blobs

    def sweep() -> None:
        for run_id in runs:
            artifacts.remove(blobs, scope, run_id)

    tx.after(sweep)
    output = (record.body.get("state") or {}).get("output_collection_id")
    collection = tx.find("collection", output) if output else None
    if collection is None or str(query.get("cascade_output_collections", "true")).lower() == "false":
        return {"cluster_id": record.id, "deleted_collection_ids": []}
    remove_collection(tx, collection, context, {})
    tx.remove(collection)
    tx.emit("collection.deleted", collection.id, {"name": collection.name})
    return {"cluster_id": record.id, "deleted_collection_ids": [collection.id]}


def present(tx: ReadTx, records: Sequence[Record], context: Context) -> list[dict[str, Any]]:
    shown = cluster_views(tx, records)
    for view, record in zip(shown, records, strict=True):
        if record.body.get("warnings"):
            view["warnings"] = list(record.body["warnings"])
        if (view["llm_labeling"] or {}).get("enabled") and not _has_model(context.services):
            view["warnings"] = [
                *view.get("warnings", ()),
                "llm_labeling: no language model is configured, so clusters are named by the words that tell them "
                "apart; set MEDIATHECA_LANGUAGE_URL or MEDIATHECA_LANGUAGE_KEY",
            ]
    return shown


def _has_model(services: Services) -> bool:
    return bool(services.around.reach.language.config.providers())


router = APIRouter(tags=["clusters"])


@router.post("/clusters/{identifier}/execute", operation_id="execute_clustering_clusters", response_model=None)
def execute(identifier: str, raw: Raw, tx: Write, caller: Writer) -> Response:
    """Cluster, as a task. While a run of this cluster is going on, its task is the answer."""
    cluster, sent = tx.get("cluster", identifier), config.without_nulls(json_body(raw))
    request = config.execute_request(sent)
    notes = key_notes(unknown_keys(config.ExecuteRequest, sent, ()), strict=caller.services.settings.strict)
    if request.mode == "composite":
        raise NotEnabledError(f"mode composite: {_COMPOSITE}")
    parse_filter(request.filters, path="filters")
    going = open_run(tx, cluster.id)
    if going is not None and other_settings(going, cluster, request):
        notes.append("a run with other settings goes on, and this is its task; execute again when it has ended")
    task = start_execution(tx, cluster, request, automatic=False)
    row = tx.row("tasks", {"task_id": task})
    assert row is not None
    return answer({**task_view(row), **({"warnings": notes} if notes else {})})


@router.get("/clusters/{identifier}/groups", operation_id="get_cluster_groups", response_model=None)
def groups(identifier: str, tx: Read) -> Response:
    """The clusters of the newest completed run."""
    cluster = tx.get("cluster", identifier)
    row = latest_run(tx, cluster)
    return answer(groups_view(cluster, row, counts_stale(tx, row) if row else False))


cluster = Resource(
    name="cluster",
    path="/clusters",
    prefix="clust",
    spec=ClusterSpec,
    patch=ClusterPatch,
    present=present,
    create=create,
    change=change,
    remove=remove,
)
