"""The configuration of a taxonomy in every spelling of the wire, and the one that is stored.

Flat: `source_collection {collection_id, enrichment_fields}`, or both at the root. Hierarchical: `hierarchical_nodes`,
`hierarchy {child: parent}`, a `path_field`, or `inference_strategy`. Nothing here looks at the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import pydantic
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mediatheca.kernel.assignments import FieldRule
from mediatheca.kernel.errors import FieldError, NotEnabledError, ValidationError, plain_message
from mediatheca.kernel.hierarchy import MAX_NODES
from mediatheca.kernel.mapping import clean_path
from mediatheca.kernel.taxonomies import WHOLE, InputMap

Loc: TypeAlias = tuple[str | int, ...]
CONFIG: Loc = ("body", "config")
_LATER = {"labels": "make a collection of label documents, or use POST /v1/taxonomies/from-documents"}
"""Keys of the wire whose feature is not here."""


def _without_nulls(data: Any) -> Any:
    """Generated clients send null for what they were not given."""
    return {key: value for key, value in data.items() if value is not None} if isinstance(data, Mapping) else data


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", populate_by_name=True)

    _nulls = model_validator(mode="before")(_without_nulls)


class InputMapping(_Part):
    """Where an input of the retriever comes from."""

    input_key: str = Field(min_length=1, max_length=200)
    source_type: Literal["payload", "literal", "vector", "blob"] = "payload"
    path: str | None = Field(None, max_length=512)
    override: Any = None

    @model_validator(mode="after")
    def _complete(self) -> InputMapping:
        if self.source_type == "blob":
            raise ValueError("source_type blob is not read here; use payload with the field that holds the file's URL")
        if self.source_type == "literal" and self.override is None:
            raise ValueError("a literal needs its value in 'override'")
        if self.source_type == "payload" and not self.path:
            raise ValueError("needs 'path': the field of the document that is read")
        self.path = clean_path(self.path) if self.path else self.path
        return self

    def value(self) -> InputMap:
        source: Any = self.source_type
        return InputMap(self.input_key, source, self.path or "", self.override)


class EnrichmentField(_Part):
    """A field taken over from the label document."""

    field_path: str = Field(min_length=1, max_length=512)
    target_field: str | None = Field(None, min_length=1, max_length=512)
    merge_mode: Literal["replace", "append"] = "replace"

    @field_validator("target_field")
    @classmethod
    def _writable(cls, value: str | None) -> str | None:
        return value if value is None else _own(value)

    @model_validator(mode="after")
    def _own_name(self) -> EnrichmentField:
        _own(self.target_field or self.field_path)
        return self

    def rule(self) -> FieldRule:
        return FieldRule(self.field_path, self.target_field or self.field_path, self.merge_mode)


def _own(path: str) -> str:
    head = path.partition(".")[0]
    if head.startswith(("_internal", "__")) or head in ("document_id", "collection_id", "namespace_id", "internal_id"):
        raise ValueError(f"'{path}' is set by the system and cannot be written; give a target_field")
    if not all(path.split(".")):
        raise ValueError(f"'{path}' is no dotted path")
    return path


class SourceCollection(_Part):
    """The collection of the labels; or, where the retriever does not search it, the one to be classified."""

    collection_id: str = Field(min_length=1, max_length=200)
    enrichment_fields: list[EnrichmentField] | None = Field(None, max_length=100)


class Covariate(_Part):
    """Something that may go along with a transition."""

    field_path: str = Field(min_length=1, max_length=512)
    covariate_type: str = "categorical"
    name: str = Field(min_length=1, max_length=200)
    binning_strategy: Literal["quartiles", "deciles", "custom"] = "quartiles"


class StepAnalytics(_Part):
    """How labelled documents of a sequence become a path of steps."""

    timestamp_field: str = Field(min_length=1, max_length=512)
    sequence_id_field: str = Field(min_length=1, max_length=512)
    step_key_source: Literal["assignment_label", "assignment_node_id", "node_id", "field_path"] = "assignment_label"
    step_key_field_path: str | None = Field(None, max_length=512)
    covariates: list[Covariate] = Field(default_factory=list, max_length=20)
    max_sequence_duration_days: int | None = Field(None, ge=1, le=3650)

    @model_validator(mode="after")
    def _named(self) -> StepAnalytics:
        if self.step_key_source == "field_path" and not self.step_key_field_path:
            raise ValueError("step_key_source field_path needs step_key_field_path")
        if self.step_key_source == "node_id":
            self.step_key_source = "assignment_node_id"
        return self


class HierarchicalNode(_Part):
    """A collection as a node; what it does not say it has from its parent."""

    collection_id: str = Field(min_length=1, max_length=200)
    parent_collection_id: str | None = Field(None, max_length=200)
    label: str | None = Field(None, max_length=200)
    summary: str | None = Field(None, max_length=5000)
    keywords: list[str] | None = Field(None, max_length=100)
    retriever_id: str | None = Field(None, max_length=200)
    enrichment_fields: list[EnrichmentField] | None = Field(None, max_length=100)
    input_mappings: list[InputMapping] | None = Field(None, max_length=50)
    min_score: float | None = Field(None, ge=-1, le=1)


class TaxonomyConfig(_Part):
    """Both kinds. `min_score`, `label_field` and `parent_field` are ours."""

    taxonomy_type: Literal["flat", "hierarchical"] = "flat"
    retriever_id: str | None = Field(None, max_length=200)
    input_mappings: list[InputMapping] = Field(default_factory=list, max_length=50)
    source_collection: SourceCollection | None = None
    top_k: int = Field(1, ge=1, le=50)
    min_score: float | None = Field(None, ge=-1, le=1)
    label_field: str | None = Field(None, min_length=1, max_length=512)
    parent_field: str | None = Field(None, min_length=1, max_length=512)
    path_field: str | None = Field(None, min_length=1, max_length=512)
    path_separator: str = Field("/", min_length=1, max_length=20)
    hierarchical_nodes: list[HierarchicalNode] = Field(default_factory=list, max_length=MAX_NODES)
    hierarchy: dict[str, str | None] | None = Field(None, max_length=MAX_NODES)
    inference_strategy: Literal["schema", "cluster", "llm"] | None = None
    inference_collections: list[str] = Field(default_factory=list, max_length=1000)
    llm_provider: str | None = Field(None, max_length=200)
    llm_model: str | None = Field(None, max_length=200)
    llm_prompt_template: str | None = Field(None, max_length=20_000)
    llm_sample_size: int = Field(0, ge=0, le=100)
    cluster_ids: list[str] = Field(default_factory=list, max_length=100)
    cluster_overlap_threshold: float = Field(0.7, gt=0, le=1)
    step_analytics: StepAnalytics | None = None

    @model_validator(mode="before")
    @classmethod
    def _spellings(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        made = _without_nulls(data)
        collection = made.pop("collection_id", None)
        fields = made.pop("enrichment_fields", None)
        if "source_collection" not in made and collection is not None:
            made["source_collection"] = {"collection_id": collection}
        source = made.get("source_collection")
        if isinstance(source, str):
            source = made["source_collection"] = {"collection_id": source}
        if isinstance(source, Mapping) and fields is not None:
            made["source_collection"] = {"enrichment_fields": fields, **_without_nulls(source)}
        made["input_mappings"] = _listed(made.get("input_mappings"))
        return made

    @property
    def rules(self) -> tuple[FieldRule, ...]:
        """Of the labels of the one side. No list: the whole label document, never over the document's own fields."""
        source = self.source_collection
        if source is None or source.enrichment_fields is None:
            return (FieldRule(WHOLE, WHOLE, gentle=True),)
        return tuple(field.rule() for field in source.enrichment_fields)

    @property
    def shape(self) -> Literal["labels", "nodes", "carried"]:
        """Where its nodes come from."""
        if self.taxonomy_type == "flat":
            return "labels"
        if self.path_field and not self.retriever_id:
            return "carried"
        named = self.hierarchical_nodes or self.hierarchy or self.inference_strategy
        return "nodes" if named else "labels"


