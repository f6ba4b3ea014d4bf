"""Executions of clusters: figures, names, files, pictures, history."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator

from mediatheca.api.deps import Raw, Read, Reader, Write, Writer, answer, in_slow_thread, json_body
from mediatheca.api.lists import Listed, listed
from mediatheca.flows.enrichment.writer import PatchCounts
from mediatheca.flows.grouping import artifacts, export
from mediatheca.flows.grouping.fitting import Work
from mediatheca.flows.grouping.output import enrich
from mediatheca.flows.grouping.runs import KIND, OPEN, cancel, change_state, get_run, latest_run
from mediatheca.flows.grouping.views import counts_stale, metrics_of, run_view, status_of
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError, NotEnabledError, NotFoundError, ValidationError
from mediatheca.stores.db.tx import Cmp, ReadTx, Record, Row

router = APIRouter(tags=["cluster executions"])
_RUNS = "/clusters/{cluster_identifier}/executions"
MAX_LABEL = 200
MAX_LABELS = 1_000
EXPIRES_S = 3_600
MAX_HOURS = 720


def _view(tx: ReadTx, cluster: Record, row: Row, caller: Reader, vectors: bool) -> dict[str, Any]:
    centres = None
    if vectors and row["status"] == "completed":
        try:
            table = artifacts.read(caller.services.blobs, tx.scope, row["run_id"], "centroids")
        except NotFoundError:
            table = None
        if table is not None and "vector" in table.column_names:
            centres = dict(zip(table["cluster_id"].to_pylist(), table["vector"].to_pylist(), strict=True))
    return run_view(tx, cluster, row, stale=counts_stale(tx, row), vectors=centres)


@router.get(_RUNS, operation_id="get_cluster_execution", response_model=None)
@router.get(
    "/clusters/{cluster_identifier}/execution", operation_id="get_latest_cluster_execution", response_model=None
)
def latest(cluster_identifier: str, tx: Read, caller: Reader, include_vectors: bool = False) -> Response:
    """The newest completed execution; before there is one, the newest of all."""
    cluster = tx.get(KIND, cluster_identifier)
    row = latest_run(tx, cluster)
    if row is None:
        rows = tx.rows("cluster_runs", {"cluster_id": cluster.id}, order=("-run_id",), limit=1)
        if not rows:
            raise NotFoundError("cluster execution of", cluster.id)
        row = rows[0]
    return answer(_view(tx, cluster, row, caller, include_vectors))


@router.post(f"{_RUNS}/list", operation_id="list_cluster_executions", response_model=None)
def list_runs(cluster_identifier: str, query: Listed, tx: Read) -> Response:
    """Every execution, the newest first."""
    cluster = tx.get(KIND, cluster_identifier)
    page = tx.page("cluster_runs", {"cluster_id": cluster.id}, query)
    shown = [run_view(tx, cluster, row, whole=False) for row in page.rows]
    return answer(listed(page, shown, stats=_stats(tx, cluster)))


def _stats(tx: ReadTx, cluster: Record) -> dict[str, Any]:
    counted = tx.sums("cluster_runs", {"cluster_id": cluster.id}, (), by=("status",))
    return {
        "total_executions": sum(int(row["count"]) for row in counted),
        "executions_by_status": {row["status"]: int(row["count"]) for row in counted},
    }


@router.get(f"{_RUNS}/{{run_id}}", operation_id="get_cluster_execution_by_run", response_model=None)
def get(cluster_identifier: str, run_id: str, tx: Read, caller: Reader, include_vectors: bool = False) -> Response:
    cluster = tx.get(KIND, cluster_identifier)
    return answer(_view(tx, cluster, get_run(tx, cluster.id, run_id), caller, include_vectors))


@router.post(f"{_RUNS}/{{run_id}}/cancel", operation_id="cancel_execution_clusters_id_run", response_model=None)
def cancel_run(cluster_identifier: str, run_id: str, tx: Write) -> Response:
    """Stop an execution; one that has ended stays as it is."""
    cluster = tx.get(KIND, cluster_identifier)
    row = get_run(tx, cluster.id, run_id)
    if row["status"] in OPEN:
        cancel(tx, row)
        row = get_run(tx, cluster.id, run_id)
    status = status_of(tx, row)
    return answer(
        {
            "success": True,
            "cluster_id": cluster.id,
            "run_id": run_id,
            "task_id": row["task_id"],
            "status": status,
            "message": f"execution '{run_id}' is {status}",
        }
    )


class LabelsSpec(BaseModel):
    """New names by cluster id; an empty text takes a name back."""

    model_config = ConfigDict(extra="ignore")

    labels: dict[str, str] = Field(min_length=1, max_length=MAX_LABELS)

    @field_validator("labels")
    @classmethod
    def _short(cls, value: dict[str, str]) -> dict[str, str]:
        found = {ident: label.strip() for ident, label in value.items()}
        long = next((ident for ident, label in found.items() if len(label) > MAX_LABEL), None)
        if long is not None:
            raise ValueError(f"the label of '{long[:50]}' has more than {MAX_LABEL} characters")
        return found


@router.patch(f"{_RUNS}/{{run_id}}/labels", operation_id="patch_execution_labels", response_model=None)
def patch_labels(cluster_identifier: str, run_id: str, spec: LabelsSpec, tx: Write) -> Response:
    """Name clusters. A cluster keeps its name in later runs, for as long as it persists."""
    cluster = tx.get(KIND, cluster_identifier)
    row = get_run(tx, cluster.id, run_id)
    known = {entry["cluster_id"] for entry in row["body"].get("clusters") or []}
    unknown = sorted(set(spec.labels) - known)
    if unknown:
        message = f"is no cluster of this run; it has: {', '.join(sorted(known)[:20]) or 'none'}"
        raise ValidationError.at(("body", "labels", unknown[0][:100]), message, "unknown")
    given = {**((cluster.body.get("state") or {}).get("label_overrides") or {}), **spec.labels}
    kept = {ident: label for ident, label in given.items() if label}
    change_state(tx, cluster.id, lambda state: {"label_overrides": kept})
    tx.emit("cluster.updated", cluster.id, {"labels": spec.labels})
    shown = {ident: label for ident, label in kept.items() if ident in known}
    return answer({"cluster_id": cluster.id, "run_id": run_id, "label_overrides": shown})


class NameSpec(BaseModel):
    model_config = ConfigDict(extra="ignore")

    run_name: str = Field(max_length=120)


@router.patch(f"{_RUNS}/{{run_id}}/name", operation_id="patch_execution_run_name", response_model=None)
def patch_name(cluster_identifier: str, run_id: str, spec: NameSpec, tx: Write) -> Response:
    """Name an execution; an empty text takes the name back."""
    cluster = tx.get(KIND, cluster_identifier)
    row = get_run(tx, cluster.id, run_id)
    if row["status"] in OPEN:
        raise ConflictError(f"execution '{run_id}' is {row['status']}; name it when it has ended")
    name = spec.run_name.strip() or None
    tx.update("cluster_runs", {"run_id": run_id}, {"body": {**row["body"], "run_name": name}})
    return answer({"cluster_id": cluster.id, "run_id": run_id, "run_name": name})


@router.get(f"{_RUNS}/{{run_id}}/export", operation_id="export_cluster_execution_id_run", response_model=None)
async def export_run(
    cluster_identifier: str, run_id: str, caller: Reader,
    format: Literal["csv", "parquet"] = "parquet", cluster_label: Annotated[str | None, Query(max_length=300)] = None,
    artifact: Literal["centroids", "members", "coordinates"] = "members",
) -> Response:  # fmt: skip
    """A file of a run: CSV rows with labels, or the URL of the Parquet file that it wrote."""
    services, scope = caller.services, caller.scope
    if cluster_label is not None and format != "csv":
        message = "picks rows of a CSV; add format=csv, or leave it out"
        raise ValidationError.at(("query", "cluster_label"), message, "conflict")

    def work() -> Response:
        with services.db.read(scope) as tx:
            cluster = tx.get(KIND, cluster_identifier)
            row = _ended(get_run(tx, cluster.id, run_id))
        if not artifacts.exists(services.blobs, scope, row, artifact):
            raise NotFoundError(f"file '{artifact}' of execution", run_id)
        if format == "csv":
            text = export.as_csv(export.export_rows(services, scope, cluster, row, artifact, cluster_label))
            headers = {"Content-Disposition": f'attachment; filename="{run_id}.csv"'}
            return Response(text, 200, headers, "text/csv; charset=utf-8")
        key = artifacts.key(scope, run_id, artifact)
        url = caller.absolute(services.blobs.sign("GET", key, expires_s=EXPIRES_S, content_type=artifacts.TYPE))
        shown = {"format": "parquet", "artifact": artifact, "url": url, "download_url": url, "presigned_url": url}
        return answer({**shown, "cluster_id": cluster.id, "run_id": run_id, "expires_in": EXPIRES_S})

    return await in_slow_thread(work)


def _ended(row: Row) -> Row:
    if row["status"] != "completed":
        raise ConflictError(f"execution '{row['run_id']}' is {row['status']}; its files are there when it is completed")
    return row


@router.get(
    "/clusters/{cluster_identifier}/visualization", operation_id="get_cluster_visualization", response_model=None
)
async def visualization(
    cluster_identifier: str, caller: Reader,
    max_points: Annotated[int, Query(ge=1, le=export.HARD_POINTS)] = export.MAX_POINTS,
    centroids_only: bool = False, compact: bool = False, run_id: str | None = None,
) -> Response:  # fmt: skip
    """Points for a plot; of more than `max_points` a sample with every cluster's share."""
    return await in_slow_thread(
        lambda: answer(_points(caller, cluster_identifier, run_id, max_points, centroids_only, compact))
    )


