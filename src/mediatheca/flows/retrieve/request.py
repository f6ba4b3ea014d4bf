"""The body of an execution, in every spelling of the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from mediatheca.flows.retrieve.consistency import Consistency
from mediatheca.flows.retrieve.levels import Level
from mediatheca.kernel.errors import FieldError, ValidationError, plain_message
from mediatheca.kernel.filters import Filter, all_of, parse_filter
from mediatheca.kernel.inputs import InputSchema
from mediatheca.kernel.ordering import SortKey, parse_sort

MAX_PAGE = 500
MAX_CHUNKS = 500
MAX_UNKNOWN = 50
SETTINGS = ("limit", "offset", "max_chunks")
_PAGING = (
    *("method", "limit", "page_size", "offset", "page", "page_number", "cursor", "after"),
    *("scroll_id", "scroll_ttl", "include_total"),
)
_ADHOC = ("collection_ids", "collection_names", "stages", "input_schema", "budget_limits")
"""Keys of an ad-hoc body that are read elsewhere."""


class GroupBy(BaseModel):
    """Grouping of the final result."""

    field: str = Field(min_length=1)
    max_features: int = Field(10, ge=1, le=100, validation_alias=AliasChoices("max_features", "max_per_group"))
    sort: Any = None


class ExecuteRequest(BaseModel):
    """What a caller asks of one execution. Unknown keys are kept in `model_extra` and reported."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    inputs: dict[str, Any] = Field(default_factory=dict)
    filters: Any = Field(None, validation_alias=AliasChoices("filters", "filter", "pre_filters"))
    pagination: dict[str, Any] | None = None
    limit: int | None = Field(None, ge=1, le=MAX_PAGE)
    page_size: int | None = Field(None, ge=1, le=MAX_PAGE)
    offset: int | None = Field(None, ge=0, le=10_000)
    page: int | None = Field(None, ge=1, validation_alias=AliasChoices("page", "page_number"))
    cursor: str | None = Field(None, validation_alias=AliasChoices("cursor", "next_cursor"))
    settings: dict[str, Any] | None = None
    sort: Any = Field(None, validation_alias=AliasChoices("sort", "sorts"))
    select: list[str] | None = Field(None, validation_alias=AliasChoices("select", "fields"))
    group_by: GroupBy | None = None
    return_urls: bool = Field(False, validation_alias=AliasChoices("return_urls", "return_presigned_urls"))
    return_vectors: bool = False
    explain: bool = False
    explain_document: str | None = Field(
        None, max_length=512, description="Say why this document is, or is not, found."
    )
    collection_identifiers: list[str] | None = Field(
        None, validation_alias=AliasChoices("collection_identifiers", "collection_ids", "collection_names")
    )
    target_collection_id: str | None = None
    stream: bool = False
    stream_documents: Literal["none", "ids", "full"] = Field(
        "ids", description="What a stream tells of the documents after every stage."
    )
    expand: list[Annotated[str, Field(min_length=1, max_length=512)]] | None = Field(
        None, max_length=50, description="Fields that hold ids; what they refer to is put under _expanded."
    )
    skip_cache: bool = False
    write_token: str | None = None
    consistency: Consistency | None = None
    optimize: Level | None = Field(
        None, description="How far the stages may be rewritten; None: as the retriever says."
    )
    session_id: str | None = None
    user_id: str | None = None
    exclude_seen: Literal["session", "user"] | None = Field(
        None, description="Leave out documents that this session, or this user, was shown before."
    )
    retriever_id: str | None = None
    version: int | None = None
    include_legacy_results: bool = True

    @classmethod
    def parse(cls, body: Mapping[str, Any] | None, query: Mapping[str, Any] | None = None) -> ExecuteRequest:
        """The request of a body, and of query parameters for what the body does not say. Nulls are not given.

        Raises:
            ValidationError: every offending field.
        """
        merged = {
            key: value for source in (query or {}, body or {}) for key, value in source.items() if value is not None
        }
        try:
            request = cls.model_validate(merged)
        except pydantic.ValidationError as error:
            raise ValidationError.of(field_errors(error, ())) from error
        if request.target_collection_id is not None and request.stream:
            raise ValidationError.at("target_collection_id", "cannot be combined with stream", "conflict")
        return request

    def warnings(self) -> list[str]:
        """What was given and has no effect."""
        unknown = [key for key in (self.model_extra or {}) if key not in _ADHOC]
        unknown += [f"settings.{key}" for key in self.settings or {} if key not in SETTINGS]
        unknown += [f"pagination.{key}" for key in self.pagination or {} if key not in _PAGING]
        return [f"the request key '{key[:100]}' is not known and was ignored" for key in unknown[:MAX_UNKNOWN]]

    @property
    def max_chunks(self) -> int | None:
        """At most so many pieces of a long query.

        Raises:
            ValidationError: it is no number from 1 to 500.
        """
        given = (self.settings or {}).get("max_chunks")
        if given is None:
            return None
        if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= MAX_CHUNKS:
            message = f"must be an integer from 1 to {MAX_CHUNKS}, got {str(given)[:50]!r}"
            raise ValidationError.at(("settings", "max_chunks"), message, "int_range")
        return given

    @property
    def unseen(self) -> list[Any] | None:
        """For whom documents that were seen are left out; None when nobody asked for it."""
        return [self.exclude_seen, self.session_id, self.user_id] if self.exclude_seen else None

    def repeatable(self) -> dict[str, Any]:
        """What decides the result beside the inputs: enough to ask the same again."""
        kept = {
            "filters",
            "pagination",
            "limit",
            "page_size",
            "offset",
            "page",
            "sort",
            "select",
            "group_by",
            "user_id",
            "session_id",
            "optimize",
            "collection_identifiers",
        }
        asked = self.model_dump(mode="json", include=kept, exclude_none=True)
        return asked if self.max_chunks is None else {**asked, "settings": {"max_chunks": self.max_chunks}}

    def sort_keys(self) -> list[SortKey]:
        return parse_sort(self.sort)

    def filter(self, schema: InputSchema, consumed: frozenset[str]) -> Filter | None:
        """The caller's filters. Some clients send them inside `inputs`; there they count unless it is a real input."""
        tree = parse_filter(self.filters, path="filters") if self.filters else None
        inner = self.inputs.get("filters")
        if isinstance(inner, (dict, list)) and "filters" not in schema.fields and "filters" not in consumed:
            tree = all_of(tree, parse_filter(inner, path="inputs.filters"))
        return tree


def field_errors(error: pydantic.ValidationError, prefix: tuple[str | int, ...]) -> list[FieldError]:
    """Pydantic's errors as ours, with what was given."""
    found = []
    for item in error.errors(include_url=False, include_context=False):
        given = repr(item.get("input"))
        shown = "" if item["type"] == "missing" else f" (got {given if len(given) <= 60 else given[:59] + '…'})"
        found.append(FieldError((*prefix, *item["loc"]), f"{plain_message(item)}{shown}", item["type"]))
    return found
