"""Namespaces: the isolation boundary. Everything below belongs to exactly one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import AliasChoices, Field, model_validator

from mediatheca.api.deps import OrgRead, OrgWrite, OrgWriter, answer
from mediatheca.flows.collections import check_parameters, find_extractor, parameter_notes
from mediatheca.flows.services import Services
from mediatheca.flows.standalone import DIRECT
from mediatheca.kernel.errors import ConflictError, NotEnabledError, NotFoundError, ValidationError
from mediatheca.kernel.ids import check_name
from mediatheca.resources.base import Context, Resource, Spec, is_true, unknown_keys
from mediatheca.stores.db.tx import ReadTx, Record, Tx

KNOWN_EXTRACTORS = frozenset({
    "multimodal_extractor", "document_graph_extractor", "face_identity_extractor", "web_scraper",
    "course_content_extractor", "audio_fingerprint_extractor", "universal_extractor", "gemini_multifile_extractor",
    "scrolling_text_extractor", "transcoding_extractor", "colbert_extractor", "colqwen_extractor", "splade_extractor",
})  # fmt: skip
"""Names of the wire format that a namespace may declare although no plug-in here answers to them yet."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NOT_YET = (
    "infrastructure", "trusted_issuers", "spend_budget", "cost_cap_override", "ttl_seconds", "expires_at", "tiering",
)  # fmt: skip
_TABLES = (
    "objects", "blobs", "uploads", "batches", "batch_objects", "chunks", "failed_items", "derivations", "tasks", "jobs",
    "schedules", "tombstones", "executions", "retriever_versions", "document_tables", "cached_results",
    "interactions", "fusion_arms", "fusion_users", "shown_results", "publications", "retriever_keys", "annotations",
    "deliveries", "taxonomy_versions", "taxonomy_runs", "taxonomy_stats", "cluster_runs", "trigger_runs",
    "alert_states", "alert_runs", "alert_matches", "follow_ups",
    "resources",
)  # fmt: skip
_KINDS = ("bucket", "collection", "retriever", "taxonomy", "cluster", "trigger", "alert")
"""What others hold in memory and have to hear of."""


class ExtractorRef(Spec):
    """An extractor that collections of the namespace may use; its parameters are fixed here."""

    feature_extractor_name: str
    version: str = "v1"
    params: dict[str, Any] | None = Field(None, validation_alias=AliasChoices("params", "parameters"))


class PayloadIndex(Spec):
    """A field that is often filtered by."""

    field_name: str = Field(min_length=1, max_length=255)
    type: Literal["keyword", "integer", "float", "bool", "geo", "datetime", "text", "uuid"]
    field_schema: dict[str, Any] | None = None
    is_protected: bool = False


class VectorConfig(Spec):
    """A vector index of a standalone namespace."""

    name: str = Field(min_length=1, max_length=128)
    dimension: int = Field(ge=1, le=65536, validation_alias=AliasChoices("dimension", "dimensions", "size"))
    metric: Literal["cosine", "dot", "euclid", "euclidean"] = Field(
        "cosine", validation_alias=AliasChoices("metric", "distance")
    )


class _Common(Spec):
    description: str | None = None
    payload_indexes: list[PayloadIndex] | None = None
    auto_create_indexes: bool | None = None
    adaptive_indexing: bool | None = None
    metadata: dict[str, Any] | None = None
    infrastructure: dict[str, Any] | None = None
    trusted_issuers: list[dict[str, Any]] | None = None
    spend_budget: dict[str, Any] | None = None
    cost_cap_override: dict[str, Any] | None = None
    ttl_seconds: int | None = None
    expires_at: str | None = None
    tiering: dict[str, Any] | str | None = None

    def refuse_missing_features(self) -> None:
        """Raises NotEnabledError rather than accept what would silently do nothing."""
        given = [name for name in _NOT_YET if getattr(self, name)]
        if given:
            raise NotEnabledError(f"{', '.join(given)}: not available on this server yet; leave it out")