@router.post("/clusters/{cluster_identifier}/data", operation_id="stream_cluster_data", response_model=None)
async def data(cluster_identifier: str, caller: Reader, raw: Raw) -> Response:
    """The same, asked for with a body."""
    spec = json_body(raw)
    most = spec.get("max_points") or spec.get("limit") or export.MAX_POINTS
    if type(most) is not int or not 1 <= most <= export.HARD_POINTS:
        raise ValidationError.at(("body", "max_points"), f"must be an integer from 1 to {export.HARD_POINTS:,}")
    run_id = spec.get("run_id")
    compact = spec.get("compact") is True
    only = spec.get("include_members") is False or spec.get("centroids_only") is True
    return await in_slow_thread(
        lambda: answer(_points(caller, cluster_identifier, str(run_id) if run_id else None, most, only, compact))
    )


def _points(
    caller: Reader, identifier: str, run_id: str | None, most: int, centroids_only: bool, compact: bool
) -> dict[str, Any]:
    if most > export.LISTED_POINTS and not compact:
        message = f"is at most {export.LISTED_POINTS:,}, or {export.HARD_POINTS:,} with compact=true; got {most:,}"
        raise ValidationError.at(("max_points",), message, "less_than_equal")
    with caller.services.db.read(caller.scope) as tx:
        cluster = tx.get(KIND, identifier)
        row = get_run(tx, cluster.id, run_id) if run_id else latest_run(tx, cluster)
    if row is None:
        raise NotFoundError("completed execution of cluster", cluster.id)
    return export.visualization(
        caller.services, caller.scope, cluster, _ended(row), most=most, centroids_only=centroids_only, compact=compact
    )