def _listed(raw: Any) -> Any:
    """`{input: path}` and `{input: {path, …}}` in the place of the list."""
    if not isinstance(raw, Mapping):
        return [] if raw is None else raw
    return [
        {"input_key": key, **value} if isinstance(value, Mapping) else {"input_key": key, "path": value}
        for key, value in raw.items()
    ]


def parse_config(raw: Any, where: Loc = CONFIG) -> TaxonomyConfig:
    """A configuration whose parts fit each other.

    Raises:
        ValidationError: every offending field.
        NotEnabledError: something of the wire that is not here.
    """
    if isinstance(raw, Mapping):
        for name, instead in _LATER.items():
            if raw.get(name):
                raise NotEnabledError(f"config.{name}: is not made from here; {instead}")
    try:
        config = TaxonomyConfig.model_validate(raw)
    except pydantic.ValidationError as error:
        found = [FieldError((*where, *entry["loc"]), _said(entry), entry["type"]) for entry in error.errors()]
        raise ValidationError.of(found, skip=1) from error
    errors = [FieldError((*where, *loc), message, "value_error") for loc, message in _misfits(config)]
    if errors:
        raise ValidationError.of(errors, skip=1)
    return config


def _said(entry: Any) -> str:
    message = plain_message(entry)
    given = entry.get("input")
    return message if isinstance(given, Mapping | list) else f"{message}, got {repr(given)[:80]}"


