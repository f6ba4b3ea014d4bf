"""Collections: sources, an extractor, and the documents that come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Body, Depends, Response
from pydantic import AliasChoices, Field, model_validator

from mediatheca.api.deps import Caller, Read, Reader, Write, Writer, answer, in_slow_thread
from mediatheca.flows.collection_removal import missing_sources, remove_collection
from mediatheca.flows.collections import design
from mediatheca.flows.ingest.backfill import Wanted, find_units, trigger_collection
from mediatheca.flows.plugins.scoped import scoped
from mediatheca.flows.response_shapes import with_schema
from mediatheca.kernel.analysis import language_of
from mediatheca.kernel.errors import ConflictError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.ids import check_name
from mediatheca.kernel.json_schema import check_schema
from mediatheca.resources._applications import (
    LISTS,
    Applications,
    checked_applications,
    label_what_is_there,
)
from mediatheca.resources._collection_schedule import (
    ScheduleSpec,
    checked_schedule,
    drop_schedule,
    set_schedule,
)
from mediatheca.resources._collection_source import Source, resolve_source
from mediatheca.resources._collection_view import feature_views, present
from mediatheca.resources._feature_keys import MAX_KEYS, extractor_of
from mediatheca.resources._reembed import ReembedSpec, reembed
from mediatheca.resources.base import Context, Resource, Spec, is_true, merge, notes_on
from mediatheca.stores.db.tx import Record, Tx


class ExtractorConfig(Spec):
    """Which extractor, with what parameters, over which fields."""

    feature_extractor_name: str
    version: str = "v1"
    features: list[str] | None = Field(
        None, min_length=1, max_length=MAX_KEYS, exclude=True, description="Instead of a name: what to search by."
    )
    parameters: dict[str, Any] = Field(default_factory=dict, validation_alias=AliasChoices("parameters", "params"))
    input_mappings: dict[str, Any] | list[dict[str, Any]] | None = None
    field_passthrough: list[str | dict[str, Any]] = Field(default_factory=list)
    include_all_source_fields: bool = False

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        """Generated clients send null for what they were not given."""
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


def _single_extractor(data: Any) -> Any:
    """`features`, and `feature_extractors: [one]`, are `feature_extractor`; a longer list has no meaning here."""
    if not isinstance(data, dict):
        return data
    if data.get("retriever_transform"):
        raise ValueError("retriever_transform is not there; retriever_enrichments write what a retriever finds")
    if data.get("features") and not data.get("feature_extractors"):
        return _by_features(data)
    if "feature_extractors" not in data or data.get("feature_extractor"):
        return data
    data = dict(data)
    several = data.pop("feature_extractors")
    if not isinstance(several, list) or len(several) != 1:
        raise ValueError("feature_extractors must hold exactly one extractor; make one collection per extractor")
    return {**data, "feature_extractor": several[0]}


def _by_features(data: dict[str, Any]) -> dict[str, Any]:
    """With an extractor that has no name yet: `_prepared_config` gives it one."""
    if data.get("feature_extractor"):
        raise ValueError("give features or feature_extractor, not both")
    kept = {key: value for key, value in data.items() if key != "features"}
    return {**kept, "feature_extractor": {"feature_extractor_name": "", "features": data["features"]}}


SchemaValidation: TypeAlias = Literal["off", "warn", "strict"]


class CollectionSpec(Applications):
    """The body of create."""

    collection_name: str
    description: str | None = None
    source: Source
    feature_extractor: ExtractorConfig
    enabled: bool = True
    metadata: dict[str, Any] = Field(default_factory=dict)
    schedule: ScheduleSpec | None = None
    embedding_task: str | None = None
    document_schema: dict[str, Any] | None = Field(None, description="JSON Schema that documents should fit.")
    schema_validation: SchemaValidation = "off"
    language: str | None = Field(None, description="Of the text fields: words are searched by stem; none: as they are.")
    field_languages: dict[str, str] = Field(default_factory=dict, description="Of single text fields.")

    _unwrap = model_validator(mode="before")(_single_extractor)


class CollectionPatch(Applications):
    """What may change later; source and extractor may not: clone the collection with other ones."""

    collection_name: str | None = None
    description: str | None = None
    enabled: bool | None = None
    metadata: dict[str, Any] | None = None
    schedule: ScheduleSpec | None = None
    source_filters: dict[str, Any] | None = Field(None, description="Of the source; what was processed stays.")
    document_schema: dict[str, Any] | None = None
    schema_validation: SchemaValidation | None = None


class CloneSpec(Applications):
    """A copy of the declaration under another name; documents are not copied, trigger it to fill it."""

    collection_name: str
    description: str | None = None
    source: Source | None = None
    feature_extractor: ExtractorConfig | None = None
    enabled: bool | None = None
    metadata: dict[str, Any] | None = None

    _unwrap = model_validator(mode="before")(_single_extractor)


class TriggerSpec(Spec):
    """Which objects to process; empty: all of the sources."""

    include_buckets: list[str] | None = None
    include_collections: list[str] | None = None
    object_ids: list[str] | None = None
    source_filters: dict[str, Any] | None = None
    dedup_strategy: str | None = Field(None, pattern="^(skip|replace|force)$")
    reembed: ReembedSpec | None = None


async def prepare(spec: CollectionSpec, caller: Caller) -> CollectionSpec:
    """A `response_shape` in words gets its schema from a language model."""
    return spec.model_copy(update={"feature_extractor": await _prepared_config(spec.feature_extractor, caller)})


async def _prepared_config(config: ExtractorConfig, caller: Caller) -> ExtractorConfig:
    if config.features:
        named = f"{config.feature_extractor_name}_{config.version}" if config.feature_extractor_name else ""
        asked = (caller.services, caller.scope, config.features, named)
        name, version = await in_slow_thread(lambda: extractor_of(*asked))
        config = config.model_copy(update={"feature_extractor_name": name, "version": version})
    parameters = await with_schema(caller.services, caller.scope, config.model_dump())
    return config if parameters is None else config.model_copy(update={"parameters": parameters})


async def _prepared_clone(spec: CloneSpec, caller: Writer) -> CloneSpec:
    if spec.feature_extractor is None:
        return spec
    return spec.model_copy(update={"feature_extractor": await _prepared_config(spec.feature_extractor, caller)})


PreparedClone = Annotated[CloneSpec, Depends(_prepared_clone)]


def create(tx: Tx, spec: CollectionSpec, context: Context) -> tuple[str, dict[str, Any]]:
    return spec.collection_name, _body(tx, spec, context)


def _body(tx: Tx, spec: CollectionSpec, context: Context, *, lenient: bool = False) -> dict[str, Any]:
    """The body to store. `lenient`: what has no effect was accepted before, and is no error now."""
    check_name("collection_name", spec.collection_name, "col", low=3)
    source = resolve_source(tx, spec.source)
    if spec.document_schema is not None:
        check_schema(spec.document_schema, "document_schema")
    designed = design(
        scoped(context.services, tx.scope),
        source.schemas,
        spec.feature_extractor.model_dump(),
        embedding_task=spec.embedding_task,
        strict=context.services.settings.strict and not lenient,
    )
    return {
        "description": spec.description,
        "source": source.stored,
        "source_bucket_schemas": source.bucket_schemas,
        "document_schema": spec.document_schema,
        "schema_validation": spec.schema_validation,
        "enabled": spec.enabled,
        "metadata": spec.metadata,
        "languages": _languages(spec, designed["indexed_fields"]),
        **designed,
        "warnings": [*source.warnings, *designed["warnings"]],
        **checked_applications(tx, spec),
        "schedule": checked_schedule(spec.schedule),
    }


def _languages(spec: CollectionSpec, indexed: Mapping[str, str]) -> dict[str, str]:
    """The language of each text field that has one.

    Raises:
        ValidationError: no analyser knows the language, or the field is no text field.
    """
    texts = [path for path, kind in indexed.items() if kind == "text"]
    general = language_of(spec.language, "language")
    own = {path: language_of(raw, ("field_languages", path)) for path, raw in spec.field_languages.items()}
    for path in own.keys() - set(texts):
        known = ", ".join(texts) or "none"
        raise ValidationError.at(("field_languages", path), f"is no text field of the documents; they have: {known}")
    return {path: language for path in texts if (language := own.get(path, general))}


def created(tx: Tx, record: Record) -> None:
    """A new collection has a table of documents from the first moment."""
    tx.insert("document_tables", [{"collection_id": record.id}])
    if record.body.get("schedule"):
        set_schedule(tx, record.id, record.body["schedule"])


def change(tx: Tx, record: Record, patch: CollectionPatch, context: Context) -> tuple[str, dict[str, Any]]:
    fixed = sorted({"source", "feature_extractor", "feature_extractors", "features"} & set(patch.model_extra or {}))
    if fixed:
        raise ConflictError(
            f"{', '.join(fixed)} of a collection cannot change; clone it with other values and trigger it"
        )
    name, body = merge(record, patch, "collection_name")
    if name != record.name:
        check_name("collection_name", name, "col", low=3)
    if patch.schedule is not None:
        set_schedule(tx, record.id, checked_schedule(patch.schedule) or {})
    kept = {listed: record.body[listed] for listed in LISTS if listed in record.body}  # null leaves a list alone
    sent = checked_applications(tx, patch, own=record.id)
    label_what_is_there(tx, record, sent.get("taxonomy_applications", ()))
    body.pop("source_filters", None)
    return name, {**body, **kept, **sent, **_changed_input(tx, record, patch)}


def _changed_input(tx: Tx, record: Record, patch: CollectionPatch) -> dict[str, Any]:
    """What else follows from a patch; `source_filters` stand in the source."""
    found: dict[str, Any] = {"source": record.body["source"]}
    if "source_filters" in patch.model_fields_set:
        parse_filter(patch.source_filters, path="source_filters")
        found["source"] = {**record.body["source"], "source_filters": patch.source_filters}
    if patch.document_schema is not None:
        check_schema(patch.document_schema, "document_schema")
    if patch.schema_validation is None:
        found["schema_validation"] = record.body.get("schema_validation") or "off"
    if patch.enabled:
        gone = missing_sources(tx, record)
        if gone:
            raise ConflictError(f"collection '{record.id}' reads from {', '.join(gone)}, which was deleted; clone it")
        found["disabled_reason"] = None
    return found


def remove(tx: Tx, record: Record, context: Context, query: Mapping[str, str]) -> dict[str, Any]:
    """`?cascade=true` deletes what is made from it; else that is switched off and says why."""
    return remove_collection(tx, record, drop_schedule, cascade=is_true(query.get("cascade")))


routes = APIRouter(tags=["collections"])


@routes.post("/collections/{identifier}/clone", operation_id="clone_collection", response_model=None)
def clone(identifier: str, spec: PreparedClone, tx: Write, caller: Writer) -> Response:
    notes = notes_on(caller, spec)
    original = tx.get("collection", identifier)
    body = original.body
    if body["source"]["type"] not in ("bucket", "collection") and spec.source is None:
        raise ConflictError(
            f"collection '{original.id}' reads from nothing that can be cloned; give the clone a source"
        )
    config = {
        key: value
        for key, value in body["feature_extractor"].items()
        if key not in ("inputs", "weight", "feature_extractor_id")
    }
    merged = CollectionSpec(
        collection_name=spec.collection_name,
        description=spec.description if spec.description is not None else body["description"],
        source=spec.source or Source(**body["source"]),
        feature_extractor=spec.feature_extractor or ExtractorConfig(**config),
        enabled=body["enabled"] if spec.enabled is None else spec.enabled,
        metadata=body["metadata"] if spec.metadata is None else spec.metadata,
        document_schema=body.get("document_schema"),
        schema_validation=body.get("schema_validation") or "off",
        field_languages=body.get("languages", {}),
        **{name: getattr(spec, name) if getattr(spec, name) is not None else body.get(name) for name in LISTS},
    )
    context = Context(caller.services, caller.absolute)
    stored = _body(tx, merged, context, lenient=spec.feature_extractor is None)
    made = tx.put("collection", "col", merged.collection_name, stored)
    created(tx, made)
    tx.emit("collection.created", made.id, {"cloned_from": original.id})
    return answer({"collection": present(tx, [made], context)[0], "source_collection_id": original.id} | notes)


@dataclass(frozen=True, slots=True)
class _Triggered:
    """What a trigger asks for, and what it will read of other collections."""

    spec: TriggerSpec
    wanted: Wanted
    collection: Record
    units: Mapping[str, Sequence[str]]
    notes: Mapping[str, Sequence[str]]


def _triggered(identifier: str, caller: Writer, spec: Annotated[TriggerSpec | None, Body()] = None) -> _Triggered:
    """Looked up before the transaction begins: it may read very many documents, and nobody else could write
    meanwhile."""
    spec = spec or TriggerSpec()
    notes = notes_on(caller, spec)
    names = ("include_buckets", "object_ids", "source_filters", "dedup_strategy", "include_collections")
    wanted = Wanted(*(getattr(spec, name) for name in names))
    with caller.services.db.read(caller.scope) as tx:
        collection = tx.get("collection", identifier)
    units = {} if spec.reembed else find_units(caller.services, caller.scope, collection, wanted)
    return _Triggered(spec, wanted, collection, units, notes)


@routes.post(
    "/collections/{identifier}/trigger", operation_id="trigger_collection", response_model=None, status_code=202
)
def trigger(identifier: str, asked: Annotated[_Triggered, Depends(_triggered)], tx: Write, caller: Writer) -> Response:
    """Process the sources, and what is made from the collection's own documents: one batch per bucket, submitted at
    once."""
    if asked.spec.reembed is not None:
        return reembed(tx, caller, identifier, asked.spec.reembed)
    collection = asked.collection
    batches = trigger_collection(tx, collection, asked.wanted, caller.services.settings.chunk_size, asked.units)
    count = sum(batch["object_count"] for batch in batches)
    return answer(
        {
            "batch_id": batches[0]["batch_id"],
            "task_id": batches[0]["task_id"],
            "batch_ids": [batch["batch_id"] for batch in batches],
            "task_ids": [batch["task_id"] for batch in batches],
            "batch_count": len(batches),
            "collection_id": collection.id,
            "source_bucket_ids": list(dict.fromkeys(b["bucket_id"] for b in batches if b["bucket_id"])),
            "source_collection_ids": collection.body["source"].get("collection_ids") or [],
            "object_count": count,
            "total_tiers": max(len(batch["body"]["dag_tiers"]) for batch in batches),
            "message": f"{count} objects queued",
            **asked.notes,
        },
        202,
    )


@routes.get("/collections/{identifier}/features", operation_id="describe_collection_features", response_model=None)
def features(identifier: str, tx: Read, caller: Reader) -> Response:
    return answer({"features": feature_views(tx.get("collection", identifier).body)})


collection = Resource(
    name="collection",
    path="/collections",
    prefix="col",
    spec=CollectionSpec,
    patch=CollectionPatch,
    present=present,
    create=create,
    change=change,
    remove=remove,
    created=created,
    prepare=prepare,
)
