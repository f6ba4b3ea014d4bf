"""Golden data sets and evaluations of retrievers on them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from mediatheca.api.deps import Delete, OrgReader, Raw, Read, Write, Writer, answer, deleted, json_body
from mediatheca.flows.bodies import checked, key_notes
from mediatheca.flows.evaluation import (
    DatasetSpec,
    EvaluationConfig,
    create_dataset,
    dataset_view,
    evaluation_view,
    generate_dataset,
    start_evaluation,
)
from mediatheca.flows.evaluation.annotated import annotated_dataset
from mediatheca.flows.evaluation.calibrating import calibration_view, find_calibration, fit_calibration
from mediatheca.flows.evaluation.datasets import KIND as DATASET
from mediatheca.flows.evaluation.datasets import GenerateSpec
from mediatheca.flows.evaluation.evaluations import KIND, TASK, delete_evaluation, get_evaluation
from mediatheca.flows.replay import MATCH_ON
from mediatheca.flows.retrieve.keys import unknown_keys
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import ConflictError, NotFoundError, ValidationError
from mediatheca.kernel.filters import all_of, parse_filter
from mediatheca.kernel.ids import check_name
from mediatheca.kernel.metrics import MAX_GRADE, METRICS, SET_METRICS, means, score_sets
from mediatheca.stores.db.listing import ListQuery, Page
from mediatheca.stores.db.tx import ReadTx, Record, Tx, record

router = APIRouter(tags=["evaluations"])
_DATASETS = "/retrievers/evaluations/datasets"
_EVALUATIONS = "/retrievers/{identifier}/evaluations"
PageNumber = Annotated[int, Query(ge=1, le=10_000)]
PageSize = Annotated[int, Query(ge=1, le=100)]
MAX_SCORED = 1_000
MAX_TERMS = 10_000


def _numbered(page: Page, number: int, name: str, shown: list[dict[str, Any]]) -> Response:
    total = page.total or 0
    return answer({name: shown, "results": shown, "total": total, "page": number, "page_size": page.limit})


# ---- data sets


class DatasetPatch(BaseModel):
    model_config = ConfigDict(extra="ignore")

    dataset_name: str | None = None
    description: str | None = None
    queries: list[Any] | None = None
    metadata: dict[str, Any] | None = None


def _dataset(tx: ReadTx, ident: str) -> Record:
    found = tx.find(DATASET, ident)
    if found is None:
        raise NotFoundError("evaluation data set", ident)
    return found


@router.post(_DATASETS, operation_id="create_dataset", response_model=None)
def create(spec: DatasetSpec, tx: Write) -> Response:
    """A data set: queries with the documents that answer them."""
    return answer(dataset_view(create_dataset(tx, spec), tx.scope.organization_id))


@router.get(_DATASETS, operation_id="list_datasets", response_model=None)
def list_datasets(tx: Read, page: PageNumber = 1, page_size: PageSize = 20) -> Response:
    found = tx.page("resources", {"kind": DATASET}, ListQuery(page_size, (page - 1) * page_size))
    shown = [dataset_view(record(row), tx.scope.organization_id) for row in found.rows]
    return _numbered(found, page, "datasets", shown)


@router.get(f"{_DATASETS}/{{dataset_identifier}}", operation_id="get_dataset", response_model=None)
def get_dataset(dataset_identifier: str, tx: Read) -> Response:
    return answer(dataset_view(_dataset(tx, dataset_identifier), tx.scope.organization_id))


@router.patch(f"{_DATASETS}/{{dataset_identifier}}", operation_id="patch_dataset", response_model=None)
def patch_dataset(dataset_identifier: str, patch: DatasetPatch, tx: Write) -> Response:
    """Change a data set. Evaluations that are over keep their figures."""
    current = _dataset(tx, dataset_identifier)
    sent = patch.model_dump(mode="json", exclude_unset=True)
    name = sent.pop("dataset_name", None) or current.name
    spec = checked(DatasetSpec, {**current.body, **sent, "dataset_name": name})
    body = spec.model_dump(mode="json", exclude={"dataset_name"})
    changed = tx.change(current, body, check_name("dataset_name", name, "ds"))
    tx.emit("evaluation_dataset.updated", changed.id, {"version": changed.version})
    return answer(dataset_view(changed, tx.scope.organization_id))


@router.delete(f"{_DATASETS}/{{dataset_identifier}}", operation_id="delete_dataset", response_model=None)
def delete_dataset(dataset_identifier: str, tx: Delete) -> Response:
    """Delete a data set that no evaluation is waiting for."""
    current = _dataset(tx, dataset_identifier)
    keep = parse_filter({"field": "dataset_id", "operator": "eq", "value": current.id})
    for status in ("pending", "in_progress"):
        waiting = all_of(keep, parse_filter({"field": "status", "operator": "eq", "value": status}))
        if tx.page("resources", {"kind": KIND}, ListQuery(1, filter=waiting)).rows:
            raise ConflictError(f"data set '{current.name}' is being evaluated; wait, or cancel the task")
    tx.remove(current)
    tx.emit("evaluation_dataset.deleted", current.id, {"name": current.name})
    return deleted("evaluation data set", current.id)


# ---- evaluations


class StartSpec(BaseModel):
    """`dataset_name` takes a name or an id."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    dataset_name: str = Field(validation_alias=AliasChoices("dataset_name", "dataset_id"))
    evaluation_config: EvaluationConfig | None = Field(
        None, validation_alias=AliasChoices("evaluation_config", "config")
    )
    baseline_evaluation_id: str | None = None


