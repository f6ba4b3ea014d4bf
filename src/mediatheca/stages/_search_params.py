"""Parameters of `feature_search`."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, Field, StrictBool, field_validator, model_validator

from mediatheca.kernel.models import EmbeddingTask
from mediatheca.kernel.passages import TextCutting
from mediatheca.kernel.query_files import may_be_long
from mediatheca.kernel.search import Cutting
from mediatheca.stages import CacheParams, FilterParam
from mediatheca.stages._search_language import HARD_TIMEOUT_MS


class DocumentRef(BaseModel):
    collection_id: str | None = None
    document_id: str | None = None


class Query(BaseModel):
    """What to look for. `value`: a text; a data URI, URL or base64; a vector; or `{indices, values}`, a sparse one."""

    input_mode: Literal["text", "content", "vector", "document"] = "text"
    value: Any = None
    document_ref: DocumentRef | None = None
    include_self: bool = Field(False, description="The referenced document itself may be found.")
    embedding_task: EmbeddingTask = "retrieval_query"


class LexicalField(BaseModel):
    field: str = Field(min_length=1)
    boost: float = Field(1.0, gt=0, le=100, description="What the score of this field is multiplied with.")


class Preprocessing(BaseModel):
    """How a long query is cut, searched piece by piece, and put together again."""

    split_method: Literal["sentences", "passages"] = "passages"
    chunk_size: int = Field(1000, ge=20, le=10_000, description="Characters of a passage at most.")
    time_split_interval: float | None = Field(
        None,
        ge=1,
        le=3600,
        description="Seconds of a piece of a recording; else as in the collection. PDFs are cut by "
        "split_method and chunk_size where these are given; else as in the collection, or page by page.",
    )
    chunk_overlap: int = Field(0, ge=0, le=5000, description="Characters repeated from the passage before.")
    max_chunks: int = Field(20, ge=1, le=500, description="Of more, so many are taken evenly over the whole query.")
    aggregation: Literal["rrf", "max", "avg"] = Field("rrf", description="max: this very moment; avg: all in all.")
    dedup_field: str | None = Field(None, description="Keep the best document of each value of this field.")

    @property
    def of_text(self) -> TextCutting:
        """How a text is cut."""
        return TextCutting(self.split_method, self.chunk_size, self.chunk_overlap)

    def of_file(self, *, auto: bool) -> Cutting:
        """How a file is cut: what was not said is the collection's affair."""
        said = {"split_method", "chunk_size", "chunk_overlap"} & self.model_fields_set
        return Cutting(self.max_chunks, self.time_split_interval, self.of_text if said else None, auto)


