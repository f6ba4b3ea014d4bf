"""What callers see of clusters and their runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mediatheca.flows.grouping.output import effective_label
from mediatheca.flows.grouping.runs import wire_status
from mediatheca.stores.db.tx import Cmp, ReadTx, Record, Row

PROVIDERS = ("openai", "google", "anthropic", "typesafe")
MODELS = (
    "gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18", "gpt-4.1-2025-04-14", "gpt-4.1-mini-2025-04-14",
    "o3-mini-2025-01-31", "gemini-2.5-flash-lite", "gemini-2.5-flash", "gemini-2.5-pro", "gemini-3.1-flash-lite",
    "gemini-3.5-flash-lite", "claude-sonnet-4-5-20250929", "claude-haiku-4-5-20251001", "claude-3-5-sonnet-20241022",
    "claude-3-5-haiku-20241022", "jev-latest", "jev-preview", "jev-1.13.0",
)  # fmt: skip
"""Model names that strict clients can read; any other stands in the metadata instead."""
_METRICS = (
    "silhouette_score", "davies_bouldin_index", "calinski_harabasz_score", "avg_cluster_size", "noise_ratio",
    "cluster_size_entropy", "mean_cosine_to_centroid", "min_cosine_to_centroid", "stability",
)  # fmt: skip
_TASK_STATUS = {
    "pending": "PENDING", "processing": "PROCESSING", "completed": "COMPLETED", "failed": "FAILED",
    "canceled": "CANCELED",
}  # fmt: skip
LISTED_CLUSTERS = 200
"""Clusters of a run that a list of runs shows; of more, none."""
_DELETES = 1_000
"""Deletions, the latest first, that are looked through for members of a run."""


def cluster_views(tx: ReadTx, records: Sequence[Record]) -> list[dict[str, Any]]:
    """A page of clusters, each with figures of its newest run."""
    runs = _newest(tx, [record.id for record in records])
    return [_cluster_view(record, runs.get(record.id)) for record in records]


def _newest(tx: ReadTx, cluster_ids: list[str]) -> dict[str, Row]:
    if not cluster_ids:
        return {}
    light = tx.rows("cluster_runs", {"cluster_id": cluster_ids}, columns=("run_id", "cluster_id"), order=("-run_id",))
    newest: dict[str, str] = {}
    for row in light:
        newest.setdefault(row["cluster_id"], row["run_id"])
    rows = tx.rows("cluster_runs", {"run_id": list(newest.values())}) if newest else []
    return {row["cluster_id"]: {**row, "status": status_of(tx, row)} for row in rows}


def status_of(tx: ReadTx, row: Row) -> str:
    """A run whose task was cancelled is cancelled, also before its job has noticed."""
    if row["status"] in ("completed", "failed", "canceled"):
        return str(row["status"])
    task = tx.row("tasks", {"task_id": row["task_id"]})
    return wire_status(row, task["status"] if task else None)


def _cluster_view(record: Record, run: Row | None) -> dict[str, Any]:
    body, state = record.body, record.body.get("state") or {}
    vector, attribute = body.get("vector_config") or {}, body.get("attribute_config") or {}
    labels, unknown = labeling_view(body.get("llm_labeling"))
    output = state.get("output_collection_id")
    return {
        "cluster_id": record.id,
        "cluster_name": record.name,
        "description": body["description"],
        "namespace_id": record.namespace_id,
        "input_collections": body["collection_ids"],
        "collection_ids": body["collection_ids"],
        "cluster_type": body["cluster_type"],
        "filters": body.get("filters"),
        **_vector_view(vector),
        "vector_config": body.get("vector_config"),
        "attribute_config": body.get("attribute_config"),
        "clustered_attributes": attribute.get("attributes"),
        "hierarchical_grouping": attribute.get("hierarchical_grouping"),
        "aggregation_method": attribute.get("aggregation_method"),
        "output_collection_ids": [output] if output else [],
        "output_collection_names": [state["output_collection_name"]] if output else [],
        "enrich_source": body["enrich_source"],
        "enrich_source_collection": body["enrich_source"],
        "source_enrichment_config": body.get("source_enrichment_config"),
        "llm_labeling": labels,
        "auto_execute_on_batch": body["auto_execute_on_batch"],
        "auto_execute_min_documents": body["auto_execute_min_documents"],
        "auto_execute_cooldown_seconds": body["auto_execute_cooldown_seconds"],
        **_run_figures(run),
        "last_run_id": state.get("last_run_id"),
        "label_overrides": state.get("label_overrides") or {},
        "metadata": {**body["metadata"], **unknown},
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }


def _vector_view(vector: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "feature_uris", "multi_feature_strategy", "effective_feature_method", "sample_size", "preprocessing_steps",
        "vis_n_components", "layout_stability",
    )  # fmt: skip
    shown = {name: vector.get(name) for name in names}
    method = vector.get("clustering_method")
    return {**shown, "algorithm": method, "clustering_method": method, "algorithm_params": vector.get("params")}


def labeling_view(labels: Mapping[str, Any] | None) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """The labelling without what strict clients cannot read, and that under names of its own."""
    if labels is None:
        return None, {}
    shown = {name: value for name, value in labels.items() if value is not None}
    unknown = {}
    if shown.get("provider") not in (None, *PROVIDERS):
        unknown["llm_provider"] = shown.pop("provider")
    if shown.get("model_name") not in (None, *MODELS):
        unknown["llm_model_name"] = shown.pop("model_name")
    return shown, unknown


def _run_figures(run: Row | None) -> dict[str, Any]:
    if run is None:
        return {"status": None, "last_execution_task_id": None, "num_clusters": None, "quality_metrics": None}
    body = run["body"]
    seconds = (run["completed_at"] - run["created_at"]).total_seconds() if run["completed_at"] else None
    return {
        "status": _TASK_STATUS[run["status"]],
        "last_execution_task_id": run["task_id"],
        "num_clusters": body.get("num_clusters"),
        "num_documents_clustered": body.get("num_points"),
        "execution_time_seconds": seconds,
        "quality_metrics": metrics_of(body) or None,
        "error": body.get("error_message"),
        "failure_category": body.get("failure_category"),
        "llm_labeling_errors": body.get("llm_labeling_errors") or None,
        "last_executed_at": run["created_at"],
        "completed_at": run["completed_at"],
    }


def metrics_of(body: Mapping[str, Any]) -> dict[str, Any]:
    held = body.get("metrics") or {}
    return {name: held[name] for name in _METRICS if name in held}


def run_view(
    tx: ReadTx,
    cluster: Record,
    row: Row,
    *,
    stale: bool = False,
    vectors: Mapping[str, list[float]] | None = None,
    whole: bool = True,
) -> dict[str, Any]:
    """An execution. `vectors`: the centre of every cluster, where they are asked for. Not `whole`: without its
    clusters where they are many."""
    body = row["body"]
    done = row["status"] == "completed"
    shown: dict[str, Any] = {
        "run_id": row["run_id"],
        "cluster_id": row["cluster_id"],
        "task_id": row["task_id"],
        "status": status_of(tx, row),
        "mode": body["mode"],
        "automatic": body["automatic"],
        "num_clusters": int(body.get("num_clusters") or 0),
        "num_points": int(body.get("num_points") or 0),
        "member_counts_stale": stale,
        "created_at": row["created_at"],
        "started_at": body.get("started_at"),
        "completed_at": row["completed_at"],
        "run_name": body.get("run_name"),
        "label_overrides": overrides_of(cluster, body) or None,
        **{name: body.get(name) for name in ("error_message", "error_type", "error_traceback", "failure_category")},
        **{name: body.get(name) for name in ("layout_stability_applied", "layout_stability_reason", "enriched")},
        "llm_labeling_errors": body.get("llm_labeling_errors") or None,
        "generation_reap": body.get("generation_reap"),
        "output_collection_ids": body.get("output_collection_ids"),
        "notes": body.get("notes") or [],
        "identity": body.get("identity"),
        "pruned": bool(body.get("pruned")),
        **(body.get("reconciliation") or {}),
    }
    shown |= _quality(body)
    few = whole or shown["num_clusters"] <= LISTED_CLUSTERS
    shown["centroids"] = centroid_views(cluster, body, vectors) if done and few else None
    return shown


def _quality(body: Mapping[str, Any]) -> dict[str, Any]:
    held = body.get("metrics")
    if held is None:
        return {}
    return {
        "metrics": {**metrics_of(body), "degenerate": body.get("degenerate") or False},
        "noise_ratio": held.get("noise_ratio"),
        "entropy": held.get("cluster_size_entropy"),
    }


def overrides_of(cluster: Record, body: Mapping[str, Any]) -> dict[str, str]:
    """Names that people gave to clusters of this run: ids stay the same from run to run."""
    given = (cluster.body.get("state") or {}).get("label_overrides") or {}
    own = {entry["cluster_id"] for entry in body.get("clusters") or []}
    return {ident: label for ident, label in given.items() if ident in own}


def centroid_views(
    cluster: Record, body: Mapping[str, Any], vectors: Mapping[str, list[float]] | None = None
) -> list[dict[str, Any]]:
    found = []
    for entry in body.get("clusters") or []:
        shown = {
            **{name: entry.get(name) for name in ("cluster_id", "num_members", "summary", "keywords")},
            "label": effective_label(cluster, entry),
            "machine_label": entry.get("label"),
            "label_source": entry.get("label_source"),
            "mean_cosine_similarity": entry.get("mean_cosine_similarity"),
            "min_cosine_similarity": entry.get("min_cosine_similarity"),
            "representative_ids": entry.get("representative_ids") or [],
            "kept": entry.get("kept", False),
        }
        if entry.get("level"):
            shown |= {"level": entry["level"], "parent_id": entry.get("parent_id"), "values": entry.get("values")}
        if vectors is not None:
            shown["centroid_vector"] = vectors.get(entry["cluster_id"])
        found.append(shown)
    return found


def groups_view(cluster: Record, row: Row | None, stale: bool) -> dict[str, Any]:
    """The clusters of the newest completed run; empty before the first one."""
    if row is None:
        empty: list[Any] = []
        return {
            "cluster_id": cluster.id, "run_id": None, "total_groups": 0, "total_documents": 0,
            "member_counts_stale": False, "groups": empty,
        }  # fmt: skip
    body = row["body"]
    groups = [{**shown, "member_count": shown["num_members"]} for shown in centroid_views(cluster, body)]
    total = sum(entry["num_members"] for entry in body["clusters"] if (entry.get("level") or 1) == 1)
    return {
        "cluster_id": cluster.id,
        "run_id": row["run_id"],
        "total_groups": len(groups),
        "total_documents": total,
        "noise_documents": int(body.get("noise") or 0),
        "member_counts_stale": stale,
        "groups": groups,
    }


def counts_stale(tx: ReadTx, row: Row) -> bool:
    """Whether documents of the run's collections were deleted after it: its sizes may count them still."""
    if row["status"] != "completed" or row["completed_at"] is None:
        return False
    collections = set(row["body"]["config"]["collection_ids"])
    since = {"created_at": Cmp(">", row["completed_at"])}
    kinds = {"type": ["document.deleted", "documents.deleted.batch", "object.deleted"]}
    for event in tx.rows("events", {**kinds, **since}, columns=("type", "payload"), order=("-seq",), limit=_DELETES):
        if event["type"] == "object.deleted" or event["payload"].get("collection_id") in collections:
            return True
    return False
