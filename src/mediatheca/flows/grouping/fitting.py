"""The first step of a run over vectors: read, cluster in a child process, find who is who, leave the files.

Nothing but files and the run's own row is written here: a run that dies begins again, and overwrites them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mediatheca.clusterers import Clusterer
from mediatheca.flows.grouping import artifacts
from mediatheca.flows.grouping.history import Earlier, pairs_of, shared_labels
from mediatheca.flows.grouping.prepare import Prepared, RefusedError, limit_of, prepare
from mediatheca.flows.grouping.space import SpaceReader, find_space
from mediatheca.flows.services import Services
from mediatheca.jobs.compute import ComputeResult, compute, default_threads
from mediatheca.kernel import layout
from mediatheca.kernel.cluster_identity import NOISE_ID, Identities, identify
from mediatheca.kernel.cluster_metrics import adjusted_rand
from mediatheca.kernel.clustering import NOISE, Labels, Matrix, unit_rows
from mediatheca.kernel.errors import NotFoundError
from mediatheca.kernel.filters import Filter, all_of, parse_filter
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Record, Row

DEADLINE_S = 3_600.0
REPRESENTATIVES = 5
MAX_CLUSTERS = 5_000
BLOCK = 8_192


@dataclass(frozen=True, slots=True)
class Work:
    """One run, with what it needs of its cluster and of the run before."""

    scope: Scope
    row: Row
    cluster: Record
    collections: list[Record]
    earlier: Earlier | None
    check: Callable[[], None]

    @property
    def run_id(self) -> str:
        return str(self.row["run_id"])

    @property
    def config(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.row["body"]["config"]
        return config

    @property
    def vectors(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.config["vector_config"]
        return config

    @property
    def filter(self) -> Filter | None:
        return all_of(*(parse_filter(raw, path="filters") for raw in self.config["filters"]))

    @property
    def next_number(self) -> int:
        return int((self.cluster.body.get("state") or {}).get("next_number", 0))


@contextmanager
def workplace(services: Services, work: Work) -> Iterator[Path]:
    """An empty folder of this run: what an earlier attempt left there, which was killed, is removed."""
    place = services.settings.data_dir / "compute" / work.run_id
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def fit(services: Services, work: Work) -> dict[str, Any]:
    """Cluster the vectors; gives what the run's row keeps.

    Raises:
        RefusedError, ComputeError: it cannot be done; the message says what to change.
    """
    space = find_space(work.collections, work.vectors)
    reader = SpaceReader(services, work.scope, space, work.filter)
    clusterer = services.clusterers.get(work.vectors["clustering_method"])
    if clusterer is None:
        raise NotFoundError("clusterer", work.vectors["clustering_method"])
    memory_mb = services.settings.worker_memory_mb
    limit = limit_of(clusterer, space.dimensions, work.vectors["sample_size"], memory_mb, reader.count())
    with workplace(services, work) as place:
        seed = int(work.vectors["params"].get("random_state", 42))
        prepared = prepare(reader, place, limit, seed, work.check)
        result = _compute(services, work, prepared, space.weights, place)
        return _Outcome(services, work, reader, clusterer, prepared, result, seed).finish()


def draw(services: Services, work: Work) -> dict[str, Any]:
    """The layout of a run that was made without one; gives what the run's row keeps."""
    space = find_space(work.collections, work.vectors)
    reader = SpaceReader(services, work.scope, space, work.filter)
    members = artifacts.read_members(services.blobs, work.scope, work.run_id)
    clusters = dict(zip(pairs_of(members), members["cluster_id"].to_pylist(), strict=True))
    with workplace(services, work) as place:
        seed = int(work.vectors["params"].get("random_state", 42))
        prepared = prepare(reader, place, max(2, int(work.row["body"]["num_points"])), seed, work.check)
        result = _compute(services, work, prepared, space.weights, place, "layout")
    pairs = list(zip(prepared.collection_ids, prepared.document_ids, strict=True))
    held = [clusters.get(pair, NOISE_ID) for pair in pairs]
    nothing = np.zeros(len(pairs))
    table = artifacts.member_table(prepared.document_ids, prepared.collection_ids, held, nothing, nothing, True)
    return _keep_layout(services, work, table, result)