@router.post(_EVALUATIONS, operation_id="start_evaluation", response_model=None)
def start(identifier: str, raw: Raw, tx: Write, caller: Writer) -> Response:
    """Measure a retriever on a data set, as a job: poll the evaluation, or its task."""
    sent = json_body(raw)
    spec = checked(StartSpec, sent)
    notes = key_notes(unknown_keys(StartSpec, sent, ()), strict=caller.services.settings.strict)
    retriever = tx.get("retriever", identifier)
    config = spec.evaluation_config or EvaluationConfig()
    if spec.baseline_evaluation_id:
        config = config.model_copy(update={"baseline_evaluation_id": spec.baseline_evaluation_id})
    made, task = start_evaluation(tx, retriever, spec.dataset_name, config)
    created = wire_time(made.created_at) if made.created_at else ""
    started = {"task_id": task, "evaluation_id": made.id, "task_type": TASK, "status": "pending"}
    return answer({**started, "created_at": created, **({"warnings": notes} if notes else {})}, 202)


@router.get(_EVALUATIONS, operation_id="list_evaluations", response_model=None)
def list_evaluations(
    identifier: str, tx: Read, page: PageNumber = 1, page_size: PageSize = 20,
    status: Literal["pending", "in_progress", "completed", "failed"] | None = None, dataset_name: str | None = None,
) -> Response:  # fmt: skip
    """Newest first, without the outcomes of single queries."""
    retriever = tx.get("retriever", identifier)
    tree = None
    for name, value in (("status", status), ("dataset_name", dataset_name)):
        if value:
            tree = all_of(tree, parse_filter({"field": name, "operator": "eq", "value": value}, case_sensitive=True))
    query = ListQuery(page_size, (page - 1) * page_size, filter=tree)
    found = tx.page("resources", {"kind": KIND, "parent": retriever.id}, query)
    shown = [evaluation_view(record(row), tx.scope.organization_id, outcomes=False) for row in found.rows]
    return _numbered(found, page, "evaluations", shown)


@router.post(f"{_EVALUATIONS}/generate-from-interactions", operation_id="generate_dataset", response_model=None)
def generate(identifier: str, raw: Raw, tx: Write) -> Response:
    """A data set of what people liked among the results of this retriever, or (`source`) of annotations on them."""
    return _generated(tx, identifier, json_body(raw))


@router.post(f"{_EVALUATIONS}/generate-from-annotations", operation_id="generate_annotated", response_model=None)
def generate_annotated(identifier: str, raw: Raw, tx: Write) -> Response:
    """A data set of the verdicts that people or models gave on results of this retriever."""
    return _generated(tx, identifier, {**json_body(raw), "source": "annotations"})


def _generated(tx: Tx, identifier: str, body: dict[str, Any]) -> Response:
    retriever = tx.get("retriever", identifier)
    spec = checked(GenerateSpec, {name: value for name, value in body.items() if value is not None})
    make = annotated_dataset if spec.source == "annotations" else generate_dataset
    return answer(dataset_view(make(tx, retriever, spec), tx.scope.organization_id))


class CalibrationSpec(BaseModel):
    """How the map from scores to relevance is fitted."""

    model_config = ConfigDict(extra="ignore")

    method: Literal["auto", "isotonic", "platt"] = "auto"
    relevant_from: int = Field(1, ge=1, le=MAX_GRADE, description="The lowest grade that counts as relevant.")


