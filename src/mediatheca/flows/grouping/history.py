"""What a run knows of the run before: who was in which cluster, where the centres and the points were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mediatheca.flows.grouping import artifacts
from mediatheca.kernel.clustering import NOISE, Labels, Matrix
from mediatheca.kernel.errors import NotFoundError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.blobs.base import BlobStore
from mediatheca.stores.db.tx import Row

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Points:
    pairs: list[Pair]
    values: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Earlier:
    """The run before, of the same cluster."""

    run_id: str
    body: Mapping[str, Any]
    ids: list[str]
    """Of its clusters, in the order of `centroids`."""
    centroids: Matrix
    members: Mapping[Pair, int]
    """(collection, document) → position in `ids`, -1 for noise."""

    def points(self, blobs: BlobStore, scope: Scope) -> Points | None:
        try:
            table = artifacts.read(blobs, scope, self.run_id, "coordinates")
        except NotFoundError:
            return None
        return Points(pairs_of(table), artifacts.points_of(table))


def pairs_of(table: pa.Table) -> list[Pair]:
    return list(zip(table["collection_id"].to_pylist(), table["document_id"].to_pylist(), strict=True))


def load_earlier(blobs: BlobStore, scope: Scope, row: Row | None) -> Earlier | None:
    """None: there is no earlier run, or its files were pruned."""
    if row is None:
        return None
    try:
        centroids = artifacts.read(blobs, scope, row["run_id"], "centroids")
        members = artifacts.read_members(blobs, scope, row["run_id"])
    except NotFoundError:
        return None
    ids = centroids["cluster_id"].to_pylist()
    numbers = {ident: number for number, ident in enumerate(ids)}
    labels = [numbers.get(ident, NOISE) for ident in members["cluster_id"].to_pylist()]
    vectors = artifacts.vectors_of(centroids) if "vector" in centroids.column_names else np.zeros((0, 0), np.float32)
    return Earlier(row["run_id"], row["body"], ids, vectors, dict(zip(pairs_of(members), labels, strict=True)))


def shared_labels(
    collection_ids: Sequence[str], document_ids: Sequence[str], labels: Labels, earlier: Earlier
) -> tuple[Labels, Labels]:
    """Of the documents that both runs know: the new and the old cluster, as positions."""
    new, old = [], []
    for pair, label in zip(zip(collection_ids, document_ids, strict=True), labels.tolist(), strict=True):
        before = earlier.members.get(pair)
        if before is not None:
            new.append(label)
            old.append(before)
    return np.array(new, np.int32), np.array(old, np.int32)
