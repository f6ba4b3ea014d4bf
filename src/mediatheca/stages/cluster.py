"""The `cluster` stage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import AliasChoices, BaseModel, Field

from mediatheca.kernel.cluster_labels import keywords
from mediatheca.kernel.clustering import Labels, Matrix, unit_rows
from mediatheca.kernel.hits import as_document, write_field
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, Need, StageContext, stage
from mediatheca.stages._clustering import OUTLIER, Algorithm, label, require_sklearn
from mediatheca.stages._fields import FieldPath, rename, text_of
from mediatheca.stages._vectors import Space, known_feature, searched_feature, vector_spaces

MAX_CLUSTERED = 2000
KEYWORDS = 5
LABEL_WORDS = 3
log = logging.getLogger(__name__)


class Params(BaseModel):
    algorithm: Algorithm = Field(
        "hdbscan", description="hdbscan, dbscan and leiden find the number of clusters themselves."
    )
    n_clusters: int | None = Field(
        None,
        ge=2,
        le=100,
        validation_alias=AliasChoices("n_clusters", "num_clusters"),
        description="Clusters to make; not given: a tenth of the documents, 2 to 8.",
    )
    min_cluster_size: int = Field(
        5, ge=2, le=100, description="hdbscan, dbscan, leiden: members at least; a third of all at most."
    )
    feature_uri: str | None = Field(None, description="The vectors to cluster by; not given: those of the last search.")
    output_mode: Literal["clusters", "labeled", "representatives"] = Field(
        "clusters",
        description="clusters: one document a cluster, with its members; labeled: the documents with cluster_id, "
        "cluster_label and cluster_score (distance to the centre); representatives: the one document nearest to each.",
    )
    include_centroids: bool = Field(True, description="clusters: with the centre of each.")
    max_members_per_cluster: int = Field(50, ge=1, le=500, description="clusters: members listed, the nearest first.")
    label_clusters: bool = Field(True, description="Name the clusters by the words that tell them apart.")
    include_outliers: bool = Field(True, description="clusters: what belongs to no cluster is listed as cluster -1.")
    content_field: FieldPath | None = Field(None, description="The text for the names; not given: the first there is.")


@dataclass(slots=True)
class _Cluster:
    number: int
    members: list[Hit]
    """The nearest to the centre first."""
    distances: list[float]
    centroid: list[float]
    words: list[str]

    @property
    def label(self) -> str:
        if self.number == OUTLIER:
            return "outliers"
        return ", ".join(self.words[:LABEL_WORDS]) or f"cluster {self.number}"


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    params = dict(raw)
    rename(params, "feature_uri", "embedding_field")
    known_feature(params.get("feature_uri"), collections, "feature_uri")
    return params


@stage(
    "cluster",
    kind="group",
    params=Params,
    use_cases=("See the topics among the results", "Pick one representative of each kind"),
    icon="boxes",
    cost_tier="moderate",
    needs=(Need("clustering"),),
    example={"algorithm": "kmeans", "n_clusters": 5},
    prepare=_prepare,
)
async def cluster(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Find groups of documents that are alike by their vectors, and name them by the words that tell them apart.

    Documents without a vector belong to no cluster. The same documents always give the same clusters.
    """
    ctx.metadata.update(algorithm=params.algorithm, n_clusters=0, sizes=[], outliers=0)
    if not hits:
        return hits
    require_sklearn()
    space = await _space(hits, params, ctx)
    if space is None:
        return hits
    try:
        # tens of milliseconds of computing: not on the event loop
        clusters = await asyncio.to_thread(_cluster, hits, space, params)
    except (ValueError, np.linalg.LinAlgError) as error:
        log.warning("clustering failed", exc_info=error)
        ctx.degrade(f"{params.algorithm} could not cluster these documents: {error}", "try another algorithm")
        return hits
    real = [entry for entry in clusters if entry.number != OUTLIER]
    outliers = sum(len(entry.members) for entry in clusters if entry.number == OUTLIER)
    ctx.metadata.update(n_clusters=len(real), sizes=[len(entry.members) for entry in real], outliers=outliers)
    return _shown(hits, clusters, real, params)


