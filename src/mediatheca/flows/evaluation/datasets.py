"""Golden data sets: queries with the documents that answer them, written by hand or generated from interactions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from mediatheca.flows.learning.config import check_learning, learners
from mediatheca.flows.learning.records import interactions_of
from mediatheca.kernel import clock
from mediatheca.kernel.bandit import REWARDS
from mediatheca.kernel.errors import BadRequestError, ValidationError
from mediatheca.kernel.ids import check_name
from mediatheca.kernel.metrics import MAX_GRADE
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx

KIND = "evaluation_dataset"
MAX_QUERIES = 10_000
MAX_DOCUMENTS = 10_000
POSITIVE = ("click", "purchase", "positive_feedback", "bookmark", "share")


class QuerySpec(BaseModel):
    """A query and its judgments. A relevant document without a grade has grade 1; grade 0: judged, and not relevant."""

    model_config = ConfigDict(extra="ignore")

    query_id: str = Field(min_length=1, max_length=255)
    query_input: dict[str, Any]
    relevant_documents: list[str] = Field(max_length=MAX_DOCUMENTS)
    relevance_scores: dict[str, int] | None = Field(None, max_length=MAX_DOCUMENTS)

    @field_validator("relevance_scores")
    @classmethod
    def _graded(cls, value: dict[str, int] | None, info: ValidationInfo) -> dict[str, int] | None:
        for ident, grade in (value or {}).items():
            if not 0 <= grade <= MAX_GRADE:
                raise ValueError(f"the grade of '{ident[:100]}' must be 0 to {MAX_GRADE}, got {grade}")
            if grade == 0 and ident in info.data.get("relevant_documents", ()):
                raise ValueError(f"'{ident[:100]}' is among relevant_documents and has grade 0: it cannot be both")
        return value


class DatasetSpec(BaseModel):
    """The body of create."""

    model_config = ConfigDict(extra="ignore")

    dataset_name: str
    description: str | None = Field(None, max_length=5_000)
    queries: list[QuerySpec] = Field(min_length=1, max_length=MAX_QUERIES)
    metadata: dict[str, Any] | None = None

    @field_validator("queries")
    @classmethod
    def _distinct(cls, value: list[QuerySpec]) -> list[QuerySpec]:
        twice = [ident for ident, count in Counter(query.query_id for query in value).items() if count > 1]
        if twice:
            raise ValueError(f"query_id must be unique; several have '{twice[0][:100]}'")
        return value


def grades_of(query: Mapping[str, Any]) -> dict[str, int]:
    """Judgments of a stored query: id → grade."""
    grades: dict[str, int] = dict.fromkeys(query["relevant_documents"], 1)
    return grades | (query.get("relevance_scores") or {})


def create_dataset(tx: Tx, spec: DatasetSpec, source: Mapping[str, Any] | None = None) -> Record:
    """Store a data set.

    Raises:
        ConflictError: the name is taken.
    """
    name = check_name("dataset_name", spec.dataset_name, "ds")
    body = spec.model_dump(mode="json", exclude={"dataset_name"})
    if source is not None:
        body["metadata"] = {**(spec.metadata or {}), **source}
    made = tx.put(KIND, "ds", name, body)
    tx.emit("evaluation_dataset.created", made.id, {"name": name, "queries": len(spec.queries)})
    return made


def dataset_view(record: Record, organization_id: str) -> dict[str, Any]:
    queries = record.body["queries"]
    return {
        "dataset_id": record.id,
        "dataset_name": record.name,
        "description": record.body.get("description"),
        "queries": queries,
        "query_count": len(queries),
        "metadata": record.body.get("metadata"),
        "namespace_id": record.namespace_id,
        "internal_id": organization_id,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }


class GenerateSpec(BaseModel):
    """How interactions become judgments. Keys of other releases are ignored."""

    model_config = ConfigDict(extra="ignore")

    dataset_name: str | None = None
    min_interactions: int = Field(5, ge=1, le=100_000)
    lookback_days: int = Field(30, ge=1, le=365)
    positive_interaction_types: list[str] = Field(list(POSITIVE), min_length=1, max_length=50)
    source: Literal["interactions", "annotations"] = "interactions"
    min_annotations: int = Field(1, ge=1, le=10_000, description="Verdicts on one document for one query.")
    min_confidence: float = Field(0.0, ge=0, le=1, description="Verdicts that say they are less sure are left out.")
    label_grades: dict[str, int] = Field(
        {}, max_length=200, description="Label → grade; the others mean what they say."
    )

    @field_validator("label_grades")
    @classmethod
    def _graded(cls, value: dict[str, int]) -> dict[str, int]:
        for label, grade in value.items():
            if not 0 <= grade <= MAX_GRADE:
                raise ValueError(f"the grade of '{label[:100]}' must be 0 to {MAX_GRADE}, got {grade}")
        return {label.strip().lower(): grade for label, grade in value.items()}


def generate_dataset(tx: Tx, retriever: Record, spec: GenerateSpec) -> Record:
    """A data set of the queries whose results people liked at least `min_interactions` times.

    A document's grade is what its positive interactions are worth, scaled to 1–5 within its query.

    Raises:
        BadRequestError: too little was recorded; the message says how much there is.
    """
    since = clock.now() - timedelta(days=spec.lookback_days)
    wanted = {kind.lower() for kind in spec.positive_interaction_types}
    liked = [
        row
        for row in interactions_of(tx, retriever.id, since)
        if wanted.intersection(row["body"]["interaction_type"]) and row["body"].get("query_snapshot")
    ]
    groups: dict[bytes, list[Row]] = {}
    for row in liked:
        groups.setdefault(orjson.dumps(row["body"]["query_snapshot"], option=orjson.OPT_SORT_KEYS), []).append(row)
    queries = [_query(n, rows, wanted) for n, rows in enumerate(_enough(groups, spec.min_interactions), start=1)]
    if not queries:
        message = (
            f"no query of retriever '{retriever.name}' has {spec.min_interactions} positive interactions in the last "
            f"{spec.lookback_days} days ({len(liked)} in all, over {len(groups)} queries); lower min_interactions, or "
            "record interactions with execution_id or query_snapshot"
        )
        raise BadRequestError(message)
    return store_generated(tx, retriever, spec, queries)


def store_generated(
    tx: Tx, retriever: Record, spec: GenerateSpec, queries: list[QuerySpec], told: Mapping[str, Any] | None = None
) -> Record:
    """`told`: more that the data set's metadata says about where it comes from."""
    name = spec.dataset_name or f"{retriever.name[:60]} {clock.now():%Y-%m-%d %H.%M.%S}"
    source = {"generated_from": spec.source, "retriever_id": retriever.id, **spec.model_dump(mode="json")}
    return create_dataset(tx, DatasetSpec(dataset_name=name, queries=queries), {**source, **(told or {})})


