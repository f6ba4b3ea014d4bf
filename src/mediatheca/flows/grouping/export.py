"""Runs as files and pictures: points for a plot, rows as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mediatheca.flows.grouping import artifacts
from mediatheca.flows.grouping.output import OUTLIERS, effective_label
from mediatheca.flows.services import Services
from mediatheca.kernel.cluster_identity import NOISE_ID
from mediatheca.kernel.errors import NotFoundError, PayloadTooLargeError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Record, Row

MAX_CSV = 100_000
MAX_POINTS = 10_000
HARD_POINTS = 1_000_000
LISTED_POINTS = 100_000
"""An object for each point takes several times the room of columns."""
_DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a cell begins that a spreadsheet would run."""


def stratified(clusters: Sequence[str], most: int, seed: int = 42) -> npt.NDArray[np.intp]:
    """At most `most` rows, of every cluster its share and at least one, in their order."""
    total = len(clusters)
    if total <= most:
        return np.arange(total)
    generator = np.random.default_rng(seed)
    names = np.asarray(clusters)
    chosen = []
    for name in np.unique(names):
        own = np.flatnonzero(names == name)
        chosen.append(generator.choice(own, min(len(own), max(1, int(len(own) * most / total))), replace=False))
    return np.sort(np.concatenate(chosen))[:most]


def labels_of(cluster: Record, row: Row) -> dict[str, str]:
    found = {entry["cluster_id"]: effective_label(cluster, entry) for entry in row["body"].get("clusters") or []}
    return {**found, NOISE_ID: OUTLIERS}


def visualization(
    services: Services, scope: Scope, cluster: Record, row: Row, *, most: int, centroids_only: bool, compact: bool
) -> dict[str, Any]:
    """Points of a run. Without a layout (groups of attributes) there are none."""
    table = _layout(services, scope, row)
    labels = labels_of(cluster, row)
    shown: dict[str, Any] = {
        "cluster_id": cluster.id,
        "run_id": row["run_id"],
        "total_points": 0 if table is None else len(table),
        "total_clusters": len(row["body"].get("clusters") or []),
        "total_members": int(row["body"].get("num_points") or 0),
        "dimensions": 0 if table is None else len(_axes(table)),
        "layout_stability_applied": row["body"].get("layout_stability_applied"),
        "layout_stability_reason": row["body"].get("layout_stability_reason"),
        "centroids": _centroid_points(table, row, labels),
    }
    if centroids_only or table is None:
        return {**shown, "sampled": False, "points": [], "members": []}
    rows = stratified(table["cluster_id"].to_pylist(), most)
    part = table.take(pa.array(rows))
    points = _compact(part) if compact else _listed(part, labels)
    return {
        **shown,
        "sampled": len(rows) < len(table),
        "returned_points": len(rows),
        "points": points,
        "members": points,
    }


def _layout(services: Services, scope: Scope, row: Row) -> pa.Table | None:
    if not artifacts.exists(services.blobs, scope, row, "coordinates"):
        return None
    try:
        return artifacts.read(services.blobs, scope, row["run_id"], "coordinates")
    except NotFoundError:  # pruned in this moment
        return None


def _axes(table: pa.Table) -> list[str]:
    return [name for name in "xyz" if name in table.column_names]


def _centroid_points(table: pa.Table | None, row: Row, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    places: dict[str, dict[str, float]] = {}
    if table is not None:
        names, points = np.asarray(table["cluster_id"].to_pylist()), artifacts.points_of(table)
        for name in np.unique(names) if len(names) else []:
            middle = points[names == name].mean(axis=0)
            places[str(name)] = dict(zip(_axes(table), map(float, middle), strict=True))
    return [
        {"cluster_id": c["cluster_id"], "label": labels[c["cluster_id"]], "num_members": c["num_members"],
         **places.get(c["cluster_id"], {})}
        for c in row["body"].get("clusters") or []
    ]  # fmt: skip


def _compact(part: pa.Table) -> dict[str, Any]:
    columns = {name: part[name].to_pylist() for name in _axes(part)}
    ids = {"cluster_ids": part["cluster_id"].to_pylist(), "document_ids": part["document_id"].to_pylist()}
    return {**columns, **ids, "collection_ids": part["collection_id"].to_pylist()}


def _listed(part: pa.Table, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{**entry, "cluster_label": labels.get(entry["cluster_id"])} for entry in part.to_pylist()]


def export_rows(
    services: Services, scope: Scope, cluster: Record, row: Row, name: artifacts.Name, wanted: str | None
) -> pa.Table:
    """A file of a run with the labels as they are now, members with those that joined since, centroids without their
    vectors. `wanted`: only the cluster of this id or label.

    Raises:
        NotFoundError: the run left no such file, or has no such cluster.
    """
    labels = labels_of(cluster, row)
    if name == "members":
        table = artifacts.read_members(services.blobs, scope, row["run_id"])
    else:
        table = artifacts.read(services.blobs, scope, row["run_id"], name)
    table = table.drop_columns([column for column in ("label", "vector") if column in table.column_names])
    idents = table["cluster_id"].to_pylist()
    names = [labels.get(ident, ident) for ident in idents]
    table = table.append_column("cluster_label", pa.array(names, pa.string()))
    if wanted is not None:
        kept = [wanted in pair for pair in zip(idents, names, strict=True)]
        if not any(kept):
            raise NotFoundError("cluster group", wanted)
        table = table.filter(pa.array(kept, pa.bool_()))
    return table


def as_csv(table: pa.Table) -> str:
    """
    Raises:
        PayloadTooLargeError: there are more rows than a CSV may have here.
    """
    if len(table) > MAX_CSV:
        raise PayloadTooLargeError(
            f"{len(table):,} rows are more than a CSV may have ({MAX_CSV:,}); use format=parquet, or cluster_label"
        )
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(table.column_names)
    for entry in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        writer.writerow([_cell(value) for value in entry])
    return sink.getvalue()


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula is quoted."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_DANGEROUS) else value