# ---- writing results onto documents once more


class EnrichSpec(BaseModel):
    """Which clusters, onto the documents of which of their collections."""

    model_config = ConfigDict(extra="ignore")

    clustering_ids: list[str] = Field(min_length=1, max_length=20)
    source_collection_id: str
    target_collection_id: str | None = None


@router.post("/clusters/enrich", operation_id="apply_cluster_enrichment", response_model=None)
async def enrich_collection(spec: EnrichSpec, caller: Writer) -> Response:
    """Write the results of the newest runs onto the documents of a collection, whatever the clusters say of it."""
    return await in_slow_thread(lambda: answer(_enriched(spec, caller)))


def _enriched(spec: EnrichSpec, caller: Writer) -> dict[str, int]:
    services, scope = caller.services, caller.scope
    found: list[Work] = []
    with services.db.read(scope) as tx:
        collection = tx.get("collection", spec.source_collection_id)
        if spec.target_collection_id not in (None, collection.id, collection.name):
            raise NotEnabledError("target_collection_id: results are written onto the source documents; leave it out")
        for ident in spec.clustering_ids:
            cluster = tx.get(KIND, ident)
            row = latest_run(tx, cluster)
            if row is None or collection.id not in row["body"]["config"]["collection_ids"]:
                message = (
                    f"cluster '{ident}' has no completed run over collection '{collection.name}'; execute it first"
                )
                raise ConflictError(message)
            found.append(Work(scope, row, cluster, [collection], None, lambda: None))
    total = PatchCounts()
    for work in found:
        counts = enrich(services, work, artifacts.read_members(services.blobs, scope, work.run_id))
        total.written += counts.written
        total.unchanged += counts.unchanged
        total.failed |= counts.failed
    done = total.written + total.unchanged
    return {"processed": done + len(total.failed), "enriched": done, "failed": len(total.failed), "batches": len(found)}