class Search(BaseModel):
    feature_uri: str = Field("", description="mixpeek://extractor@version/output, or the name of the vector index.")
    query: Query = Field(default_factory=Query)
    top_k: int = Field(100, ge=1, le=5000, description="Candidates of this search, before fusion.")
    min_score: float | None = Field(None, description="Candidates below this raw score are dropped before fusion.")
    weight: float = Field(1.0, ge=0, le=1, description="Relative weight in rrf, dbsf and weighted fusion.")
    filters: FilterParam = None
    lexical: bool = Field(False, description="BM25 over the indexed text fields instead of vectors.")
    lexical_fields: list[LexicalField] = Field(
        [],
        max_length=50,
        description="Fields the lexical search reads, names or {field, boost}; empty: all text fields.",
    )
    operator: Literal["or", "and", "min_should_match"] = Field("or", description="How many words must be there.")
    minimum_should_match: int | str = Field(1, description="A number of words, or a share like '75%'.")
    fuzziness: Literal["auto", 0, 1, 2] = Field(
        "auto", description="auto: words that stand nowhere are replaced by near ones. 1, 2: others too, ranked below."
    )
    phrase_boost: float = Field(
        1.0, ge=1, le=100, description="A document that holds the words side by side, in order, counts so much more."
    )
    optional: bool = Field(False, description="Skip with a warning when the index does not exist or is empty.")
    on_empty: Literal["error", "skip", "random"] = Field("error", description="What an empty query does.")
    query_preprocessing: Preprocessing | None = None
    collection_identifiers: list[str] | None = Field(None, description="Ids or names, among the retriever's.")

    @field_validator("lexical_fields", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """A plain string is the name of a field."""
        if not isinstance(value, list):
            return value
        return [{"field": entry} if isinstance(entry, str) else entry for entry in value]

    @field_validator("fuzziness", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value in ("0", "1", "2") else value

    @field_validator("minimum_should_match")
    @classmethod
    def _share(cls, value: int | str) -> int | str:
        share = re.fullmatch(r"(\d{1,3})\s*%", value) if isinstance(value, str) else None
        if (isinstance(value, int) and value >= 1) or (share and 0 < int(share[1]) <= 100):
            return value
        raise ValueError("must be a whole number from 1 on, or a share from 1% to 100%")

    def minimum(self, words: int) -> int:
        """How many of so many words a document must hold."""
        if self.operator != "min_should_match":
            return words if self.operator == "and" else 1
        wanted = self.minimum_should_match
        return wanted if isinstance(wanted, int) else max(1, words * int(wanted.strip("% ")) // 100)


class Facet(BaseModel):
    key: str = Field(min_length=1)
    limit: int = Field(10, ge=1, le=1000)
    exact: bool = Field(False, description="Counts are exact in any case, unless the answer says `exact: false`.")
    scope: Literal["filtered", "candidates", "lexical_matches"] = Field(
        "filtered",
        description="What is counted: all documents that pass the filters, those found, or those that hold a word "
        "of the text query.",
    )
    exclude_own_filter: bool = Field(
        False, description="Leave out the conditions on this very field, so that its other values can be chosen too."
    )


class Highlight(BaseModel):
    """Fragments that show why a document was found."""

    fields: list[str] = Field([], max_length=20, description="Text fields; empty: those searched, or all text fields.")
    mode: Literal["lexical", "semantic"] = "lexical"
    fragment_size: int = Field(150, ge=20, le=2000, description="Characters of a fragment at most.")
    number: int = Field(3, ge=1, le=20, description="Fragments of a field.")
    pre: str = Field("<em>", max_length=100)
    post: str = Field("</em>", max_length=100)
    escape: StrictBool = Field(True, description="Escape the text of the document for HTML.")


class GroupBy(BaseModel):
    field: str = Field(min_length=1)
    max_per_group: int = Field(1, ge=1, le=100)
    limit: int = Field(25, ge=1, le=500, description="Groups; replaces final_top_k.")
    output_mode: Literal["first", "all", "flatten"] = "all"
    exclude_null: bool = Field(False, description="Leave out documents without the field.")


class Params(CacheParams):
    searches: list[Search] = Field([], max_length=10)
    final_top_k: int = Field(25, ge=1, le=5000, description="Documents kept after fusion.")
    fusion: Literal["rrf", "dbsf", "weighted", "max", "learned"] = "rrf"
    learning_config: dict[str, Any] | None = Field(None, description="Read by the retriever that learns, not here.")
    rrf_k: int = Field(60, ge=1, le=1000)
    normalization: Literal["minmax"] | None = Field(None, description="dbsf: scale by min–max instead of μ±3σ.")
    collection_identifiers: list[str] | None = None
    filters: FilterParam = Field(None, description="What every search must match, as pre_filters beside parameters.")
    facets: list[Facet] = Field([], max_length=50)
    group_by: GroupBy | None = None
    highlight: Highlight | None = None
    query_preprocessing: Preprocessing | None = Field(None, description="Of every search that has none of its own.")
    natural_language: str | None = Field(
        None, max_length=2000, description="A condition in words; a language model makes a filter of it."
    )
    hard_timeout_ms: int = Field(5000, ge=1, description="Time after which the stage gives up.")
    interactive: StrictBool = Field(False, description="Do not try again after a timeout.")
    degrade_retry: StrictBool = True
    auto_preprocess: bool = Field(
        True,
        description="Films, recordings and PDFs (input_mode content) are looked for piece by piece where the query "
        "says nothing about it. False: as a whole.",
    )

    @property
    def chooses_first(self) -> bool:
        """Documents are read when they were chosen: of several searches, most of what is found is dropped."""
        if len(self.searches) < 2 or self.group_by is not None:
            return False
        said = [self.query_preprocessing, *(search.query_preprocessing for search in self.searches)]
        return all(how is None or how.dedup_field is None for how in said)

    def cuts(self, search: Search) -> bool:
        """Whether a query may be searched for piece by piece: it is asked for, or it is a file that may be long."""
        if search.query_preprocessing is not None or self.query_preprocessing is not None:
            return True
        return self.auto_preprocess and search.query.input_mode == "content" and may_be_long(search.query.value)

    @model_validator(mode="after")
    def _patient(self) -> Params:
        """A language model takes longer than a search, and so do the pieces of a file."""
        cut = any(search.query.input_mode == "content" and self.cuts(search) for search in self.searches)
        if (self.natural_language or cut) and "hard_timeout_ms" not in self.model_fields_set:
            self.hard_timeout_ms = HARD_TIMEOUT_MS
        return self

    @field_validator("facets", mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        """A plain string is a facet key."""
        return (
            [{"key": entry} if isinstance(entry, str) else entry for entry in value]
            if isinstance(value, list)
            else value
        )