def _shown(hits: list[Hit], clusters: list[_Cluster], real: list[_Cluster], params: Params) -> list[Hit]:
    if params.output_mode == "labeled":
        return _labeled(hits, clusters)
    if params.output_mode == "representatives":
        return [_about(entry.members[0], entry, entry.distances[0]) for entry in real]
    return [_row(entry, params) for entry in (clusters if params.include_outliers else real)]


async def _space(hits: list[Hit], params: Params, ctx: StageContext) -> Space | None:
    """The vectors to cluster: of one model, at most 2,000."""
    uri = params.feature_uri or searched_feature(ctx)
    spaces = await vector_spaces(hits, uri, ctx.collections, ctx) if uri else []
    if not spaces:
        ctx.degrade(f"no document has a vector for '{uri or ''}': nothing was clustered", "give feature_uri")
        return None
    space = spaces[0]
    if len(space.rows) > MAX_CLUSTERED:
        ctx.limit("clustered_documents", len(space.rows), MAX_CLUSTERED)
        space.rows, space.vectors = space.rows[:MAX_CLUSTERED], space.vectors[:MAX_CLUSTERED]
    without = len(hits) - len(space.rows)
    if without:
        ctx.metadata["without_vector"] = without
        ctx.warn(f"{without} documents are in no cluster: they have no vector for '{uri}' by the same model")
    return space


def _cluster(hits: list[Hit], space: Space, params: Params) -> list[_Cluster]:
    vectors = unit_rows(space.matrix)
    count = params.n_clusters or max(2, min(8, len(vectors) // 10))
    labels = label(vectors, params.algorithm, count, params.min_cluster_size)
    numbers = sorted(set(labels.tolist()), key=lambda number: (number == OUTLIER, number))
    made = [_one(hits, space.rows, vectors, labels, number) for number in numbers]
    if params.label_clusters:
        _name(made, params)
    return made


def _one(hits: list[Hit], rows: list[int], vectors: Matrix, labels: Labels, number: int) -> _Cluster:
    own = np.flatnonzero(labels == number)
    centre = vectors[own].mean(axis=0)
    distances = np.linalg.norm(vectors[own] - centre, axis=1)
    order = np.argsort(distances, kind="stable")
    members = [hits[rows[own[place]]] for place in order]
    return _Cluster(number, members, [float(distances[place]) for place in order], centre.tolist(), [])


def _name(clusters: list[_Cluster], params: Params) -> None:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    real = [entry for entry in clusters if entry.number != OUTLIER]
    texts = [[text_of(hit, params.content_field) for hit in entry.members] for entry in real]
    for entry, words in zip(real, keywords(texts, KEYWORDS, ENGLISH_STOP_WORDS), strict=True):
        entry.words = words


def _row(entry: _Cluster, params: Params) -> Hit:
    members = [
        {**as_document(hit), "cluster_score": distance}
        for hit, distance in zip(entry.members, entry.distances, strict=True)
    ][: params.max_members_per_cluster]
    payload: dict[str, Any] = {
        "cluster_id": entry.number,
        "cluster_label": entry.label,
        "keywords": entry.words,
        "member_count": len(entry.members),
        "members": members,
    }
    if params.include_centroids:
        payload["centroid"] = entry.centroid
    score = max(hit.score for hit in entry.members)
    return Hit(f"cluster_{entry.number}", "", score, payload, {"_members": "members"})


def _labeled(hits: list[Hit], clusters: list[_Cluster]) -> list[Hit]:
    for entry in clusters:
        for hit, distance in zip(entry.members, entry.distances, strict=True):
            _about(hit, entry, distance)
    return hits


def _about(hit: Hit, entry: _Cluster, distance: float) -> Hit:
    write_field(hit, "cluster_id", entry.number)
    write_field(hit, "cluster_label", entry.label)
    write_field(hit, "cluster_score", distance)
    write_field(hit, "cluster_size", len(entry.members))
    return hit
