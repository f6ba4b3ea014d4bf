"""Parameters of `feature_search`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, StrictBool, field_validator

from mediatheca.stages import FilterParam

EmbeddingTask = Literal["retrieval_query", "retrieval_document", "semantic_similarity", "classification", "none"]


class DocumentRef(BaseModel):
    collection_id: str | None = None
    document_id: str | None = None


class Query(BaseModel):
    """What to look for. `value`: a text; a data URI, URL or base64; or a vector."""

    input_mode: Literal["text", "content", "vector", "document"] = "text"
    value: Any = None
    document_ref: DocumentRef | None = None
    include_self: bool = Field(False, description="The referenced document itself may be found.")
    embedding_task: EmbeddingTask = "retrieval_query"


class Search(BaseModel):
    feature_uri: str = Field("", description="mixpeek://extractor@version/output, or the name of the vector index.")
    query: Query = Field(default_factory=Query)
    top_k: int = Field(100, ge=1, le=5000, description="Candidates of this search, before fusion.")
    min_score: float | None = Field(None, description="Candidates below this raw score are dropped before fusion.")
    weight: float = Field(1.0, ge=0, le=1, description="Relative weight in rrf, dbsf and weighted fusion.")
    filters: FilterParam = None
    lexical: bool = Field(False, description="BM25 over the indexed text fields instead of vectors.")
    lexical_fields: list[str] = Field([], description="Fields the lexical search reads; empty: all text fields.")
    optional: bool = Field(False, description="Skip with a warning when the index does not exist or is empty.")
    on_empty: Literal["error", "skip", "random"] = Field("error", description="What an empty query does.")
    collection_identifiers: list[str] | None = Field(None, description="Ids or names, among the retriever's.")


class Facet(BaseModel):
    key: str = Field(min_length=1)
    limit: int = Field(10, ge=1, le=1000)
    exact: bool = False
    scope: Literal["filtered", "candidates"] = Field(
        "filtered", description="Count all documents that pass the filters, or only those found."
    )


class GroupBy(BaseModel):
    field: str = Field(min_length=1)
    max_per_group: int = Field(1, ge=1, le=100)
    limit: int = Field(25, ge=1, le=500, description="Groups; replaces final_top_k.")
    output_mode: Literal["first", "all", "flatten"] = "all"
    exclude_null: bool = Field(False, description="Leave out documents without the field.")


class Params(BaseModel):
    searches: list[Search] = Field([], max_length=10)
    final_top_k: int = Field(25, ge=1, le=5000, description="Documents kept after fusion.")
    fusion: Literal["rrf", "dbsf", "weighted", "max"] = "rrf"
    rrf_k: int = Field(60, ge=1, le=1000)
    normalization: Literal["minmax"] | None = Field(None, description="dbsf: scale by min–max instead of μ±3σ.")
    collection_identifiers: list[str] | None = None
    facets: list[Facet] = Field([], max_length=50)
    group_by: GroupBy | None = None
    hard_timeout_ms: int = Field(5000, ge=1, description="Time after which the stage gives up.")
    interactive: StrictBool = Field(False, description="Do not try again after a timeout.")
    degrade_retry: StrictBool = True
    auto_preprocess: bool = True
    cache_behavior: Literal["auto", "disabled", "aggressive"] = "auto"
    cache_ttl_seconds: int | None = Field(None, ge=0)

    @field_validator("facets", mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        """A plain string is a facet key."""
        return (
            [{"key": entry} if isinstance(entry, str) else entry for entry in value]
            if isinstance(value, list)
            else value
        )
