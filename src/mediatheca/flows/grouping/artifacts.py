"""What a run leaves behind, as Parquet files in the blob store: centroids, members, coordinates.

Members that join between two runs are small files of their own beside the first, named by what brought them: writing
one again changes nothing. A later file wins.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mediatheca.kernel.errors import NotFoundError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.blobs.base import BlobStore

Name: TypeAlias = Literal["centroids", "members", "coordinates"]
TYPE = "application/vnd.apache.parquet"
DEFERRED = "the layout follows: it was deferred"
"""Why a completed run has no layout yet."""
MEMBERS = pa.schema(
    [
        ("document_id", pa.string()),
        ("collection_id", pa.string()),
        ("cluster_id", pa.string()),
        ("distance", pa.float32()),
        ("probability", pa.float32()),
        ("sampled", pa.bool_()),
    ]
)
"""`distance`: 1 - cosine to the centre of the cluster. `sampled`: it took part in the clustering, and did not join."""


def folder(scope: Scope, run_id: str) -> str:
    return f"{scope.organization_id}/{scope.namespace_id}/clusters/{run_id}/"


def key(scope: Scope, run_id: str, name: str) -> str:
    return f"{folder(scope, run_id)}{name}.parquet"


def write(blobs: BlobStore, scope: Scope, run_id: str, name: str, table: pa.Table) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    blobs.put(key(scope, run_id, name), sink.getvalue(), TYPE)


def read(blobs: BlobStore, scope: Scope, run_id: str, name: str) -> pa.Table:
    """
    Raises:
        NotFoundError: the run left none, or it was pruned.
    """
    return pq.read_table(io.BytesIO(blobs.get(key(scope, run_id, name))))


def exists(blobs: BlobStore, scope: Scope, row: Mapping[str, Any], name: Name) -> bool:
    """Whether a completed run has this file. A deferred layout is there when the run's row says so: its file is written
    before that."""
    if name == "coordinates" and row["body"].get("layout_stability_reason") == DEFERRED:
        return False
    return blobs.head(key(scope, row["run_id"], name)) is not None


def read_members(blobs: BlobStore, scope: Scope, run_id: str) -> pa.Table:
    """Members of the run and those that joined since, each document once."""
    table = read(blobs, scope, run_id, "members")
    joined = [
        pq.read_table(io.BytesIO(blobs.get(info.key)))
        for info in blobs.list(f"{folder(scope, run_id)}joined-")
        if info.key.endswith(".parquet")
    ]
    return _latest(pa.concat_tables([table, *joined])) if joined else table


def _latest(table: pa.Table) -> pa.Table:
    seen: dict[tuple[str, str], int] = {}
    pairs = zip(table["collection_id"].to_pylist(), table["document_id"].to_pylist(), strict=True)
    for row, pair in enumerate(pairs):
        seen[pair] = row
    return table.take(pa.array(sorted(seen.values()), pa.int64()))


def write_joined(blobs: BlobStore, scope: Scope, run_id: str, name: str, table: pa.Table) -> None:
    write(blobs, scope, run_id, f"joined-{name}", table)


def member_table(
    document_ids: Sequence[str],
    collection_ids: Sequence[str],
    cluster_ids: Sequence[str],
    cosines: npt.NDArray[Any],
    probabilities: npt.NDArray[Any],
    sampled: bool,
) -> pa.Table:
    columns = [
        pa.array(document_ids, pa.string()),
        pa.array(collection_ids, pa.string()),
        pa.array(cluster_ids, pa.string()),
        pa.array(np.asarray(1.0 - cosines, np.float32)),
        pa.array(np.asarray(probabilities, np.float32)),
        pa.array(np.full(len(document_ids), sampled)),
    ]
    return pa.Table.from_arrays(columns, schema=MEMBERS)


def coordinate_table(members: pa.Table, points: npt.NDArray[Any]) -> pa.Table:
    """Of the first rows of `members`, as many as there are points."""
    named = members.select(["document_id", "collection_id", "cluster_id"]).slice(0, len(points))
    for axis, name in enumerate("xyz"[: points.shape[1]]):
        named = named.append_column(name, pa.array(np.ascontiguousarray(points[:, axis], np.float32)))
    return named


def points_of(table: pa.Table) -> npt.NDArray[np.float32]:
    axes = [name for name in "xyz" if name in table.column_names]
    return np.stack([table[name].to_numpy() for name in axes], axis=1).astype(np.float32)


def vectors_of(table: pa.Table) -> npt.NDArray[np.float32]:
    """The centroids, shape (clusters, dimensions)."""
    found = table["vector"].combine_chunks()
    if not len(found):
        return np.zeros((0, 0), np.float32)
    values: npt.NDArray[np.float32] = found.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(found), -1)


def counts_of(members: pa.Table) -> dict[str, int]:
    """Members of every cluster, noise among them."""
    counted = pc.value_counts(members["cluster_id"])
    return {str(entry["values"]): int(entry["counts"]) for entry in counted.to_pylist()}


def save_projection(blobs: BlobStore, scope: Scope, run_id: str, mean: Any, components: Any) -> None:
    """What puts further vectors into the same picture."""
    sink = io.BytesIO()
    np.savez(sink, mean=mean, components=components)
    blobs.put(f"{folder(scope, run_id)}layout.npz", sink.getvalue())


def load_projection(blobs: BlobStore, scope: Scope, run_id: str) -> dict[str, npt.NDArray[Any]]:
    """Empty where the picture was not made by a linear projection."""
    try:
        data = blobs.get(f"{folder(scope, run_id)}layout.npz")
    except NotFoundError:
        return {}
    with np.load(io.BytesIO(data), allow_pickle=False) as held:
        return {"layout_mean": held["mean"], "layout_components": held["components"]}


def remove(blobs: BlobStore, scope: Scope, run_id: str) -> None:
    blobs.delete_prefix(folder(scope, run_id))
