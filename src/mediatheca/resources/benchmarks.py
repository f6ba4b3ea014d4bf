"""Benchmarks: retrievers replay recorded sessions; and two retrievers side by side on the same questions."""

from __future__ import annotations

from time import perf_counter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from mediatheca.api.deps import Caller, Delete, Read, Reader, Write, answer
from mediatheca.flows.evaluation.benchmarks import (
    KIND,
    BenchmarkSpec,
    benchmark_view,
    create_benchmark,
    remove_benchmark,
)
from mediatheca.flows.evaluation.datasets import require_dataset
from mediatheca.flows.replay import MAX_DEPTH, Ran, compare_runs, mean_of, ran_of, replay_context, replay_request
from mediatheca.flows.retrievers import Compiled
from mediatheca.kernel.errors import MediathecaError, NotFoundError, ValidationError
from mediatheca.kernel.filters import all_of, parse_filter
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.tx import ReadTx, Record, record

router = APIRouter(tags=["benchmarks"])
_PATH = "/retrievers/benchmarks"
MAX_QUERIES = 50


def _get(tx: ReadTx, ident: str) -> Record:
    found = tx.find(KIND, ident)
    if found is None:
        raise NotFoundError(KIND, ident)
    return found


@router.post(_PATH, operation_id="create_benchmark", response_model=None)
def create(spec: BenchmarkSpec, tx: Write) -> Response:
    """Replay sessions with several retrievers, as a job: poll the benchmark."""
    return answer(benchmark_view(create_benchmark(tx, spec)))


@router.get(_PATH, operation_id="list_benchmarks", response_model=None)
def list_(
    tx: Read, retriever_id: str | None = None, status: str | None = None,
    page: Annotated[int, Query(ge=1, le=10_000)] = 1, page_size: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:  # fmt: skip
    """Newest first; `retriever_id`: those it takes part in."""
    tree = None
    if status:
        tree = parse_filter({"field": "status", "operator": "eq", "value": status}, case_sensitive=True)
    if retriever_id:
        places = ("baseline_retriever_id", "candidate_retriever_ids")
        part = {"OR": [{"field": name, "operator": "eq", "value": retriever_id} for name in places]}
        tree = all_of(tree, parse_filter(part, case_sensitive=True))
    found = tx.page("resources", {"kind": KIND}, ListQuery(page_size, (page - 1) * page_size, filter=tree))
    shown = [benchmark_view(record(row)) for row in found.rows]
    total = found.total or 0
    return answer({"benchmarks": shown, "results": shown, "total": total, "page": page, "page_size": page_size})


@router.get(f"{_PATH}/{{benchmark_id}}", operation_id="get_benchmark", response_model=None)
def get(benchmark_id: str, tx: Read) -> Response:
    return answer(benchmark_view(_get(tx, benchmark_id)))


@router.delete(f"{_PATH}/{{benchmark_id}}", operation_id="delete_benchmark", response_model=None)
def delete(benchmark_id: str, tx: Delete) -> Response:
    """Delete a benchmark that is over."""
    remove_benchmark(tx, _get(tx, benchmark_id))
    return Response(status_code=204)


# ---- side by side


class CompareSpec(BaseModel):
    """Two retrievers, or versions of one, and the questions: `inputs`, a list of them in `queries`, or a data set."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    retriever_a: str = Field(validation_alias=AliasChoices("retriever_a", "baseline_retriever_id"))
    retriever_b: str = Field(validation_alias=AliasChoices("retriever_b", "candidate_retriever_id"))
    version_a: int | None = Field(None, ge=1)
    version_b: int | None = Field(None, ge=1)
    inputs: dict[str, Any] | None = None
    queries: list[dict[str, Any]] | None = Field(None, min_length=1, max_length=MAX_QUERIES)
    dataset_name: str | None = None
    k: int = Field(10, ge=1, le=MAX_DEPTH)
    p: float = Field(0.9, gt=0, lt=1, description="Persistence of rank-biased overlap: how far down somebody looks.")
    match_on: Literal["document_id", "root_object_id", "source_object_id"] = "document_id"


@router.post("/retrievers/compare", operation_id="compare_retrievers", response_model=None)
async def compare(spec: CompareSpec, caller: Reader) -> Response:
    """Both answers to each question: how alike they are, what moved, and which was faster. Nothing is recorded."""
    import asyncio

    questions, more = await asyncio.to_thread(_questions, spec, caller)
    first = await caller.services.plans.find(caller.scope, spec.retriever_a, spec.version_a)
    second = await caller.services.plans.find(caller.scope, spec.retriever_b, spec.version_b)
    compared = []
    for number, inputs in enumerate(questions):
        sides = (first, second) if number % 2 == 0 else (second, first)  # whoever comes second finds warm caches
        ran = {id(side): await _run(caller, side, inputs, spec) for side in sides}
        if first is second:
            ran[id(second)] = await _run(caller, second, inputs, spec)
        compared.append(compare_runs(inputs, ran[id(first)], ran[id(second)], spec.k, spec.p))
    warnings = [f"the data set has {more} more queries; benchmarks take them all"] if more > 0 else []
    return answer(
        {
            "retriever_a": _named(first),
            "retriever_b": _named(second),
            "k": spec.k,
            "p": spec.p,
            "summary": _summary(compared),
            "results": compared,
            "warnings": warnings,
        }
    )


def _questions(spec: CompareSpec, caller: Caller) -> tuple[list[dict[str, Any]], int]:
    """The inputs to run, and how many more there would be."""
    given = [spec.inputs is not None, spec.queries is not None, spec.dataset_name is not None]
    if sum(given) != 1:
        raise ValidationError.at(("body", "inputs"), "give one of inputs, queries and dataset_name", "missing")
    if spec.dataset_name is not None:
        with caller.services.db.read(caller.scope) as tx:
            queries = require_dataset(tx, spec.dataset_name).body["queries"]
        inputs = [query["query_input"] for query in queries if query["query_input"]]
        return inputs[:MAX_QUERIES], len(inputs) - MAX_QUERIES
    if spec.inputs is not None:
        return [spec.inputs], 0
    listed = [query["inputs"] if isinstance(query.get("inputs"), dict) else query for query in spec.queries or ()]
    return listed, 0


async def _run(caller: Caller, side: Compiled, inputs: dict[str, Any], spec: CompareSpec) -> Ran:
    began = perf_counter()
    try:
        request = replay_request(inputs, spec.k)
        context = replay_context(caller.services.around, caller.scope, side)
        result = await caller.services.retrieve.execute(side.plan, request, context)
    except MediathecaError as error:
        return Ran(error=error.message)
    return ran_of(result, (perf_counter() - began) * 1000, spec.match_on)


def _named(side: Compiled) -> dict[str, Any]:
    return {"retriever_id": side.retriever_id, "retriever_name": side.name, "version": side.version}


def _summary(compared: list[dict[str, Any]]) -> dict[str, Any]:
    answered = [entry for entry in compared if entry["a"]["error"] is None and entry["b"]["error"] is None]
    return {
        "queries": len(compared),
        "answered_by_both": len(answered),
        "mean_rank_biased_overlap": mean_of([entry["rank_biased_overlap"] for entry in answered]),
        "mean_overlap_at_k": mean_of([entry["overlap_at_k"] for entry in answered]),
        "mean_latency_delta_ms": mean_of([entry["latency_delta_ms"] for entry in answered]),
        "moved": sum(len(entry["moved"]) for entry in answered),
        "only_in_a": sum(len(entry["only_in_a"]) for entry in answered),
        "only_in_b": sum(len(entry["only_in_b"]) for entry in answered),
    }