def _keep_layout(services: Services, work: Work, members: pa.Table, result: ComputeResult) -> dict[str, Any]:
    arrays, transformed = result.arrays, bool(result.values["transformed"])
    aligned, applied, reason = register(services, work, members, arrays["coordinates"], transformed)
    table = artifacts.coordinate_table(members, aligned)
    artifacts.write(services.blobs, work.scope, work.run_id, "coordinates", table)
    if "layout_mean" in arrays and applied != "aligned":
        artifacts.save_projection(
            services.blobs, work.scope, work.run_id, arrays["layout_mean"], arrays["layout_components"]
        )
    return {"layout_stability_applied": applied, "layout_stability_reason": reason}


def _compute(
    services: Services,
    work: Work,
    prepared: Prepared,
    weights: tuple[float, ...],
    place: Path,
    task: str = "cluster",
) -> ComputeResult:
    config = work.vectors
    drawn = task == "layout" or not work.config.get("defer_visualization")
    arrays: dict[str, npt.NDArray[Any]] = dict(prepared.arrays)
    if config["layout_stability"] == "transform" and work.earlier is not None:
        arrays |= artifacts.load_projection(services.blobs, work.scope, work.earlier.run_id)
    options = {
        "clusterer": config["clustering_method"],
        "params": config["params"],
        "normalize": config["normalize_features"],
        "weights": list(weights),
        "steps": config["preprocessing_steps"],
        "vis_components": config["vis_n_components"] if drawn else 0,
        "vis_method": config["vis_method"],
    }
    return compute(
        task, arrays, options, memory_mb=services.settings.worker_memory_mb, threads=default_threads(),
        stop=work.check, deadline_s=DEADLINE_S, plugins=services.settings.plugin_packages, folder=place,
    )  # fmt: skip