class NamespaceSpec(_Common):
    namespace_name: str = Field(validation_alias=AliasChoices("namespace_name", "name"))
    namespace_id: str | None = None
    mode: Literal["managed", "standalone"] | None = None
    namespace_type: str | None = None
    scope: Literal["org"] | None = None
    features: list[str] | None = None
    feature_extractors: list[ExtractorRef] | None = None
    vector_configs: list[VectorConfig] | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("namespace_id") and not (data.get("namespace_name") or data.get("name")):
            return {**data, "namespace_name": data["namespace_id"]}
        return data


class NamespacePatch(_Common):
    namespace_name: str | None = None
    feature_extractors: list[ExtractorRef] | None = None
    pinned: dict[str, Any] | None = None


class StatsSpec(Spec):
    namespace_ids: list[str] = Field(min_length=1, max_length=100)


# ---- writing


def _extractors(services: Services, refs: Sequence[ExtractorRef]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for ref in refs:
        ident = f"{ref.feature_extractor_name}_{ref.version}"
        params = ref.params or {}
        if ident not in services.extractors and ref.feature_extractor_name in KNOWN_EXTRACTORS:
            pass  # declared now, usable when a plug-in of this name is installed; `present` says so
        else:
            extractor = find_extractor(services, ref.feature_extractor_name, ref.version)
            if params:
                params = check_parameters(extractor, params)
        found[ident] = {
            "feature_extractor_name": ref.feature_extractor_name,
            "version": ref.version,
            "params": params,
            "feature_extractor_id": ident,
        }
    return list(found.values())


def _parameter_notes(services: Services, refs: Sequence[ExtractorRef]) -> list[str]:
    """Warnings for parameters that extractors do not read; raises ValidationError on a strict server."""
    strict, notes = services.settings.strict, []
    for ref in refs:
        if ref.params and f"{ref.feature_extractor_name}_{ref.version}" in services.extractors:
            extractor = find_extractor(services, ref.feature_extractor_name, ref.version)
            check_parameters(extractor, ref.params)
            notes += parameter_notes(extractor, ref.params, strict=strict)
    return notes


def _shorthand(names: Sequence[str]) -> list[ExtractorRef]:
    """`text_extractor`, `text_extractor@v1` and `text_extractor_v1` name the same."""
    refs = []
    for name in names:
        plain, _, version = name.replace("@", "_").rpartition("_")
        known = re.fullmatch(r"v\d+", version)
        refs.append(ExtractorRef(feature_extractor_name=plain if known else name, version=version if known else "v1"))
    return refs


def _indexes(given: Sequence[PayloadIndex] | None) -> list[dict[str, Any]]:
    return [entry.model_dump(include={"field_name", "type", "field_schema", "is_protected"}) for entry in given or []]


def _vectors(given: Sequence[VectorConfig] | None) -> list[dict[str, Any]]:
    return [entry.model_dump(include={"name", "dimension", "metric"}) for entry in given or []]


def create(tx: Tx, spec: NamespaceSpec, context: Context) -> tuple[str, dict[str, Any]]:
    spec.refuse_missing_features()
    check_name("namespace_name", spec.namespace_name, "ns", low=2)
    refs = [*(spec.feature_extractors or []), *_shorthand(spec.features or [])]
    mode = spec.mode or ("standalone" if spec.vector_configs and not refs else "managed")
    return spec.namespace_name, {
        "description": spec.description,
        "mode": mode,
        "feature_extractors": _extractors(context.services, refs),
        "vector_configs": _vectors(spec.vector_configs),
        "payload_indexes": _indexes(spec.payload_indexes),
        "auto_create_indexes": bool(spec.auto_create_indexes),
        "adaptive_indexing": bool(spec.adaptive_indexing),
        "metadata": spec.metadata or {},
    }


def make(tx: Tx, spec: NamespaceSpec, context: Context) -> Record:
    """Create, under the id that was asked for where there is one.

    Raises:
        ConflictError: the name or the id is taken, by name or id.
    """
    name, body = create(tx, spec, context)
    ident = spec.namespace_id or ""
    if ident and not _ID.fullmatch(ident):
        message = "must have 1 to 64 letters, digits, '_' and '-', and begin with a letter or digit"
        raise ValidationError.at(("body", "namespace_id"), message, "namespace_id")
    for wanted in {name, ident} - {""}:
        taken = tx.find("namespace", wanted)
        if taken is not None:
            raise ConflictError(f"namespace '{wanted}' exists already", details={"existing_id": taken.id})
    record = tx.put("namespace", "ns", name, body, ident=ident)
    tx.emit("namespace.created", record.id, {"name": name})
    return record


def change(tx: Tx, record: Record, patch: NamespacePatch, context: Context) -> tuple[str, dict[str, Any]]:
    patch.refuse_missing_features()
    body = dict(record.body)
    for name in ("description", "metadata", "auto_create_indexes", "adaptive_indexing"):
        if name in patch.model_fields_set and (name == "description" or getattr(patch, name) is not None):
            body[name] = getattr(patch, name)
    if patch.payload_indexes is not None:
        body["payload_indexes"] = _indexes(patch.payload_indexes)
    if patch.feature_extractors is not None:
        body["feature_extractors"] = _extractors(context.services, patch.feature_extractors)
        _check_extractors(tx, record, body["feature_extractors"])
    name = patch.namespace_name or record.name
    if name != record.name:
        check_name("namespace_name", name, "ns", low=2)
        taken = tx.find("namespace", name)
        if taken is not None and taken.id != record.id:
            raise ConflictError(f"namespace '{name}' exists already", details={"existing_id": taken.id})
    return name, body


def _check_extractors(tx: Tx, record: Record, wanted: Sequence[Mapping[str, Any]]) -> None:
    after = {entry["feature_extractor_id"]: entry["params"] for entry in wanted}
    used: dict[str, list[str]] = {}
    for collection in tx.within(record.id).resources("collection"):
        used.setdefault(collection.body["feature_extractor"]["feature_extractor_id"], []).append(collection.name)
    for entry in record.body["feature_extractors"]:
        ident = entry["feature_extractor_id"]
        if ident in used and ident not in after:
            raise ConflictError(f"'{ident}' is used by the collections {', '.join(used[ident])}; delete them first")
        if ident in after and after[ident] != entry["params"]:
            raise ConflictError(
                f"the parameters of '{ident}' are fixed: they decide the vectors; use another namespace"
            )


def remove(tx: Tx, record: Record, context: Context, query: Mapping[str, str]) -> dict[str, Any]:
    """With `force` everything inside goes too: rows now, tables, indexes and files right after."""
    inner = tx.within(record.id)
    buckets, collections = inner.count("resources", {"kind": "bucket"}), inner.resources("collection")
    declared = [collection for collection in collections if collection.body["source"]["type"] != DIRECT]
    if (buckets or declared) and not is_true(query.get("force")):
        raise ConflictError(
            f"namespace '{record.name}' has {buckets} buckets and {len(declared)} collections; "
            "delete them first, or add ?force=true to delete everything in it",
            details={"bucket_count": buckets, "collection_count": len(declared)},
        )
    for table in _TABLES:
        inner.delete(table, {})
    for collection in collections:
        inner.enqueue("collection.drop", {"collection_id": collection.id}, group=collection.id)
    tx.topics |= {f"resource:{kind}" for kind in _KINDS}
    prefix = f"{tx.scope.organization_id}/{record.id}/"
    tx.after(lambda: _drop_files(context.services, prefix))
    return {"namespace_id": record.id}


def _drop_files(services: Services, prefix: str) -> None:
    services.blobs.delete_prefix(prefix)


# ---- reading


def _counts(tx: ReadTx, record: Record) -> dict[str, int]:
    inner = tx.within(record.id)
    kinds = {row["kind"]: row["count"] for row in inner.sums("resources", {}, (), by=("kind",))}
    objects = sum(row["count"] for row in inner.sums("objects", {}, ()))
    documents = sum(int(row["documents"]) for row in inner.sums("derivations", {}, ("documents",)))
    return {
        "document_count": documents,
        "bucket_count": kinds.get("bucket", 0),
        "collection_count": kinds.get("collection", 0),
        "retriever_count": kinds.get("retriever", 0),
        "object_count": objects,
    }


def present(tx: ReadTx, records: Sequence[Record], context: Context) -> list[dict[str, Any]]:
    return [_view(tx, record, context.services) for record in records]


def _view(tx: ReadTx, record: Record, services: Services) -> dict[str, Any]:
    body = record.body
    view = {
        "object": "namespace",
        "namespace_id": record.id,
        "namespace_name": record.name,
        "namespace_type": "standard",
        "scope": "org",
        **body,
        **_counts(tx, record),
        "document_count_complete": True,
        "payload_index_count": len(body["payload_indexes"]),
        "vector_inference_map": {},
        "namespace_ready": True,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }
    missing = [
        e["feature_extractor_id"]
        for e in body["feature_extractors"]
        if e["feature_extractor_id"] not in services.extractors
    ]
    if missing:
        view["warnings"] = [
            f"{ident}: no plug-in of this name is installed here; collections cannot use it" for ident in missing
        ]
    return view


routes = APIRouter(tags=["namespaces"])


def _made(spec: NamespaceSpec, tx: Tx, caller: OrgWriter) -> dict[str, Any]:
    notes = unknown_keys(spec, strict=caller.services.settings.strict)
    notes += _parameter_notes(caller.services, spec.feature_extractors or [])
    context = Context(caller.services, caller.absolute)
    view = present(tx, [make(tx, spec, context)], context)[0]
    return view | ({"warnings": [*view.get("warnings", []), *notes]} if notes else {})


@routes.post("/namespaces", operation_id="create_namespace", response_model=None)
def create_namespace(spec: NamespaceSpec, tx: OrgWrite, caller: OrgWriter) -> Response:
    """Create a namespace. `namespace_id` may ask for an id; without one it gets an `ns_` id."""
    return answer(_made(spec, tx, caller))


@routes.post("/namespaces/standalone", operation_id="create_standalone_namespace", response_model=None)
def create_standalone(spec: NamespaceSpec, tx: OrgWrite, caller: OrgWriter) -> Response:
    """Create a namespace for vectors that the caller brings."""
    spec.mode = "standalone"
    return answer({**_made(spec, tx, caller), "status": "active", "tiering": "hot"})


@routes.get("/namespaces/{identifier}/stats", operation_id="get_namespace_stats", response_model=None)
def stats(identifier: str, tx: OrgRead) -> Response:
    return answer(_stats(tx, tx.get("namespace", identifier)))


@routes.post("/namespaces/stats/batch", operation_id="get_namespace_stats_batch", response_model=None)
def stats_batch(spec: StatsSpec, tx: OrgRead) -> Response:
    records = [tx.find("namespace", ident) for ident in spec.namespace_ids]
    missing = [ident for ident, record in zip(spec.namespace_ids, records, strict=True) if record is None]
    if missing:
        raise NotFoundError("namespace", ", ".join(missing))
    return answer({"stats": {record.id: _stats(tx, record) for record in records if record is not None}})


def _stats(tx: ReadTx, record: Record) -> dict[str, Any]:
    return {"namespace_id": record.id, **_counts(tx, record), "document_count_complete": True}


namespace = Resource(
    name="namespace",
    path="/namespaces",
    prefix="ns",
    spec=NamespaceSpec,
    patch=NamespacePatch,
    present=present,
    create=None,  # two routes below, one for each mode
    change=change,
    remove=remove,
    level="organization",
)