@router.post(f"{_EVALUATIONS}/{{evaluation_id}}/calibrate", operation_id="calibrate_retriever", response_model=None)
def calibrate(identifier: str, evaluation_id: str, tx: Write, spec: CalibrationSpec | None = None) -> Response:
    """Fit what a score says about relevance; answers of this version carry `relevance` and `confidence` then."""
    retriever = tx.get("retriever", identifier)
    given = spec or CalibrationSpec()
    evaluation = get_evaluation(tx, retriever.id, evaluation_id)
    return answer(calibration_view(fit_calibration(tx, retriever, evaluation, given.method, given.relevant_from)))


@router.get("/retrievers/{identifier}/calibration", operation_id="get_calibration", response_model=None)
def get_calibration(identifier: str, tx: Read) -> Response:
    """The map that is fitted, and how good it is."""
    return answer(calibration_view(find_calibration(tx, tx.get("retriever", identifier))))


@router.delete("/retrievers/{identifier}/calibration", operation_id="delete_calibration", response_model=None)
def delete_calibration(identifier: str, tx: Delete) -> Response:
    """Answers carry no `relevance` any more."""
    retriever = tx.get("retriever", identifier)
    tx.remove(find_calibration(tx, retriever))
    tx.emit("retriever.calibration_deleted", retriever.id)
    return deleted("calibration", retriever.id)


@router.get(f"{_EVALUATIONS}/{{evaluation_id}}", operation_id="get_evaluation", response_model=None)
def get(identifier: str, evaluation_id: str, tx: Read) -> Response:
    """Status and figures; per query what happened to it."""
    retriever = tx.get("retriever", identifier)
    return answer(evaluation_view(get_evaluation(tx, retriever.id, evaluation_id), tx.scope.organization_id))


@router.delete(f"{_EVALUATIONS}/{{evaluation_id}}", operation_id="delete_evaluation", response_model=None)
def delete(identifier: str, evaluation_id: str, tx: Delete) -> Response:
    """Delete an evaluation that is over."""
    retriever = tx.get("retriever", identifier)
    delete_evaluation(tx, get_evaluation(tx, retriever.id, evaluation_id))
    return deleted("evaluation", evaluation_id)


# ---- without a retriever


@router.get("/evaluations", operation_id="discover_evaluations", response_model=None)
def discover(caller: OrgReader) -> Response:
    """What can be measured, and where."""
    defaults = EvaluationConfig()
    return answer(
        {
            "metrics": list(METRICS),
            "score_metrics": list(SET_METRICS),
            "match_on": list(MATCH_ON),
            "defaults": {"k_values": defaults.k_values, "metrics": defaults.metrics},
            "routes": {
                "datasets": "/v1/retrievers/evaluations/datasets",
                "evaluate": "/v1/retrievers/{retriever_id}/evaluations",
                "generate": "/v1/retrievers/{retriever_id}/evaluations/generate-from-interactions",
                "score": "/v1/evaluations/score",
                "compare": "/v1/retrievers/compare",
                "benchmarks": "/v1/retrievers/benchmarks",
            },
        }
    )


class ScoreItem(BaseModel):
    model_config = ConfigDict(extra="ignore")

    predicted: list[str] = Field(default_factory=list, max_length=MAX_TERMS)
    ground_truth: list[str] = Field(default_factory=list, max_length=MAX_TERMS)


class ScoreSpec(BaseModel):
    """One pair, or a list of pairs in `items`."""

    model_config = ConfigDict(extra="ignore")

    predicted: list[str] | None = Field(None, max_length=MAX_TERMS)
    ground_truth: list[str] | None = Field(None, max_length=MAX_TERMS)
    items: list[ScoreItem] | None = Field(None, min_length=1, max_length=MAX_SCORED)
    metrics: list[Literal["precision", "recall", "f1", "f2"]] | None = Field(None, min_length=1)
    k: int | None = Field(None, ge=1)


@router.post("/evaluations/score", operation_id="score_predictions", response_model=None)
def score(spec: ScoreSpec, caller: OrgReader) -> Response:
    """Precision, recall, F1 and F2 of predictions taken as sets; nothing is stored."""
    pair = spec.predicted is not None and spec.ground_truth is not None
    if pair == (spec.items is not None):
        message = "give either predicted with ground_truth, or items"
        raise ValidationError.at(("body", "items"), message, "missing")
    items = spec.items or [ScoreItem(predicted=spec.predicted or [], ground_truth=spec.ground_truth or [])]
    names = list(dict.fromkeys(spec.metrics or SET_METRICS))
    values = [score_sets(dict.fromkeys(item.predicted[: spec.k]), item.ground_truth, names) for item in items]
    return answer({"metrics": names, "k": spec.k, "count": len(items), "per_item": values, "aggregate": means(values)})