def _misfits(config: TaxonomyConfig) -> list[tuple[Loc, str]]:
    """What is missing or contradicts itself."""
    found: list[tuple[Loc, str]] = []
    if config.taxonomy_type == "flat" or config.shape == "labels":
        found += _without_labels(config)
    if config.taxonomy_type == "hierarchical":
        found += _tree_misfits(config)
    else:
        for name in ("hierarchical_nodes", "hierarchy", "inference_strategy", "path_field", "parent_field"):
            if getattr(config, name):
                found.append(((name,), "is of a hierarchy; set taxonomy_type to hierarchical"))
    return found + _doubled(config)


def _without_labels(config: TaxonomyConfig) -> list[tuple[Loc, str]]:
    found: list[tuple[Loc, str]] = []
    if not config.retriever_id:
        found.append((("retriever_id",), "is required: the retriever that finds labels"))
    if not config.input_mappings:
        found.append((("input_mappings",), "is required: what of a document the retriever gets, [{input_key, path}]"))
    if config.taxonomy_type == "flat" and config.source_collection is None:
        found.append((("source_collection",), "is required: {collection_id, enrichment_fields}"))
    return found


def _tree_misfits(config: TaxonomyConfig) -> list[tuple[Loc, str]]:
    found: list[tuple[Loc, str]] = []
    named = [n for n in ("hierarchical_nodes", "hierarchy", "inference_strategy") if getattr(config, n)]
    fields = [n for n in ("path_field", "parent_field") if getattr(config, n)]
    if not named and not fields:
        message = "needs its nodes: hierarchical_nodes, hierarchy, inference_strategy, or path_field"
        found.append((("hierarchical_nodes",), message))
    if named and fields:
        found.append(((fields[0],), f"does not go together with {named[0]}"))
    if len(fields) == 2:
        found.append((("parent_field",), "does not go together with path_field"))
    if config.inference_strategy and len(set(config.inference_collections)) < 2:
        found.append((("inference_collections",), "needs at least two collections"))
    if config.inference_strategy == "cluster" and not config.cluster_ids:
        found.append((("cluster_ids",), "is required: the clusters whose runs are compared"))
    if config.inference_collections and not config.inference_strategy:
        found.append((("inference_strategy",), "is required with inference_collections: schema, cluster or llm"))
    return found


def _doubled(config: TaxonomyConfig) -> list[tuple[Loc, str]]:
    """A collection that is named as a node twice, and a field that is written in two ways."""
    found: list[tuple[Loc, str]] = []
    seen: set[str] = set()
    for number, node in enumerate(config.hierarchical_nodes):
        if node.collection_id in seen:
            message = f"'{node.collection_id}' is a node already"
            found.append((("hierarchical_nodes", number, "collection_id"), message))
        seen.add(node.collection_id)
    modes: dict[str, str] = {}
    source = config.source_collection
    for number, field in enumerate((source.enrichment_fields if source else None) or ()):
        rule = field.rule()
        if modes.setdefault(rule.target_field, rule.merge_mode) != rule.merge_mode:
            place = ("source_collection", "enrichment_fields", number, "merge_mode")
            found.append((place, f"'{rule.target_field}' is both replaced and appended to"))
    return found


def unknown_in(part: BaseModel, prefix: str = "config") -> list[str]:
    """Dotted names of keys that nothing reads."""
    found = [f"{prefix}.{key}" for key in part.model_extra or {}]
    for name in type(part).model_fields:
        value = getattr(part, name)
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, BaseModel):
                found += unknown_in(entry, f"{prefix}.{name}")
    return found


def wire_config(config: TaxonomyConfig) -> dict[str, Any]:
    """As it is stored and shown: what the kind has, without what was not given."""
    made = _known(config)
    if config.taxonomy_type == "flat":
        kept = ("taxonomy_type", "retriever_id", "input_mappings", "source_collection", "top_k", "min_score")
        return {name: made[name] for name in (*kept, "label_field", "step_analytics") if name in made}
    return {name: value for name, value in made.items() if value not in ([], {})}


def _known(part: BaseModel) -> dict[str, Any]:
    """The fields that have a meaning, here and in nested parts."""
    made: dict[str, Any] = {}
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, list):
            value = [_known(entry) if isinstance(entry, BaseModel) else entry for entry in value]
        if value is not None:
            made[name] = _known(value) if isinstance(value, BaseModel) else value
    return made