@dataclass(slots=True)
class _Outcome:
    """From what the child computed to what the run keeps."""

    services: Services
    work: Work
    reader: SpaceReader
    clusterer: Clusterer
    prepared: Prepared
    result: ComputeResult
    seed: int

    def finish(self) -> dict[str, Any]:
        labels: Labels = self.result.arrays["labels"]
        centroids: Matrix = self.result.arrays["centroids"]
        if len(centroids) > MAX_CLUSTERS:
            raise RefusedError(
                f"{self.clusterer.name} found {len(centroids):,} clusters, at most {MAX_CLUSTERS:,} are kept; ask for "
                "fewer and larger ones (min_cluster_size, eps, n_clusters, resolution)"
            )
        identities, stability = self._identities(labels, centroids)
        members = self._members(labels, identities)
        counts = artifacts.counts_of(members)
        table = self._centroid_table(identities, centroids, counts)
        blobs, scope, run_id = self.services.blobs, self.work.scope, self.work.run_id
        artifacts.write(blobs, scope, run_id, "members", members)
        artifacts.write(blobs, scope, run_id, "centroids", table)
        told = self._layout(members)
        clusters = self._clusters(identities, members, counts)
        return {**self._summary(labels, counts, identities, stability), "clusters": clusters, **told, "step": "fitted"}

    def _identities(self, labels: Labels, centroids: Matrix) -> tuple[Identities, float | None]:
        earlier = self.work.earlier
        if earlier is None:
            empty = np.zeros(0, np.int32)
            nothing = np.zeros((0, centroids.shape[1]), np.float32)
            return identify(empty, empty, centroids, [], nothing, self.work.next_number), None
        new, old = shared_labels(self.prepared.collection_ids, self.prepared.document_ids, labels, earlier)
        found = identify(new, old, centroids, earlier.ids, earlier.centroids, self.work.next_number)
        return found, adjusted_rand(new, old) if len(new) >= 2 else None

    def _members(self, labels: Labels, identities: Identities) -> pa.Table:
        """The clustered documents first, in their order; then those that joined the nearest cluster."""
        names = [*identities.ids, NOISE_ID]  # the noise, -1, is the last one
        made = [
            artifacts.member_table(
                self.prepared.document_ids, self.prepared.collection_ids, [names[label] for label in labels.tolist()],
                self.result.arrays["cosines"], self.result.arrays["probabilities"], True,
            )
        ]  # fmt: skip
        if self.prepared.sampled:
            made += self._joined(names)
        return pa.concat_tables(made)

    def _joined(self, names: list[str]) -> list[pa.Table]:
        made = []
        held = set(zip(self.prepared.collection_ids, self.prepared.document_ids, strict=True))
        radii = None if self.clusterer.assigns_all else self.result.arrays["radii"]
        for page in self.reader.pages(self.work.check):
            pairs = ((page.collection_id, ident) for ident in page.document_ids)
            rest = page.only(np.array([pair not in held for pair in pairs], np.bool_))
            if not rest.document_ids:
                continue
            labels, cosines = nearest(rest.matrix(self.reader.space), self.result.arrays["centroids"], radii)
            own = [rest.collection_id] * len(rest.document_ids)
            probabilities = np.where(labels == NOISE, 0.0, 1.0)
            found = [names[label] for label in labels.tolist()]
            made.append(artifacts.member_table(rest.document_ids, own, found, cosines, probabilities, False))
        return made

    def _centroid_table(self, identities: Identities, centroids: Matrix, counts: Mapping[str, int]) -> pa.Table:
        radii = self.result.arrays["radii"]
        return pa.table(
            {
                "cluster_id": pa.array(identities.ids, pa.string()),
                "size": pa.array([counts.get(ident, 0) for ident in identities.ids], pa.int64()),
                "radius": pa.array(np.asarray(1.0 - radii, np.float32)),
                "vector": pa.array(list(centroids), pa.list_(pa.float32())),
            }
        )

    def _layout(self, members: pa.Table) -> dict[str, Any]:
        if "coordinates" not in self.result.arrays:
            return {"layout_stability_applied": "none", "layout_stability_reason": artifacts.DEFERRED}
        return _keep_layout(self.services, self.work, members, self.result)

    def _clusters(self, identities: Identities, members: pa.Table, counts: Mapping[str, int]) -> list[dict[str, Any]]:
        nearest_ids = representatives(members, REPRESENTATIVES)
        labels, cosines = self.result.arrays["labels"], self.result.arrays["cosines"]
        found = []
        for number, (ident, kept) in enumerate(zip(identities.ids, identities.kept, strict=True)):
            own = cosines[labels == number]
            found.append(
                {
                    "cluster_id": ident,
                    "kept": kept,
                    "num_members": counts.get(ident, 0),
                    "mean_cosine_similarity": float(own.mean()) if len(own) else None,
                    "min_cosine_similarity": float(own.min()) if len(own) else None,
                    "representative_ids": nearest_ids.get(ident, []),
                }
            )
        return found

    def _summary(
        self, labels: Labels, counts: Mapping[str, int], identities: Identities, stability: float | None
    ) -> dict[str, Any]:
        values, prepared = self.result.values, self.prepared
        clustered = sum(counts.values()) - counts.get(NOISE_ID, 0)
        noise = int((labels == NOISE).sum())
        gap = prepared.source_documents - prepared.retrieved
        drop = prepared.retrieved - clustered
        ok = gap <= 0 and (drop <= 0 or not self.clusterer.assigns_all)
        return {
            "num_clusters": len(identities.ids),
            "num_points": len(labels),
            "noise": noise,
            "metrics": {**values["metrics"], **({} if stability is None else {"stability": stability})},
            "degenerate": values["degenerate"],
            "notes": [*values["notes"], *self.result.warnings],
            "next_number": identities.next_number,
            "identity": identities.compared,
            "reconciliation": {
                "source_documents": prepared.source_documents,
                "vectors_retrieved": prepared.retrieved,
                "vectors_clustered": clustered,
                "index_gap": gap,
                "pipeline_drop": drop,
                "input_reconciliation_ok": ok,
                "input_reconciliation_reasons": _reasons(prepared, noise, clustered),
                "pipeline_drop_expected_as_noise": not self.clusterer.assigns_all and drop > 0,
            },
            "compute": {"seconds": round(self.result.seconds, 3), "peak_mb": self.result.peak_mb},
        }