def _enough(groups: Mapping[bytes, Sequence[Row]], least: int) -> list[Sequence[Row]]:
    """Those with enough interactions, the most frequent first."""
    found = [rows for rows in groups.values() if len(rows) >= least]
    return sorted(found, key=lambda rows: -len(rows))[:MAX_QUERIES]


def _query(number: int, rows: Sequence[Row], wanted: set[str]) -> QuerySpec:
    worth: Counter[str] = Counter()
    for row in rows:
        kinds = wanted.intersection(row["body"]["interaction_type"])
        worth[row["feature_id"]] += sum(max(0.1, REWARDS.get(kind, 1.0)) for kind in kinds)  # type: ignore[assignment]
    most = max(worth.values())
    ranked = worth.most_common(MAX_DOCUMENTS)
    grades = {ident: max(1, min(MAX_GRADE, round(MAX_GRADE * value / most))) for ident, value in ranked}
    inputs = rows[0]["body"]["query_snapshot"]
    return QuerySpec(
        query_id=f"q{number}", query_input=inputs, relevant_documents=list(grades), relevance_scores=grades
    )


def check_learning_config(tx: ReadTx, stages: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to store stages whose learning is not configured well.

    Raises:
        ValidationError: `learning_config` is missing or wrong, or its golden data set does not exist; with the path.
    """
    config = check_learning(stages)
    if config is not None and config.evaluation_dataset_id and tx.find(KIND, config.evaluation_dataset_id) is None:
        number = next(iter(learners(stages)))[0]
        place = ("stages", number, "config", "parameters", "learning_config", "evaluation_dataset_id")
        message = f"'{config.evaluation_dataset_id}' is no evaluation data set of this namespace; create it first"
        raise ValidationError.at(place, message, "unknown")


def require_dataset(tx: ReadTx, ident: str, field: str = "dataset_name") -> Record:
    """A data set by id or name.

    Raises:
        ValidationError: there is none here.
    """
    found = tx.find(KIND, ident)
    if found is None:
        message = f"'{ident}' is no evaluation data set of this namespace; create it first"
        raise ValidationError.at(("body", field), message, "unknown")
    return found
