"""The configuration of a cluster in every spelling of the wire, and the one that is stored. Reads no database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

from mediatheca.clusterers import MILLION, Clusterer
from mediatheca.clusterers._work import Step, checked_params
from mediatheca.flows.bodies import checked
from mediatheca.kernel.errors import NotEnabledError, ValidationError
from mediatheca.kernel.mapping import clean_path

Loc: TypeAlias = tuple[str | int, ...]
MAX_FEATURES = 8
MAX_ATTRIBUTES = 5
MAX_CANDIDATES = 255
NOT_HERE = {
    "weight_learning_config": "learning weights is not built in; give feature_weights",
    "face_cluster_merge": "merging of face clusters is not built in; cluster the face vectors with dbscan",
}
"""Keys of vector_config whose feature is not here, and what to do instead."""
REFUSED_ALGORITHMS = {"evoc": "evoc is not built in; use hdbscan, or leiden for communities of near neighbours"}
ENRICHABLE = (
    "cluster_id", "cluster_label", "distance_to_centroid", "member_count", "keywords", "summary", "probability",
    "x", "y", "z",
)  # fmt: skip
"""What of a run may be written into source documents."""


def without_nulls(data: Any) -> Any:
    """Generated clients send null for what they were not given."""
    return {key: value for key, value in data.items() if value is not None} if isinstance(data, Mapping) else data


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    _nulls = model_validator(mode="before")(without_nulls)


class FieldMapping(_Part):
    """One value of the run that is written into source documents."""

    source_field: str
    target_field: str = Field(min_length=1, max_length=200)

    @field_validator("source_field")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ENRICHABLE:
            raise ValueError(f"'{value[:50]}' is nothing a run makes; it makes: {', '.join(ENRICHABLE)}")
        return value

    @field_validator("target_field")
    @classmethod
    def _writable(cls, value: str) -> str:
        path = clean_path(value)
        if path.startswith(("_internal", "__")) or "" in path.split("."):
            raise ValueError(f"'{value[:50]}' cannot be written; name a field of the document")
        return path


class Enrichment(_Part):
    field_mappings: list[FieldMapping] = Field(default_factory=list, max_length=20)


class InputMapping(_Part):
    """Which field of a document a labelling model is shown."""

    input_key: str = Field("text", max_length=100)
    path: str = Field(min_length=1, max_length=512, validation_alias=AliasChoices("path", "source_path", "field"))


class Inputs(_Part):
    input_mappings: list[InputMapping] = Field(default_factory=list, max_length=20)


class Labeling(_Part):
    """How clusters get their names."""

    enabled: bool = False
    provider: str | None = Field(None, max_length=64)
    model_name: str | None = Field(None, max_length=256, validation_alias=AliasChoices("model_name", "model"))
    labeling_inputs: Inputs | None = None
    include_summary: bool = True
    include_keywords: bool = True
    max_samples_per_cluster: int = Field(
        8, ge=1, le=20, validation_alias=AliasChoices("max_samples_per_cluster", "max_samples")
    )
    sample_text_max_length: int = Field(200, ge=20, le=2000)
    sample_selection_strategy: Literal["nearest", "representative"] = Field(
        "nearest", validation_alias=AliasChoices("sample_selection_strategy", "sample_selection")
    )
    use_embedding_dedup: bool = True
    embedding_similarity_threshold: float = Field(0.8, ge=0, le=1)
    cache_ttl_seconds: int = Field(604_800, ge=0)
    labeling_context: str | None = Field(None, max_length=2000)
    custom_prompt: str | None = Field(None, max_length=4000)
    candidate_labels: list[str] | dict[str, str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refused(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("response_shape") is not None:
            raise ValueError("response_shape is not built in; say what you want in labeling_context or custom_prompt")
        return data

    @field_validator("candidate_labels")
    @classmethod
    def _few(cls, value: Any) -> Any:
        if value is not None and not 1 <= len(value) <= MAX_CANDIDATES:
            raise ValueError(f"must have 1 to {MAX_CANDIDATES} labels, got {len(value)}")
        if value is not None and any(not 1 <= len(label) <= 200 for label in value):
            raise ValueError("labels have 1 to 200 characters")
        return value


class VectorConfig(_Part):
    """How vectors are clustered. `feature_uris` may be empty: the first vector index of the collections then."""

    feature_uris: list[str] = Field(default_factory=list, max_length=MAX_FEATURES)
    clustering_method: str = Field("hdbscan", validation_alias=AliasChoices("clustering_method", "algorithm", "method"))
    params: dict[str, Any] = Field(default_factory=dict)
    sample_size: int | None = Field(None, ge=2, le=MILLION)
    multi_feature_strategy: Literal["concatenate", "weighted", "independent"] = "concatenate"
    feature_weights: dict[str, float] = Field(default_factory=dict)
    normalize_features: bool = True
    output_strategy: Literal["single", "per_feature"] = "single"
    effective_feature_method: Literal["mean", "median", "medoid"] = "mean"
    preprocessing_steps: list[Step] = Field(default_factory=list, max_length=5)
    hierarchical: bool = False
    vis_n_components: Literal[2, 3] = 2
    vis_method: Literal["pca", "umap", "tsne"] = "pca"
    layout_stability: Literal["align", "transform", "none"] = "align"

    @model_validator(mode="before")
    @classmethod
    def _spellings(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        found = dict(without_nulls(data))
        for name, why in NOT_HERE.items():
            value = found.pop(name, None)
            if value and not (isinstance(value, Mapping) and value.get("enabled") is False):
                raise NotEnabledError(f"vector_config.{name}: {why}")
        _features(found)
        _, _, given = given_params(found)
        return {**found, "params": without_nulls(given)} if isinstance(given, Mapping) else found

    @field_validator("feature_weights")
    @classmethod
    def _positive(cls, value: dict[str, float]) -> dict[str, float]:
        if any(not 0 <= weight <= 1e6 for weight in value.values()) or (value and not sum(value.values())):
            raise ValueError("weights are numbers from 0 on, at least one above 0")
        return value

    @model_validator(mode="after")
    def _built(self) -> VectorConfig:
        if self.multi_feature_strategy == "independent" or self.output_strategy == "per_feature":
            raise NotEnabledError(
                "vector_config: clustering every feature on its own is not built in; make one cluster for each feature"
            )
        if self.hierarchical:
            raise NotEnabledError(
                "vector_config.hierarchical: recursion is not built in; use hdbscan with cluster_selection_method "
                "leaf for finer clusters, or a second cluster with filters on cluster_id"
            )
        return self


def given_params(raw: Mapping[str, Any]) -> tuple[str, str, Any]:
    """The algorithm of a `vector_config`, the key under which its parameters were sent, and the parameters."""
    method = raw.get("clustering_method") or raw.get("algorithm") or raw.get("method") or "hdbscan"
    spellings = ("params", "algorithm_params", f"{method}_parameters", "parameters")
    key = next((name for name in spellings if raw.get(name)), "algorithm_params")
    return str(method), key, raw.get(key) or {}


def _features(found: dict[str, Any]) -> None:
    """`feature_uri`, or extractor, version and output, are one entry of `feature_uris`."""
    one = found.pop("feature_uri", None)
    if one is None and found.get("feature_extractor_name"):
        output = found.get("output_name")
        one = f"mixpeek://{found['feature_extractor_name']}@{found.get('version') or 'v1'}/{output}" if output else None
    if one is not None and not found.get("feature_uris"):
        found["feature_uris"] = [one]


class AttributeConfig(_Part):
    """Which fields documents are grouped by."""

    attributes: list[str] = Field(min_length=1, max_length=MAX_ATTRIBUTES)
    hierarchical_grouping: bool = False
    aggregation_method: Literal["most_frequent", "first", "last"] = "most_frequent"

    @field_validator("attributes")
    @classmethod
    def _paths(cls, value: list[str]) -> list[str]:
        found = [clean_path(path) for path in value]
        if any(not path or len(path) > 512 for path in found) or len(set(found)) < len(found):
            raise ValueError("attributes are different paths of 1 to 512 characters")
        return found


class ExecuteRequest(_Part):
    """What one execution does differently."""

    mode: Literal["full", "assign", "composite"] = "full"
    source_execution_ids: list[str] | None = Field(None, max_length=100)
    assignment_threshold: float = Field(0.5, ge=-1, le=1)
    filters: dict[str, Any] | None = None
    sample_size: int | None = Field(None, ge=2, le=MILLION)
    vis_n_components: Literal[2, 3] | None = None
    defer_visualization: bool = False
    layout_stability: Literal["align", "transform", "none"] | None = None
    llm_labeling: Labeling | None = None


def vector_config(raw: Any, clusterers: Mapping[str, Clusterer]) -> dict[str, Any]:
    """The stored form.

    Raises:
        ValidationError: naming each offending field.
        NotEnabledError: what is asked for is not built in; the message says what to use.
    """
    where = ("body", "vector_config")
    config = checked(VectorConfig, raw, where)
    name = config.clustering_method
    if name in REFUSED_ALGORITHMS:
        raise NotEnabledError(f"vector_config.clustering_method: {REFUSED_ALGORITHMS[name]}")
    if name == "attribute_based":
        message = "groups by attributes, not by vectors: set cluster_type to 'attribute' and give attribute_config"
        raise ValidationError.at((*where, "clustering_method"), message)
    clusterer = clusterers.get(name)
    if clusterer is None:
        known = ", ".join(sorted(clusterers))
        raise ValidationError.at((*where, "clustering_method"), f"'{name[:50]}' is no algorithm here; known: {known}")
    if config.sample_size is not None and config.sample_size > clusterer.hard_cap:
        message = f"{name} takes at most {clusterer.hard_cap:,} vectors, got {config.sample_size:,}"
        raise ValidationError.at((*where, "sample_size"), message)
    params = checked_params(clusterer, config.params, (*where, "algorithm_params"))
    return {**config.model_dump(mode="json"), "params": params}


def attribute_config(raw: Any) -> dict[str, Any]:
    return checked(AttributeConfig, raw, ("body", "attribute_config")).model_dump(mode="json")


def labeling(raw: Any) -> dict[str, Any] | None:
    return None if raw is None else checked(Labeling, raw, ("body", "llm_labeling")).model_dump(mode="json")


def enrichment(raw: Any) -> dict[str, Any] | None:
    if raw is None:
        return None
    return checked(Enrichment, raw, ("body", "source_enrichment_config")).model_dump(mode="json")


def execute_request(raw: Any) -> ExecuteRequest:
    return checked(ExecuteRequest, raw or {}, ("body",))