# ---- history


def _history(tx: ReadTx, cluster: Record, hours: int, limit: int) -> tuple[dict[str, Any], list[Row]]:
    end = clock.now()
    start = end - timedelta(hours=hours)
    where = {"cluster_id": cluster.id, "created_at": Cmp(">=", start)}
    return {"start": start, "end": end}, tx.rows("cluster_runs", where, order=("-run_id",), limit=limit)


Hours = Annotated[int, Query(ge=1, le=MAX_HOURS)]
Limit = Annotated[int, Query(ge=1, le=1000)]
_ANALYTICS = "/analytics/clusters/{cluster_identifier}"


@router.get(
    f"{_ANALYTICS}/execution-history", operation_id="get_execution_history_analytics_clusters", response_model=None
)
def history(cluster_identifier: str, tx: Read, hours: Hours = 168, limit: Limit = 100) -> Response:
    """Executions of the last hours, with what they took and how good they were."""
    cluster = tx.get(KIND, cluster_identifier)
    span, rows = _history(tx, cluster, hours, limit)
    shown = [
        {
            "execution_id": row["run_id"],
            "started_at": row["created_at"],
            "duration_seconds": ((row["completed_at"] or clock.now()) - row["created_at"]).total_seconds(),
            "num_documents": int(row["body"].get("num_points") or 0),
            "num_clusters": int(row["body"].get("num_clusters") or 0),
            "status": status_of(tx, row),
            "algorithm": (row["body"]["config"].get("vector_config") or {}).get("clustering_method", "attribute_based"),
            "metrics": metrics_of(row["body"]),
        }
        for row in rows
    ]
    return answer({"cluster_id": cluster.id, "time_range": span, "results": shown, "summary": _stats(tx, cluster)})


@router.get(f"{_ANALYTICS}/failures", operation_id="get_failures_analytics_clusters", response_model=None)
def failures(cluster_identifier: str, tx: Read, hours: Hours = 168, limit: Limit = 100) -> Response:
    """Executions of the last hours that failed, and why."""
    cluster = tx.get(KIND, cluster_identifier)
    span, rows = _history(tx, cluster, hours, 1000)
    failed = [row for row in rows if row["status"] == "failed"]
    shown = [
        {
            "timestamp": row["completed_at"] or row["created_at"],
            "execution_id": row["run_id"],
            "error_message": row["body"].get("error_message") or "",
            "error_type": row["body"].get("failure_category") or "unknown",
        }
        for row in failed[:limit]
    ]
    return answer({"cluster_id": cluster.id, "time_range": span, "failures": shown, "total_failures": len(failed)})