def _reasons(prepared: Prepared, noise: int, clustered: int) -> list[str]:
    left = prepared.retrieved - clustered
    if left <= 0:
        return prepared.reasons
    return [*prepared.reasons, f"{left:,} documents are in no cluster ({noise:,} of them noise of the algorithm)"]


def nearest(
    matrix: Matrix, centroids: Matrix, least: npt.NDArray[np.float32] | float | None
) -> tuple[Labels, npt.NDArray[np.float32]]:
    """The nearest cluster of every row by cosine, and that cosine. `least`: the cosine that is needed, of each cluster
    or of all; below it the row belongs to none."""
    labels, cosines = np.full(len(matrix), NOISE, np.int32), np.zeros(len(matrix), np.float32)
    if not len(centroids):
        return labels, cosines
    centres = unit_rows(centroids)
    for start in range(0, len(matrix), BLOCK):
        found = unit_rows(matrix[start : start + BLOCK]) @ centres.T
        best = found.argmax(axis=1)
        labels[start : start + BLOCK] = best
        cosines[start : start + BLOCK] = found[np.arange(len(found)), best]
    if least is not None:
        needed = least[labels] if isinstance(least, np.ndarray) else least
        labels[cosines < needed] = NOISE
    return labels, cosines


def register(
    services: Services, work: Work, members: pa.Table, points: npt.NDArray[Any], transformed: bool
) -> tuple[npt.NDArray[np.float32], str, str]:
    """The layout laid onto that of the run before; what was done, and why."""
    wanted = work.vectors["layout_stability"]
    if transformed:
        return points, "transform", "projected as in the previous run"
    if wanted == "none":
        return points, "none", "layout_stability is none"
    if work.earlier is None:
        return points, "none", "there is no earlier run"
    before = work.earlier.points(services.blobs, work.scope)
    if before is None:
        return points, "none", "the previous run has no layout"
    places = {pair: n for n, pair in enumerate(before.pairs)}
    pairs = zip(members["collection_id"].to_pylist(), members["document_id"].to_pylist(), strict=True)
    shared = [(n, places[pair]) for n, pair in enumerate(pairs) if n < len(points) and pair in places]
    problem = layout.why_not(len(shared), points.shape[1], before.values.shape[1])
    if problem:
        return points, "none", problem
    mine = np.array([n for n, _ in shared], np.intp)
    theirs = before.values[[n for _, n in shared]]
    why = " (there was no projection to reuse)" if wanted == "transform" else ""
    return (
        layout.align(points, mine, theirs),
        "aligned",
        f"aligned to previous run on {len(shared)} shared documents{why}",
    )


def representatives(members: pa.Table, count: int) -> dict[str, list[dict[str, str]]]:
    """Of every cluster the members nearest to its centre, the nearest first."""
    order = np.argsort(members["distance"].to_numpy(), kind="stable")
    clusters = members["cluster_id"].to_pylist()
    documents, collections = members["document_id"].to_pylist(), members["collection_id"].to_pylist()
    found: dict[str, list[dict[str, str]]] = {}
    for row in order.tolist():
        own = found.setdefault(clusters[row], [])
        if len(own) < count:
            own.append({"document_id": documents[row], "collection_id": collections[row]})
    found.pop(NOISE_ID, None)
    return found
